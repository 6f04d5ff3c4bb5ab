"""A sweep as a TOML file: axes, whose product are the cells, with includes and excludes.

    [sweep]                       # all optional
    output = "runs/blocks"        # default runs/NAME-OF-THE-FILE
    backend = "torch"             # or "wgpu"
    dtype = "f32"
    baseline_dtype = "f32"
    max_windows = 40
    paired = true
    speed = false                 # measure tokens a second too
    keep_logits_mib = 4096        # of a baseline, for the KL of its cells

    [texts.stories]               # or dataset = "wikitext2"; file = "embedded" is the package's own
    file = "stories.txt"
    separator = "<|endoftext|>"

    [grid]
    model = ["checkpoint", {name = "mine", path = "other/checkpoint"}, "embedded", "owner/name"]
    format = ["f16", "int8/channel", "int4", "int2/z5"]
    block_size = [32, 128]        # of the formats that name no granularity; default the format's own, fitted to rows
    quantizer = ["rtn", {quantizer = "hqq", embedding = "f16"}]
    protocol = ["disjoint-512", {protocol = "wikitext2-gptq-512", text = "wikitext2", max_windows = 8}]

    [options]                     # of every conversion: fields of ConvertOptions
    embedding = "f32"

    [[exclude]]                   # keys of [grid], and text; a value, a pattern, or a list of them
    format = "int2*"
    quantizer = "rtn"

    [[include]]                   # further cells, given as in [grid]
    model = "embedded"
    format = "int2/64"
    protocol = "disjoint-512"

Paths are relative to the file; `~` is the home folder.
"""

from __future__ import annotations

import itertools
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from eval.named_texts import EMBEDDED as CALIBRATION_TEXTS
from eval.texts import DATASETS
from workbench.errors import SweepError, WorkbenchError
from workbench.files.reading import read_text, require_regular
from workbench.formats.errors import FormatError
from workbench.formats.spec import DEFAULT_BLOCK
from workbench.formats.text import parse_format
from workbench.models.catalogue import catalogue
from workbench.models.hub import FILES, HUB_ID, is_model_path

from .cells import EMBEDDED, Cell, TextSource, option_names, with_text_files
from .store import require_folder
from .sweep import KEEP_LOGITS

AXES = ("model", "format", "block_size", "quantizer", "protocol")
_SECTIONS = ("sweep", "texts", "grid", "options", "include", "exclude")
_SWEEP = {
    "output": str,
    "backend": str,
    "dtype": str,
    "baseline_dtype": str,
    "max_windows": int,
    "paired": bool,
    "speed": bool,
    "keep_logits_mib": int,
}
_TYPES = {str: "a string", int: "an integer", bool: "true or false", dict: "a table", list: "a list"}
#: Separator of the embedded text.
_SEPARATOR = "<|endoftext|>"


@dataclass(frozen=True)
class Spec:
    """What a file describes. output: the folder it asks for."""

    name: str
    output: Path
    cells: tuple[Cell, ...]
    keep_logits: int


def read_spec(path: str | Path) -> Spec:
    """Raises SweepError naming file, key, value and what is allowed."""
    path = Path(path)
    try:
        values = tomllib.loads(read_text(path))
    except OSError as error:
        raise SweepError(f"sweep {path}: cannot be read ({error.strerror or error})") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SweepError(f"sweep {path}: is not TOML: {error}") from error
    try:
        return _Reader(values, path.parent).spec(path.stem)
    except (WorkbenchError, FormatError) as error:
        raise SweepError(f"sweep {path}: {error}") from error


