"""Writing a model: tensors one after the other into shards, then the manifest; complete or not at all.

    with ModelWriter("model", config=config) as writer:
        writer.add(tensor)
        writer.add_file("tokenizer.json", data)

Everything goes into a hidden folder beside the target (`.model.partial-...`), which takes the target's name
when the manifest is written, and is removed if anything goes wrong before. What a killed process leaves of it
is removed by the next one that writes the same target.

A tensor is split by rows into parts, so that no plane of a part exceeds 64 MiB: a WebGPU binding then takes
any plane whole. Every plane starts at a multiple of 256 bytes, and is padded with zeros to the next. Memory
stays at one part, besides what the caller holds.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from workbench.errors import OutputExistsError
from workbench.files.folders import Partial
from workbench.files.writing import flush, storing
from workbench.formats import manifest as rules
from workbench.formats.errors import FormatError
from workbench.formats.layout import LAYOUTS, interleave
from workbench.formats.manifest import Manifest, Part, Plane, StoredTensor, plane_bytes, shard_name
from workbench.formats.tensor import WeightTensor

# Parts hold a multiple of so many rows where possible, so that tiles of kernels do not straddle parts.
ROW_TILE = 32


def checksum(data: bytes | memoryview) -> str:
    """`sha256:` and 64 hexadecimal digits."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _json_value(value: object, field: str) -> Any:
    """A copy of `value` as JSON gives it back; `FormatError` if it is not JSON."""
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise FormatError(f"cannot be written as JSON: {error}", file=rules.FILE, field=field) from None


