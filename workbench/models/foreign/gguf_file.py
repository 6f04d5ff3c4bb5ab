"""A GGUF file: its metadata, and where its tensors lie. Nothing that it says is believed before it has been compared
with the size of the file, and memory stays near that of the metadata.

Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3, little-endian. Sizes of blocks are
those of the `gguf` package.
"""

from __future__ import annotations

import mmap
import os
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from workbench.errors import CheckpointError
from workbench.files.reading import open_regular

#: Number of a type of metadata -> its format for struct.
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
#: More than any file has; what asks for more is a lie or an attack.
_MOST_KEYS, _MOST_TENSORS, _MOST_STRINGS, _MOST_NAME = 1 << 14, 1 << 17, 1 << 22, 1 << 16
_MOST_NUMBERS = 1 << 24
_ALIGNMENT = "general.alignment"
#: Weights and bytes of a block of type 42 in ggml, and in a fork that uses the number for another layout.
Q2_0 = 42
_Q2_0_BLOCKS = ((64, 18), (128, 34))
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


@dataclass(frozen=True)
class GgufTensor:
    """shape: as other files have it, rows first. kind: number of its ggml type. block: weights and bytes of a block.

    data: uint8 [rows, bytes of a row], mapped; rows of a vector are 1.
    """

    shape: tuple[int, ...]
    kind: int
    block: tuple[int, int]
    data: np.ndarray

    @property
    def type_name(self) -> str:
        """As ggml calls it, such as "Q4_K"."""
        import gguf

        return "Q2_0" if self.kind == Q2_0 else gguf.GGMLQuantizationType(self.kind).name


@dataclass(frozen=True)
class GgufFile:
    """files: the one, or all shards in order. metadata: values by key; arrays of numbers as numpy has them."""

    files: tuple[Path, ...]
    metadata: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]


def open_gguf(path: Path) -> GgufFile:
    """A GGUF file, or all shards of one that has several, given any of them.

    Raises CheckpointError naming the file for what is damaged or missing.
    """
    files = _shards(path)
    metadata: dict[str, Any] = {}
    tensors: dict[str, GgufTensor] = {}
    for number, file in enumerate(files):
        own, found = _read(file)
        for key, named in (("split.no", number), ("split.count", len(files))):
            if len(files) > 1 and (said := _whole(own, key, file)) != named:
                raise CheckpointError(f"{file}: {key} is {said}; its name says {named}")
        if double := sorted(tensors.keys() & found.keys()):
            raise CheckpointError(f"{file}: tensor {double[0]!r} is in an earlier shard too")
        metadata = metadata or own
        tensors |= found
    count = _whole(metadata, "split.tensors.count", files[0])
    if count is not None and count != len(tensors):
        raise CheckpointError(f"{files[0]}: split.tensors.count is {count}, but there are {len(tensors)}")
    return GgufFile(tuple(files), metadata, tensors)


def _whole(metadata: Mapping[str, Any], key: str, file: Path) -> int | None:
    """A whole number of the metadata, None where there is none."""
    value = metadata.get(key)
    if value is not None and not isinstance(value, int):
        raise CheckpointError(f"{file}: {key} is {type(value).__name__}, not a whole number")
    return value


def _shards(path: Path) -> list[Path]:
    match = _SHARD.fullmatch(path.name)
    if match is None:
        return [path]
    count = int(match["count"])
    if not 1 <= int(match["number"]) <= count <= 9999:
        raise CheckpointError(f"{path}: a shard's number is from 1 to the count behind it")
    files = [
        path.with_name(f"{match['stem']}-{number:05}-of-{count:05}.gguf") for number in range(1, count + 1)
    ]
    for file in files:
        if not file.is_file():
            raise CheckpointError(f"{file}: the shard is missing, of {count} that {path.name} belongs to")
    return files


