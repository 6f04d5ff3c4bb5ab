"""GPTQ's layout, that of AutoGPTQ, GPTQModel and AutoRound.

    X.qweight  int32 [K b / 32, N]   q of a column of the transposed matrix, packed along K
    X.qzeros   int32 [G, N b / 32]   zero-points, packed along N: z - 1 in version 1 ("gptq"), z in 2 ("gptq_v2")
    X.scales   f16 [G, N]
    X.g_idx    int32 [K]             the group of each column of the weights; absent where they are runs

`checkpoint_format` is not always true, but the zero-point of symmetric matrices, 2**(b - 1), tells the version. Version
1 of a zero-point 0 is stored as 2**b - 1, and read modulo 2**b.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from workbench.errors import CheckpointError
from workbench.models.foreign.integers import Grid, groups_in_order
from workbench.models.foreign.packed import FLOATS, Headers, Packed, Read, wrong_value
from workbench.models.foreign.words import pack_words, unpack_words

#: `checkpoint_format` -> what is added to stored zero-points.
VERSIONS = {"gptq": 1, "gptq_v2": 0}
#: Keys that say so; GPTQModel has both. What it calls "gptq_p" packs 3, 5, 6 and 7 bits in planes.
FORMAT_KEYS = ("checkpoint_format", "format")
BITS = tuple(range(2, 9))


@dataclass(frozen=True)
class GptqMatrix(Packed):
    """bits: of q. group: columns a scale, 0 where g_idx tells. version: a key of `VERSIONS`, as the file says."""

    bits: int
    group: int
    version: str
    symmetric: bool

    def grid(self, read: Read) -> Grid:
        rows, columns = self.shape
        scales = np.ascontiguousarray(read(self.parts["scales"]).T)
        stored = unpack_words(read(self.parts["qzeros"]), self.bits, rows).T
        group, order = self.group, None
        if "g_idx" in self.parts:
            name = self.parts["g_idx"]
            group, order = groups_in_order(name, read(name), scales.shape[1])
        zeros = (stored.astype(np.int16) + VERSIONS[self.version_of(stored)]) % 2**self.bits
        return Grid(self.bits, columns, group, scales, zeros, order)

    def version_of(self, stored: np.ndarray) -> str:
        """The version of stored zero-points: what a symmetric matrix's say, else what the file says."""
        half = 2 ** (self.bits - 1)
        if self.symmetric and (stored == half).all():
            return "gptq_v2"
        if self.symmetric and (stored == half - 1).all():
            return "gptq"
        return self.version

    def quants(self, read: Read) -> np.ndarray:
        words = np.ascontiguousarray(read(self.parts["qweight"]).T)
        return unpack_words(words, self.bits, self.shape[1])


def find(headers: Headers, config: Mapping[str, Any]) -> Iterator[tuple[str, Packed]]:
    """Matrices of a checkpoint by name. config: its quantization_config.

    Sizes follow from the shapes alone, since bits and groups may differ from matrix to matrix.
    """
    key = next((name for name in FORMAT_KEYS if config.get(name)), FORMAT_KEYS[0])
    version = config.get(key) or "gptq"
    if not isinstance(version, str) or version not in VERSIONS:
        raise wrong_value(headers.where, key, version, " or ".join(VERSIONS))
    for name in headers.ending(".qweight"):
        yield f"{name}.weight", _matrix(headers, name, config, version)


def _matrix(headers: Headers, name: str, config: Mapping[str, Any], version: str) -> GptqMatrix:
    parts = {part: f"{name}.{part}" for part in ("qweight", "qzeros", "scales", "g_idx")}
    packed, rows = headers.matrix(parts["qweight"], ("I32",))
    groups, _ = headers.matrix(parts["qzeros"], ("I32",))
    headers.found(parts["scales"], FLOATS, (groups, rows))
    words = headers.all[parts["qzeros"]][0][1]
    fits = [bits for bits in BITS if -(-rows * bits // 32) == words and packed * 32 % bits == 0]
    if not fits:
        raise CheckpointError(
            f"{headers.where}: tensor {parts['qzeros']!r} has {words} words for {rows} rows, which is none of "
            f"{', '.join(map(str, BITS))} bits"
        )
    # Of matrices with few rows several fit: then the file's own word counts.
    bits = config["bits"] if config.get("bits") in fits else fits[0]
    columns = packed * 32 // bits
    if parts["g_idx"] in headers.all:
        headers.found(parts["g_idx"], ("I32", "I64"), (columns,))
        group = 0
    else:
        del parts["g_idx"]
        group = group_of(headers, name, columns, groups, config.get("group_size"))
    kind = f"GPTQ, {bits} bits"
    return GptqMatrix((rows, columns), parts, kind, bits, group, version, bool(config.get("sym", False)))


def group_of(headers: Headers, name: str, columns: int, groups: int, asked: Any) -> int:
    """Columns of a group, where `groups` runs cover a row and only the last may be shorter. Raises CheckpointError."""
    if columns % groups == 0:
        return columns // groups
    if type(asked) is int and asked > 0 and -(-columns // asked) == groups:
        return asked
    raise CheckpointError(
        f"{headers.where}: {name} has {columns} columns in {groups} groups, which do not divide them, nor does "
        "group_size of quantization_config"
    )


def pack(
    q: np.ndarray,
    scales: np.ndarray,
    zeros: np.ndarray,
    bits: int,
    offset: int,
    order: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Tensors of a matrix by what they are. q: uint8 [N, K]; scales f16, zeros int [N, G]; offset: of `VERSIONS`.
    order: int [K], the column of the input that each column of q meets; None for their own."""
    columns, groups = q.shape[1], scales.shape[1]
    stored = ((zeros.astype(np.int16) - offset) % 2**bits).astype(np.uint8)
    group = np.arange(columns, dtype=np.int32) // (columns // groups)
    if order is not None:
        places = np.argsort(order)
        q, group = q[:, places], group[places]
    return {
        "qweight": np.ascontiguousarray(pack_words(q, bits).T),
        "qzeros": pack_words(np.ascontiguousarray(stored.T), bits),
        "scales": np.ascontiguousarray(scales.T),
        "g_idx": group.astype(np.int32),
    }