def part_rows(shape: tuple[int, ...], tensor_format, layout: str) -> Iterator[tuple[int, int]]:
    """The row ranges a tensor is split into. `FormatError` if a single row is larger than a plane may be."""
    rows = shape[0] if shape else 1

    def sizes(count: int) -> dict[str, int]:
        return plane_bytes((count, *shape[1:]) if shape else (), tensor_format, layout)

    one, two = sizes(1), sizes(2 if shape else 1)
    most = rows
    for name, size in one.items():
        if size > rules.MAX_PLANE:
            raise FormatError(
                f"one row has {size} bytes, a plane may have {rules.MAX_PLANE} at most",
                field=f"planes.{name}",
            )
        if each := two[name] - size:
            most = min(most, (rules.MAX_PLANE - size) // each + 1)
    if most < rows and most > ROW_TILE:
        most -= most % ROW_TILE
    for start in range(0, rows, most):
        yield start, min(rows, start + most)


def check_target(path: Path, overwrite: bool) -> None:
    """Raise `OutputExistsError` unless a model may be written at `path`."""
    if not os.path.lexists(path):
        return
    if not path.is_dir() or path.is_symlink():
        raise OutputExistsError(f"{path} is not a folder, so it is not replaced")
    if any(path.iterdir()) and not (path / rules.FILE).is_file():
        raise OutputExistsError(f"{path} is not empty and holds no {rules.FILE}, so it is not replaced")
    if not overwrite:
        raise OutputExistsError(f"{path} exists; give overwrite=True to replace it", path)


class ModelWriter:
    """Writes a model folder; a context manager (see the module's head).

    path        the folder to make; its parents are made too
    config      the model's config.json, kept verbatim
    layout      "planar" or "interleaved" (quantized tensors only; floats are always planar)
    overwrite   replace a model that is already there, once the new one is complete
    provenance  any JSON object: quantizer and options, hashes, seeds, versions

    `precision` may be set until `close`. Raises `OutputExistsError` if the target exists (and, with
    `overwrite`, is not a model), `FormatError` for what the format cannot hold, `StorageError` if the disk is
    full or cannot be written; then nothing stays of what was written.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        config: dict,
        layout: str = "planar",
        overwrite: bool = False,
        provenance: dict | None = None,
    ) -> None:
        if layout not in LAYOUTS:
            raise FormatError(f"{layout!r} is not one of {', '.join(map(repr, LAYOUTS))}", field="layout")
        self.path = Path(path).absolute()
        self.layout = layout
        self.overwrite = overwrite
        self.precision: dict | None = None
        self.provenance = provenance or {}
        self._config = _json_value(config, "config")
        self._tensors: dict[str, StoredTensor] = {}
        self._tokenizer: dict[str, dict] = {}
        self._shards: dict[str, int] = {}
        self._shard = None
        self._state = "open"
        self._partial = Partial(self.path)
        self._folder = self._partial.path
        try:
            with storing(self.path):
                (self._folder / rules.TOKENIZER_FOLDER).mkdir()
            check_target(
                self.path, self.overwrite
            )  # now that a model which was moved away is back in its place
        except BaseException:
            self._partial.remove()
            raise

    def _writable(self) -> None:
        if self._state != "open":
            raise RuntimeError(f"this ModelWriter is {self._state}, nothing can be added to it")

    def add(self, tensor: WeightTensor) -> None:
        """Writes a tensor behind those before it. Its planes may be memory-mapped; it is not kept."""
        self._writable()
        if not rules.TENSOR_NAME.fullmatch(tensor.name):
            raise FormatError(
                "is not a tensor name: 1 to 512 printable ASCII characters without spaces", tensor=tensor.name
            )
        if tensor.name in self._tensors:
            raise FormatError("was already added", tensor=tensor.name)
        layout = self.layout if tensor.format.is_quantized else "planar"
        try:
            ranges = list(part_rows(tensor.shape, tensor.format, layout))
        except FormatError as error:
            raise error.at(tensor=tensor.name) from None
        self._state = "broken by an earlier error"
        parts = []
        for start, stop in ranges:
            piece = tensor.rows(start, stop) if len(ranges) > 1 else tensor
            planes = {"blocks": interleave(piece)} if layout == "interleaved" else piece.planes
            parts.append(Part(start, stop, {name: self._write(plane) for name, plane in planes.items()}))
        self._tensors[tensor.name] = StoredTensor(tensor.shape, tensor.format, layout, tuple(parts))
        self._state = "open"

    def _write(self, plane: np.ndarray) -> Plane:
        """Appends a plane to the last shard, or to a new one if it does not fit."""
        data = np.ascontiguousarray(plane).reshape(-1).view(np.uint8).data
        padding = rules.padded(len(data)) - len(data)
        if self._shard is None or self._shard.tell() + len(data) + padding > rules.MAX_SHARD:
            self._end_shard()
            with storing(self.path):
                self._shard = open(self._folder / shard_name(len(self._shards)), "xb")  # noqa: SIM115
        offset = self._shard.tell()
        with storing(self.path):
            self._shard.write(data)
            self._shard.write(bytes(padding))
        name = Path(self._shard.name).name
        self._shards[name] = self._shard.tell()
        return Plane(name, offset, len(data), checksum(data))

    def _end_shard(self) -> None:
        if self._shard is not None:
            with storing(self.path):
                self._shard.close()
                flush(Path(self._shard.name))
            self._shard = None

    def add_file(self, name: str, data: bytes) -> None:
        """Keeps a file of the tokenizer as tokenizer/`name`."""
        self._writable()
        if not rules.TOKENIZER_NAME.fullmatch(name):
            raise FormatError(f"{name!r} is not a plain file name", field="tokenizer")
        if name in self._tokenizer:
            raise FormatError("was already added", field=f"tokenizer.{name}")
        self._state = "broken by an earlier error"
        self._write_file(f"{rules.TOKENIZER_FOLDER}/{name}", data)
        self._tokenizer[name] = {"length": len(data), "checksum": checksum(data)}
        self._state = "open"

    def _write_file(self, name: str, data: bytes) -> None:
        with storing(self.path):
            path = self._folder / name
            path.write_bytes(data)
            flush(path)

    def close(self) -> None:
        """Writes the manifest and puts the folder into place; on an error everything written is removed."""
        self._writable()
        try:
            if not self._tensors:
                raise FormatError("no tensor was added", file=rules.FILE, field="tensors")
            self._end_shard()
            manifest = Manifest(
                config=self._config,
                shards=self._shards,
                tensors=self._tensors,
                tokenizer=self._tokenizer,
                plan=None,
                precision=_json_value(self.precision, "precision"),
                provenance=_json_value(self.provenance, "provenance"),
            )
            data = rules.seal(manifest.to_json())
            if len(data) > rules.MAX_MANIFEST:
                raise FormatError(
                    f"would have {len(data)} bytes, more than {rules.MAX_MANIFEST}", file=rules.FILE
                )
            try:
                rules.parse(data)  # what no reader would take is not written
            except FormatError as error:
                raise error.at(file=rules.FILE) from None
            self._write_file(rules.FILE, data)
            check_target(self.path, self.overwrite)
            self._partial.put_in_place()
        except BaseException:
            self.abort()
            raise
        self._state = "closed"

    def abort(self) -> None:
        """Removes everything written so far; the target stays as it was."""
        if self._state == "closed":
            return
        if self._shard is not None:
            with contextlib.suppress(OSError):  # what is buffered may not fit either
                self._shard.close()
            self._shard = None
        self._partial.remove()
        self._state = "aborted"

    def __enter__(self) -> ModelWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.abort()
        elif self._state not in ("closed", "aborted"):
            try:
                self.close()
            except BaseException:
                self.abort()
                raise
