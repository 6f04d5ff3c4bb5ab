"""A folder for any web server, in which a converted model runs in the browser, or two beside each other.

    OUT/
      index.html, style.css, app.js   the page; sw.js: what answers without a network
      page.json                       kind, version, name, the tokens that end a text, a text with its ids, the chat
                                      template with a conversation and its ids, all files that are kept with the page
      browser/                        the modules that play programs, and the tokenizer's library
      model/                          the converted model, as it is
      programs/                       what `export-program` writes, of what pages play
      beside/model/, beside/programs/ of a second model, where there is one: the page is then one that compares the two

Nothing in it needs a build step, and nothing is fetched from anywhere else.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

from workbench.errors import WorkbenchError
from workbench.files.folders import Partial
from workbench.files.writing import storing
from workbench.formats import manifest
from workbench.models.chat import chat_ids
from workbench.models.families import architecture_of
from workbench.models.source import open_source
from workbench.models.tokenizer import end_of_text_ids, load_tokenizer, tokenizer_hash
from workbench.runtime.export import TOGETHER, export_programs, types_for
from workbench.show.progress import Progress

from . import certify_in
from .certificate import pack
from .model_case import fits, model_case

KIND = "webgpu-quant-workbench/page"
VERSION = 1
FILE = "page.json"
#: Spaces, digits, contractions, accents, other scripts and a character of several bytes: what tokenizers differ in.
SAMPLE = "Once upon a time, 1234 cats didn't say:  naïve café – 東京!\n\n\tfor (i = 0; i < 10; i++) 🙂"
#: Two turns and the beginning of a third: what chat templates differ in.
TALK = [
    {"role": "user", "content": "Is 2 < 3?"},
    {"role": "assistant", "content": "Yes.\n"},
    {"role": "user", "content": "  Why? 🙂"},
]
#: Of what is vendored, for those who work on the modules.
_TYPES = shutil.ignore_patterns("*.d.ts")
#: What a browser keeps elsewhere, or loads one of.
_LOADED_APART = re.compile(r"(beside/)?(model/.*\.wgpu|programs/(f32|f16|int8)-)|certif")
#: Ends of the programs that pages play: of all, of one model and of two, and of what certifies an adapter with it.
_PLAYED, _OF_ONE, _OF_TWO, _CERTIFYING = ("last", "greedy", "draw"), TOGETHER, "all", "score"


@dataclass(frozen=True)
class Page:
    """What was written. nbytes: of all files, of which a browser loads the model and one kind of adapter's programs."""

    path: Path
    nbytes: int