class _Reader:
    def __init__(self, values: Mapping[str, Any], base: Path) -> None:
        self._base = base
        _known("", values, _SECTIONS)
        self._sweep = _table(values, "sweep")
        _known("sweep", self._sweep, _SWEEP)
        for name, value in self._sweep.items():
            _typed(f"sweep.{name}", value, _SWEEP[name])
        for name, least in (("max_windows", 1), ("keep_logits_mib", 0)):
            _at_least(f"sweep.{name}", self._sweep.get(name), least)
        self._options = _table(values, "options")
        _known("options", self._options, [name for name in option_names() if name != "quantizer"])
        self._texts = {name: self._text(name, text) for name, text in _table(values, "texts").items()}
        self._grid = _table(values, "grid")
        _known("grid", self._grid, AXES)
        self._include, self._exclude = _tables(values, "include"), _tables(values, "exclude")
        for index, rule in enumerate(self._exclude):
            _known(f"exclude[{index}]", rule, (*AXES, "text"))
            if not rule:
                raise SweepError(f"exclude[{index}] names nothing; allowed: {', '.join((*AXES, 'text'))}")

    def spec(self, name: str) -> Spec:
        cells = []
        used = [False] * len(self._exclude)
        if self._grid:
            for entry, cell in self._cells("grid", self._grid):
                hits = [_matches(rule, entry) for rule in self._exclude]
                used = [one or hit for one, hit in zip(used, hits, strict=True)]
                if not any(hits):
                    cells.append(cell)
        for index, was_used in enumerate(used):
            if not was_used:
                raise SweepError(f"exclude[{index}] = {self._exclude[index]} matches no cell of the grid")
        for index, extra in enumerate(self._include):
            where = f"include[{index}]"
            _known(where, extra, AXES)
            cells += [cell for _, cell in self._cells(where, extra)]
        if not cells:
            raise SweepError("describes no cell; [grid] needs at least model, format and protocol")
        keep = self._sweep.get("keep_logits_mib")
        output = self._path(self._sweep.get("output", f"runs/{name}"))
        try:
            require_folder(output)
        except SweepError as error:
            raise SweepError(
                f"sweep.output = {self._sweep.get('output', f'runs/{name}')!r}: {error}"
            ) from error
        return Spec(name, output, tuple(cells), KEEP_LOGITS if keep is None else keep << 20)

    def _path(self, text: str) -> Path:
        """A path of the file, which is relative to its folder."""
        return Path(os.path.abspath(self._base / Path(text).expanduser()))

    def _cells(self, where: str, axes: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], Cell]]:
        """The product of the axes: what an exclude rule sees, and the cell; formats without blocks come once."""
        for axis in ("model", "format", "protocol"):
            if axis not in axes:
                raise SweepError(f"{where}.{axis} is missing")
        lists = {axis: _list(axes.get(axis, _default(axis))) for axis in AXES}
        for axis, entries in lists.items():
            if not entries:
                raise SweepError(f"{where}.{axis} is an empty list")
        models = [self._model(f"{where}.model[{i}]", each) for i, each in enumerate(lists["model"])]
        formats = list(self._formats(where, lists["format"], lists["block_size"]))
        quantizers = [self._quantizer(f"{where}.quantizer[{i}]", q) for i, q in enumerate(lists["quantizer"])]
        protocols = [self._protocol(f"{where}.protocol[{i}]", p) for i, p in enumerate(lists["protocol"])]
        seen = set()
        for (name, path), (form, block), options, (scheme, text, windows) in itertools.product(
            models, formats, quantizers, protocols
        ):
            if not parse_format(form).is_quantized:
                options = {key: value for key, value in options.items() if key != "quantizer"}
            entry = {
                "model": name,
                "format": form,
                "block_size": block,
                "quantizer": options.get("quantizer", ""),
                "protocol": scheme,
                "text": text,
            }
            if (mark := repr((path, form, sorted(options.items(), key=str), scheme, text, windows))) in seen:
                continue
            seen.add(mark)
            try:
                cell = self._cell(name, path, {"format": form, **options}, scheme, text, windows)
            except (WorkbenchError, FormatError) as error:
                described = ", ".join(f"{key} = {value!r}" for key, value in entry.items() if value != "")
                raise SweepError(f"{where}: the cell {described}: {error}") from error
            yield entry, cell

    def _cell(self, name, path, options, scheme, text, windows) -> Cell:
        common = {
            key: self._sweep[key]
            for key in ("backend", "dtype", "baseline_dtype", "paired", "speed")
            if key in self._sweep
        }
        if windows is None:
            windows = self._sweep.get("max_windows")
        return Cell(path, scheme, self._texts[text], options, max_windows=windows, name=name, **common)

    def _model(self, where: str, entry: Any) -> tuple[str, str]:
        """Name and path, or hub id."""
        entry = {"path": entry} if isinstance(entry, str) else entry
        _typed(where, entry, dict)
        _known(where, entry, ("name", "path"))
        path = _typed(f"{where}.path", entry.get("path"), str)
        if path != EMBEDDED:
            path = self._path_or_hub_id(f"{where} = {path!r}", path)
        return _typed(f"{where}.name", entry.get("name", Path(path).name), str), path

    def _path_or_hub_id(self, where: str, text: str) -> str:
        if text and is_model_path(found := self._path(text)):
            return str(found.resolve())
        if (HUB_ID.fullmatch(text) or text in catalogue()) and not Path(text).exists():
            return text
        raise SweepError(
            f"{where} is not a folder beside the file, a hub id or a name in `workbench models`; allowed: a folder, "
            f"a {' or '.join(FILES)} file, owner/name, a name of the catalogue, {EMBEDDED!r}"
        )

    def _formats(self, where: str, formats: list, blocks: list) -> Iterator[tuple[str, Any]]:
        """Format as text, and its block size or granularity."""
        for (i, text), (j, block) in itertools.product(enumerate(formats), enumerate(blocks)):
            place = f"{where}.format[{i}]"
            _typed(place, text, str)
            try:
                plain = parse_format(text)
            except (WorkbenchError, FormatError) as error:
                raise SweepError(f"{place} = {text!r}: {error}") from error
            own = any(part.isdecimal() or part in ("block", "channel", "tensor") for part in text.split("/"))
            if plain.is_quantized and not own and block is not None:
                place = f"{where}.block_size[{j}]"
                if type(block) is not int and block not in ("channel", "tensor"):
                    raise SweepError(f"{place} = {block!r}; allowed: a multiple of 32, 'channel' or 'tensor'")
                try:
                    plain = parse_format(f"{text}/{block}")
                except (WorkbenchError, FormatError) as error:
                    raise SweepError(f"{place} = {block!r}: {error}") from error
            size = DEFAULT_BLOCK[plain.dtype] if plain.default_block else plain.block_size
            yield str(plain), size or plain.granularity

    def _quantizer(self, where: str, entry: Any) -> dict[str, Any]:
        """Options of a conversion beside its format: the table's own before those of [options]."""
        entry = {"quantizer": entry} if isinstance(entry, str) else entry
        _typed(where, entry, dict)
        _known(where, entry, option_names())
        _typed(f"{where}.quantizer", entry.get("quantizer"), str)
        options = with_text_files({**self._options, **entry}, self._base)
        for name, value in options.items():
            text = value.get("text") if isinstance(value, Mapping) else None
            if isinstance(text, str) and text not in CALIBRATION_TEXTS:
                allowed = f"a file, {', '.join(map(repr, CALIBRATION_TEXTS))}"
                _require_file(f"{where}: {name}.text = {text!r}", Path(text), allowed)
        return options

    def _protocol(self, where: str, entry: Any) -> tuple[str, str, int | None]:
        """Protocol, name of the text, windows."""
        entry = {"protocol": entry} if isinstance(entry, str) else entry
        _typed(where, entry, dict)
        _known(where, entry, ("protocol", "text", "max_windows"))
        scheme = _typed(f"{where}.protocol", entry.get("protocol"), str)
        names = ", ".join(self._texts) or "none: add a table [texts.NAME]"
        if "text" not in entry and len(self._texts) != 1:
            raise SweepError(f"{where} = {scheme!r} names no text; allowed: text = one of {names}")
        text = _typed(f"{where}.text", entry.get("text", next(iter(self._texts), "")), str)
        if text not in self._texts:
            raise SweepError(f"{where}.text = {text!r} is not a table of [texts]; allowed: {names}")
        return scheme, text, _at_least(f"{where}.max_windows", entry.get("max_windows"), 1)

    def _text(self, name: str, entry: Any) -> TextSource:
        where = f"texts.{name}"
        _typed(where, entry, dict)
        _known(where, entry, ("file", "dataset", "separator"))
        if ("file" in entry) == ("dataset" in entry):
            raise SweepError(f"{where} needs either file or dataset")
        separator = entry.get("separator")
        if separator is not None and not _typed(f"{where}.separator", separator, str):
            raise SweepError(f"{where}.separator = ''; allowed: what stands between documents")
        if "dataset" in entry:
            name = _typed(f"{where}.dataset", entry["dataset"], str)
            if name not in DATASETS:
                raise SweepError(
                    f"{where}.dataset = {name!r} is unknown; allowed: {', '.join(sorted(DATASETS))}"
                )
            return TextSource(name, separator, dataset=True)
        file = _typed(f"{where}.file", entry["file"], str)
        if file == EMBEDDED:
            return TextSource(EMBEDDED, _SEPARATOR if separator is None else separator)
        path = self._path(file)
        _require_file(f"{where}.file = {file!r}", path, f"a UTF-8 file, {EMBEDDED!r}")
        return TextSource(str(path.resolve()), separator)


