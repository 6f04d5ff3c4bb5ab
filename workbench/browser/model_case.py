"""The end of a certificate: a whole model beside its references in f64.

A case is a greedy text and some windows of one converted model: what its PyTorch references give of them in f64, and
how far a logit may be off. `certificate_model.js` plays it where a page computes, `native` on a device of this process.

The bound of a logit is `SLACK` times as far as PyTorch's own f32 is off from its f64 on the same tokens, after tests of
attention kernels that hold them to a small multiple of PyTorch's error (FlashAttention, Dao et al. 2022, tests of
their code). What follows from it: where the likeliest two logits are closer than twice the bound, either may be taken;
and -ln p of a token, a difference of a logit and of a mean of logits, is off by twice the bound at most.
"""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eval.named_texts import embedded_text
from eval.protocols import protocol
from eval.texts import encode
from workbench.assets import demo_model_path
from workbench.convert.convert import convert
from workbench.convert.options import ConvertOptions
from workbench.errors import WorkbenchError
from workbench.formats import manifest
from workbench.formats.text import parse_format
from workbench.models.families import architecture_of
from workbench.models.source import Source, open_source
from workbench.runtime.export import DECODE, export_programs
from workbench.runtime.model import Model
from workbench.runtime.torch_executor import TorchExecutor

#: Tokens of the greedy text, and of what it continues, at most.
COUNT, PROMPT = 64, 85
#: Logits are compared after the prompt, and after each so many tokens.
EVERY = 8
WINDOWS = 4
TEXT, PROTOCOL = "evaluation", "disjoint-256"
SLACK = 16
#: Weights in f64 that the references may hold.
MOST_BYTES = 8 << 30
#: How the embedded model is quantized.
FORMAT = "int4"
#: Ends of the programs that a case needs.
HEADS = ("last", "score", DECODE[0])


@dataclass(frozen=True, eq=False)
class ModelCase:
    """What the references give of one model, in nats where it is no logit.

    manifest_sha256: of the converted model. prompt, tokens: ids, and the greedy ones behind them. gaps: f64 [tokens],
    how far the likeliest logit stands above the next. logits: f32 [n, vocab], after the prompt and after each `EVERY`
    tokens. bound: how far one may be off. windows: ids under `scheme`; nll: f64, the mean -ln p of the targets of each.
    files: the folder that a page plays, by path; None for a page that has it.
    """

    name: str
    manifest_sha256: str
    prompt: list[int]
    tokens: list[int]
    gaps: np.ndarray
    logits: np.ndarray
    bound: float
    scheme: str
    windows: list[list[int]]
    nll: list[float]
    files: Mapping[str, bytes] | None = field(default=None, repr=False)

    def packed(self, tensor: Callable[[np.ndarray], int]) -> dict[str, Any]:
        """JSON values; arrays are the numbers that `tensor` gives for them."""
        files = None
        if self.files is not None:
            files = {name: tensor(np.frombuffer(data, np.uint8)) for name, data in self.files.items()}
        return {
            "name": self.name,
            "manifest_sha256": self.manifest_sha256,
            "reference": "PyTorch, f64",
            "prompt": self.prompt,
            "tokens": self.tokens,
            "every": EVERY,
            "gaps": tensor(self.gaps),
            "logits": tensor(self.logits),
            "bound": self.bound,
            "protocol": self.scheme,
            "windows": self.windows,
            "nll": self.nll,
            "files": files,
        }

    def judged(self, tokens: Sequence[int], logits: np.ndarray, nll: Sequence[float]) -> dict[str, Any]:
        """What a certificate says of a model that gave these, the same as `judgedModel` of certificate_model.js.

        tokens: ids [tokens]; logits [n, vocab]; nll: the mean of each window.
        """
        places = (n for n, (here, there) in enumerate(zip(tokens, self.tokens, strict=True)) if here != there)
        at = next(places, None)
        first = None
        if at is not None:
            first = {"at": at, "here": tokens[at], "there": self.tokens[at], "gap": float(self.gaps[at])}
        difference = np.abs(np.asarray(logits, np.float64) - self.logits)
        largest = float(np.where(np.isnan(difference), np.inf, difference).max())
        sizes = np.array([len(each) - 1 for each in self.windows])
        ppl = [math.exp(min(np.dot(each, sizes) / sizes.sum(), 700)) for each in (nll, self.nll)]
        moved = float(np.abs(np.subtract(nll, self.nll)).max())
        tied = first is None or first["gap"] <= 2 * self.bound
        within = tied and largest <= self.bound and moved <= 2 * self.bound
        return {
            **self.facts(),
            "status": "within" if within else "beyond",
            "tokens": {
                "count": len(self.tokens),
                "equal": len(self.tokens) if at is None else at,
                "first": first,
            },
            "logits": {"compared": int(self.logits.size), "largest": largest, "bound": self.bound},
            "perplexity": {
                "protocol": self.scheme,
                "windows": len(sizes),
                "tokens": int(sizes.sum()),
                "here": ppl[0],
                "there": ppl[1],
                "largest_nll_difference": moved,
            },
        }

    def facts(self) -> dict[str, Any]:
        """Which model, and what it is compared with."""
        return {"name": self.name, "manifest_sha256": self.manifest_sha256, "reference": "PyTorch, f64"}