def write_page(
    model: str | Path,
    output: str | Path,
    *,
    beside: str | Path | None = None,
    activations: Sequence[str] | None = None,
    max_tokens: int = 2048,
    certificate: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Page:
    """Write the page of a converted model, whole or not at all.

    beside: another model with the same tokenizer; both then continue one prompt or read one text, and the page shows
    KL(model || beside) by token. activations: "f32", "f16" and "int8", those that the page offers where an adapter has
    what they need; it begins with the first of them (default: f32 and the others that the models can have). max_tokens:
    positions of the cache. certificate: with a page that certifies its reader's adapter, with this model, in f32, where
    its references fit into memory (`model_case.fits`). Raises WorkbenchError for a model that is not converted or not
    stored as a page reads it, for one without tokenizer.json, for activations that it cannot have, for a certificate
    without f32, for two that do not share a tokenizer, and for an output that exists and is no page to be replaced.
    """
    progress = progress or Progress()
    output = Path(output)
    if output.exists() and not (overwrite and (output / FILE).is_file()):
        what = "and holds no page" if overwrite else "give --overwrite to replace it"
        raise WorkbenchError(f"page: {output} exists; {what}")
    source = open_source(model)
    other = None if beside is None else open_source(beside)
    facts = _page(source) | {"certificate": certificate}
    if other is not None:
        facts["names"] = _names(source, other)
    certified = certificate and fits(source)
    types = types_for([each for each in (source, other) if each is not None], activations)
    if certified and "f32" not in types:
        raise WorkbenchError(
            f"page: a certificate is of f32, which activations = {', '.join(types)} leaves out"
        )
    heads = (*_PLAYED, _OF_ONE if other is None else _OF_TWO)
    how = {"types": types, "max_tokens": max_tokens}
    partial = Partial(output)
    try:
        with storing(output):
            _write_model(source, partial.path, (*heads, _CERTIFYING) if certified else heads, how, progress)
            if other is not None:
                _write_model(other, partial.path / "beside", heads, how, progress)
            _copy_modules(partial.path, pair=other is not None)
            if certificate:
                progress.say("what the references give of every kernel, for the certificate")
                case = model_case(source.path, max_tokens) if certified else None
                certify_in.write_page(partial.path, pack(model=case))
            files = [path for path in partial.path.rglob("*") if path.is_file()]
            nbytes = sum(path.stat().st_size for path in files)
            names = [path.relative_to(partial.path).as_posix() for path in files]
            facts["files"] = sorted([FILE, *(name for name in names if not _LOADED_APART.match(name))])
            (partial.path / FILE).write_text(
                json.dumps(facts, ensure_ascii=False, indent=1), encoding="utf-8"
            )
        partial.put_in_place()
    except BaseException:
        partial.remove()
        raise
    return Page(output, nbytes)


def _names(source, other) -> list[str]:
    """What the two models are called. Raises WorkbenchError where they do not share vocabulary and tokenizer."""
    sizes = [architecture_of(each.config).vocab_size for each in (source, other)]
    if len(set(sizes)) > 1 or len({tokenizer_hash(each.tokenizer_path) for each in (source, other)}) > 1:
        raise WorkbenchError(
            f"page: {source.path} and {other.path} do not share vocabulary ({sizes[0]} and {sizes[1]}) and tokenizer; "
            "two models of a page do"
        )
    first, second = (Path(each.path).resolve().name for each in (source, other))
    return [first, second if second != first else f"{second} (2)"]


def _write_model(source, folder: Path, heads: Sequence[str], how: dict, progress: Progress) -> None:
    """A model and its programs, which end in these heads. how: options of `export_programs`."""
    path = Path(source.path)
    folder.mkdir(exist_ok=True)
    progress.say(f"programs for {path.resolve().name}: activations {', '.join(how['types'])}")
    steps = progress.steps("programs", "program")
    export_programs(  # refuses what pages cannot read
        source, folder / "programs", heads=heads, progress=steps, **how
    )
    progress.say(
        f"the model's files: {sum(each.stat().st_size for each in source.weight_files()) / 1e6:.1f} MB"
    )
    _copy_model(path, folder / "model")


def _page(source) -> dict:
    """What the page says and checks beside the model."""
    if not (Path(source.tokenizer_path) / "tokenizer.json").is_file():
        raise WorkbenchError(f"{source.path}: the page's tokenizer reads tokenizer.json, and there is none")
    tokenizer = load_tokenizer(source.tokenizer_path)
    return {
        "kind": KIND,
        "version": VERSION,
        "name": Path(source.path).resolve().name,
        "ends": sorted(end_of_text_ids(source.tokenizer_path, source.config, tokenizer)),
        "sample": {"text": SAMPLE, "ids": list(tokenizer(SAMPLE)["input_ids"])},
        "chat": _chat(tokenizer),
    }


def _chat(tokenizer) -> dict | None:
    """The chat template, what it may name, and what it makes of a conversation; None without one that takes it."""
    if not getattr(tokenizer, "chat_template", None):
        return None
    template = tokenizer.get_chat_template()
    try:
        ids = chat_ids(tokenizer, TALK)
    except WorkbenchError:  # it refuses an ordinary conversation
        return None
    tokens = {
        name: str(token) for name, token in tokenizer.special_tokens_map.items() if name.endswith("_token")
    }
    dated = "strftime_now" in template
    return {
        "template": template,
        "tokens": tokens,
        "sample": None if dated else {"messages": TALK, "ids": ids},
    }


def _copy_model(model: Path, target: Path) -> None:
    """The files that the manifest names, and nothing that lies beside them."""
    found = manifest.parse((model / manifest.FILE).read_bytes())
    names = [
        manifest.FILE,
        *found.shards,
        *(f"{manifest.TOKENIZER_FOLDER}/{name}" for name in found.tokenizer),
    ]
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(model / name, target / name)


def _copy_modules(target: Path, *, pair: bool) -> None:
    """The page at the top, and the modules below `browser`."""
    with as_file(files("workbench.browser")) as package:
        for folder in ("static", "pair") if pair else ("static",):
            shutil.copytree(package / folder, target, dirs_exist_ok=True)
        shutil.copytree(package / "vendor", target / "browser" / "vendor", ignore=_TYPES)
        for module in package.glob("*.js"):
            shutil.copyfile(module, target / "browser" / module.name)