def _default(axis: str) -> Any:
    return {"block_size": None, "quantizer": "rtn"}.get(axis)


def _list(value: Any) -> list:
    return value if isinstance(value, list) else [value]


def _matches(rule: Mapping[str, Any], entry: Mapping[str, Any]) -> bool:
    """Whether every key of a rule names the entry's value: equal to it, or a pattern that it matches."""
    return all(
        any(fnmatchcase(str(entry[key]), str(wanted)) for wanted in _list(value))
        for key, value in rule.items()
    )


def _known(where: str, values: Mapping[str, Any], allowed) -> None:
    for name in values:
        if name not in allowed:
            place = f"{where}.{name}" if where else f"[{name}]"
            raise SweepError(f"{place} is unknown; allowed: {', '.join(allowed)}")


def _typed(where: str, value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise SweepError(f"{where} = {value!r}; allowed: {_TYPES[kind]}")
    return value


def _at_least(where: str, value: Any, least: int) -> Any:
    """None, or an integer that is no smaller."""
    if value is not None and (type(value) is not int or value < least):
        raise SweepError(f"{where} = {value!r}; allowed: an integer of at least {least}")
    return value


def _require_file(where: str, path: Path, allowed: str) -> None:
    try:
        require_regular(path)
    except OSError as error:
        raise SweepError(f"{where}: {path} cannot be read ({error.strerror}); allowed: {allowed}") from error


def _table(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    return _typed(f"[{name}]", values.get(name, {}), dict)


def _tables(values: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    found = _typed(f"[[{name}]]", values.get(name, []), list)
    return [_typed(f"{name}[{index}]", each, dict) for index, each in enumerate(found)]