class _Cursor:
    """Takes values from a mapped file, one behind the other."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.at = data, 0

    def take(self, form: str) -> Any:
        size = struct.calcsize(f"<{form}")
        (value,) = struct.unpack(f"<{form}", self._bytes(size))
        return value

    def _bytes(self, size: int) -> bytes:
        if size > len(self.data) - self.at:
            raise ValueError(f"it ends within a value at byte {self.at}")
        found = self.data[self.at : self.at + size]
        self.at += size
        return found

    def text(self, most: int | None = None) -> str:
        size = self.take("Q")
        if most is not None and size > most:
            raise ValueError(f"a name of {size} bytes at byte {self.at}; {most} are allowed")
        return self._bytes(size).decode("utf-8")

    def value(self, kind: int) -> Any:
        if kind in _SCALARS:
            return self.take(_SCALARS[kind])
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            raise ValueError(f"a value of type {kind} at byte {self.at}, a type that GGUF does not have")
        kind, count = self.take("I"), self.take("Q")
        if kind == _STRING:
            if count > _MOST_STRINGS:
                raise ValueError(f"an array of {count} texts; {_MOST_STRINGS} are allowed")
            return [self.text() for _ in range(count)]
        if kind not in _SCALARS or count > _MOST_NUMBERS:
            raise ValueError(f"an array of {count} values of type {kind} at byte {self.at}")
        dtype = np.dtype(f"<{_SCALARS[kind]}")
        return np.frombuffer(self._bytes(count * dtype.itemsize), dtype)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, GgufTensor]]:
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            mapped = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) if size else None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    try:
        if mapped is None or mapped[:4] != b"GGUF":
            raise ValueError("it does not begin with GGUF")
        return _parsed(_Cursor(mapped))
    except (ValueError, OverflowError, struct.error) as error:
        raise CheckpointError(f"{path}: not a whole GGUF file: {error}") from error


def _parsed(cursor: _Cursor) -> tuple[dict[str, Any], dict[str, GgufTensor]]:
    cursor.at = 4
    if (version := cursor.take("I")) not in (2, 3):
        raise ValueError(f"its version is {version}; allowed: 2 and 3, little-endian")
    tensors, keys = cursor.take("Q"), cursor.take("Q")
    if tensors > _MOST_TENSORS or keys > _MOST_KEYS:
        raise ValueError(
            f"it has {tensors} tensors and {keys} keys; {_MOST_TENSORS} and {_MOST_KEYS} are allowed"
        )
    metadata: dict[str, Any] = {}
    for _ in range(keys):
        name = cursor.text(_MOST_NAME)
        if name in metadata:
            raise ValueError(f"the key {name!r} stands twice")
        metadata[name] = cursor.value(cursor.take("I"))
    alignment = metadata.get(_ALIGNMENT, 32)
    if not isinstance(alignment, int) or not 8 <= alignment <= 1 << 20 or alignment & (alignment - 1):
        raise ValueError(f"{_ALIGNMENT} is {alignment!r}; allowed: a power of 2 from 8")
    entries = [_entry(cursor) for _ in range(tensors)]
    start = -(-cursor.at // alignment) * alignment
    starts = sorted({offset for _, _, _, offset in entries})
    ends = dict(zip(starts, [*starts[1:], max(0, len(cursor.data) - start)], strict=True))
    found: dict[str, GgufTensor] = {}
    for name, shape, kind, offset in entries:
        if name in found:
            raise ValueError(f"the tensor {name!r} is there twice")
        if offset % alignment:
            raise ValueError(f"the tensor {name!r} at {offset} is not aligned to {alignment}")
        found[name] = _tensor(cursor.data, name, shape, kind, start + offset, ends[offset] - offset)
    return metadata, found


def _entry(cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
    """Name, shape, type and offset of a tensor."""
    name, dimensions = cursor.text(_MOST_NAME), cursor.take("I")
    if not 1 <= dimensions <= 4:
        raise ValueError(f"the tensor {name!r} has {dimensions} dimensions; allowed: 1 to 4")
    shape = tuple(cursor.take("Q") for _ in range(dimensions))[::-1]
    return name, shape, cursor.take("I"), cursor.take("Q")


def _tensor(
    data: mmap.mmap, name: str, shape: tuple[int, ...], kind: int, start: int, room: int
) -> GgufTensor:
    import gguf

    count, columns = prod(shape), shape[-1]
    if count < 1:
        raise ValueError(f"the tensor {name!r} of shape {list(shape)} is empty")
    if kind == Q2_0:
        # Whichever of the two fills the place: the next tensor follows at the next aligned byte.
        sizes = [each for each in _Q2_0_BLOCKS if columns % each[0] == 0]
        fitting = [each for each in sizes if 0 <= room - count // each[0] * each[1] < 1 << 20]
        block = min(fitting or sizes or _Q2_0_BLOCKS, key=lambda each: room - count // each[0] * each[1])
    else:
        block = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind)]
    weights, nbytes = block
    if columns % weights:
        raise ValueError(
            f"the tensor {name!r} has rows of {columns}, which blocks of {weights} do not divide"
        )
    size = count // weights * nbytes
    if size > len(data) - start:
        raise ValueError(f"the tensor {name!r} has {size} bytes at {start}, of which the file has fewer")
    rows = np.frombuffer(data, np.uint8, size, start).reshape(-1, columns // weights * nbytes)
    return GgufTensor(shape, kind, block, rows)