@contextmanager
def embedded() -> Iterator[Path]:
    """The embedded model in `FORMAT`, rounded to nearest, as a folder that is there meanwhile."""
    with tempfile.TemporaryDirectory(prefix="workbench-certify-") as folder:
        path = Path(folder) / f"demo-model-{FORMAT}"
        convert(demo_model_path(), path, ConvertOptions(parse_format(FORMAT)))
        yield path


def fits(source: Source) -> bool:
    """Whether the references of a model can be computed: its weights in f64 are `MOST_BYTES` at most."""
    return 8 * sum(math.prod(source.describe(name)[0]) for name in source.names()) <= MOST_BYTES


def model_case(path: str | Path, max_tokens: int, *, carried: bool = False) -> ModelCase:
    """The case of a converted model, as the references compute it.

    max_tokens: positions of the programs' cache. carried: model and programs go with the case. Raises WorkbenchError
    for a model that is too large (`fits`), or whose cache is too short for a text and a window.
    """
    source = open_source(path)
    config = architecture_of(source.config)
    capacity = min(max_tokens, config.context_length)
    if not fits(source):
        raise WorkbenchError(f"{source.path}: its references need more than {MOST_BYTES >> 30} GiB")
    if capacity < 2 * EVERY:
        raise WorkbenchError(f"{source.path}: {capacity} positions; a certificate needs {2 * EVERY}")
    exact, single = (_references(source, config, capacity, each) for each in (torch.float64, torch.float32))
    scheme = protocol(PROTOCOL).within(capacity)
    windows = scheme.windows(encode(exact.tokenizer, embedded_text(TEXT), scheme).ids)
    count = min(COUNT, capacity // 2 // EVERY * EVERY)
    prompt = windows[WINDOWS].ids[: min(PROMPT, capacity - count)].tolist()
    with closing(exact.session()) as session:
        rows = [session.feed(prompt)]
        while len(rows) <= count:
            rows.append(session.feed([int(rows[-1].argmax())]))
    all_rows = np.stack(rows)
    tokens = all_rows[:-1].argmax(-1).tolist()
    top = np.sort(all_rows[:-1], axis=-1)[:, -2:]
    logits = all_rows[::EVERY]
    off = np.abs(teacher_forced(single, prompt, tokens) - logits).max()
    smallest = np.finfo(np.float32).eps * np.abs(logits).max()
    chosen = windows[:WINDOWS]
    return ModelCase(
        name=Path(source.path).resolve().name,
        manifest_sha256=hashlib.sha256((Path(source.path) / manifest.FILE).read_bytes()).hexdigest(),
        prompt=prompt,
        tokens=tokens,
        gaps=top[:, 1] - top[:, 0],
        logits=logits.astype(np.float32),
        bound=float(SLACK * max(off, smallest)),
        scheme=scheme.name,
        windows=[each.ids.tolist() for each in chosen],
        nll=[float(exact.score(each.ids).nll.mean()) for each in chosen],
        files=_files(source, capacity) if carried else None,
    )


def teacher_forced(model: Model, prompt: list[int], tokens: list[int]) -> np.ndarray:
    """Logits [n, vocab] after the prompt, and after each `EVERY` of the tokens."""
    with closing(model.session()) as session:
        found = [session.feed(prompt)]
        found += [session.feed(tokens[n : n + EVERY]) for n in range(0, len(tokens), EVERY)]
    return np.stack(found)


def native(model: Model, case: ModelCase) -> dict[str, Any]:
    """The case on a model that is loaded, as `certificate_model.js` gives it."""
    with closing(model.session()) as session:
        session.feed(case.prompt)
        tokens = session.greedy(len(case.tokens))
    logits = teacher_forced(model, case.prompt, case.tokens)
    return case.judged(tokens, logits, [float(model.score(each).nll.mean()) for each in case.windows])


def _references(source: Source, config: Any, capacity: int, compute: torch.dtype) -> Model:
    return Model(source, config, lambda: TorchExecutor(source, config, compute=compute), [], capacity)


def _files(source: Source, capacity: int) -> dict[str, bytes]:
    """What a page loads: the model's manifest and shards, and programs in f32."""
    folder = Path(source.path)
    names = [manifest.FILE, *manifest.parse((folder / manifest.FILE).read_bytes()).shards]
    found = {f"model/{name}": (folder / name).read_bytes() for name in names}
    with tempfile.TemporaryDirectory() as made:
        export_programs(source, Path(made) / "programs", max_tokens=capacity, heads=HEADS, types=("f32",))
        for path in sorted((Path(made) / "programs").iterdir()):
            found[f"programs/{path.name}"] = path.read_bytes()
    return found
