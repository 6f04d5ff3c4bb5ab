"""What decides a cell's result, and the key made of it: files are found by what they hold, not by their names.

A key is the beginning of the sha256 of the identity as JSON. The identity holds hashes of the source checkpoint and of
the text, the conversion's options, protocol, backend and dtype, the hash of this project's code that computes
numbers, and the versions of the packages that do. Names, paths and the machine are not in it.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from importlib import metadata
from pathlib import Path
from typing import Any

import eval
import wgsl_kernels
import workbench
from workbench.convert.options import ConvertOptions
from workbench.errors import SweepError
from workbench.formats.reader import StoredModel
from workbench.known import known
from workbench.models.source import open_source

from .cells import Cell

KEY_DIGITS = 24
#: Rooms whose code changes numbers; that of sweeps, tables and commands does not.
ROOMS = ("formats", "models", "plan", "quantizers", "convert", "runtime")
_SUFFIXES = (".py", ".wgsl")


def digest(value: Any) -> str:
    """sha256 of a JSON value."""
    plain = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(plain.encode()).hexdigest()


@functools.cache
def code_sha256() -> str:
    """Of the sources of everything that computes a number of a cell."""
    root = Path(workbench.__file__).parent
    folders = [root / room for room in ROOMS] + [Path(known(p.__file__)).parent for p in (wgsl_kernels, eval)]
    found = hashlib.sha256()
    for folder in folders:
        for path in sorted(p for p in folder.rglob("*") if p.suffix in _SUFFIXES):
            name = f"{folder.name}/{path.relative_to(folder).as_posix()}"
            found.update(name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()


def code(backend: str) -> dict[str, str]:
    """Code and package versions that a result rests on. Build suffixes (`+cpu`) are left out, so that the machines
    of a cluster may have different builds of one version."""
    packages = ("numpy", "tokenizers", "torch", *(("wgpu",) if backend == "wgpu" else ()))
    return {"workbench": code_sha256(), **{p: metadata.version(p).partition("+")[0] for p in packages}}


class Identities:
    """Makes identities; each checkpoint and text is hashed once."""

    def __init__(self) -> None:
        self._sources: dict[str, str] = {}
        self._texts: dict[tuple[str, bool], str] = {}

    def source(self, model: str) -> str:
        """sha256 over the hashes of a model's files; what opening it raises."""
        if model not in self._sources:
            self._sources[model] = digest(source_hashes(model))
        return self._sources[model]

    def text(self, cell: Cell) -> str:
        """sha256 of a cell's text."""
        place = cell.text.location, cell.text.dataset
        if place not in self._texts:
            self._texts[place] = cell.text.load().sha256
        return self._texts[place]

    def cell(self, cell: Cell) -> dict[str, Any]:
        """What decides a cell's result."""
        return {
            "source": self.source(cell.path),
            "options": None if cell.options is None else plain_options(cell.convert_options()),
            "text": {"sha256": self.text(cell), "separator": cell.text.separator},
            "protocol": cell.protocol,
            "max_windows": cell.max_windows,
            "backend": cell.backend,
            "dtype": cell.dtype,
            "paired": cell.paired and cell.options is not None,
            "baseline_dtype": cell.baseline.dtype if cell.baseline else None,
            "speed": cell.speed,
            "code": code(cell.backend),
        }


def conversion(identity: dict[str, Any]) -> dict[str, Any]:
    """What decides the bytes of a cell's converted model, from the cell's identity."""
    numbers = {name: version for name, version in identity["code"].items() if name != "wgpu"}
    return {"source": identity["source"], "options": identity["options"], "code": numbers}


def key(identity: dict[str, Any]) -> str:
    return digest(identity)[:KEY_DIGITS]


def source_hashes(model: str | Path) -> dict[str, str]:
    """Hashes by file name of what a conversion of `model` reads, as the conversion's provenance has them."""
    source = open_source(model, verify=False)
    if isinstance(source, StoredModel):
        manifest = (Path(source.path) / "manifest.json").read_bytes()
        return {"manifest.json": hashlib.sha256(manifest).hexdigest()}
    return source.source_hashes()


def plain_options(options: ConvertOptions) -> dict[str, Any]:
    """The options that decide the stored bytes, as JSON values: what ConvertOptions says of them, and every field
    that it leaves out there. Options that name a text (they have `read`) are known by the text's hash too."""
    told = options.to_json()
    others = {f.name: getattr(options, f.name) for f in dataclasses.fields(options) if f.name not in told}
    others.pop("overwrite")
    named = {f.name: getattr(options, f.name) for f in dataclasses.fields(options)}
    told |= {f"{name}_sha256": value.read().sha256 for name, value in named.items() if hasattr(value, "read")}
    return {**{name: json.loads(json.dumps(value, default=str)) for name, value in others.items()}, **told}


def require_same_code(expected: dict[str, str], backend: str) -> None:
    """Raise SweepError, naming what differs, unless this process computes as whoever asked expects."""
    here = code(backend)
    for name, wanted in expected.items():
        if here.get(name) != wanted:
            raise SweepError(
                f"this worker has another {name} than the sweep was started with: {here.get(name)}, not {wanted}"
            )
