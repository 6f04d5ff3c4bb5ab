"""AWQ's layout, version "gemm": everything packed along the rows of the weights, eight to a word, interleaved.

    X.qweight  int32 [K, N / 8]    X.qzeros  int32 [G, N / 8]    X.scales  f16 [G, N]

The nibble at bit 4 i of a word is row `8 word + ORDER[i]`. Zero-points are stored as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from workbench.models.foreign.gptq import group_of
from workbench.models.foreign.integers import Grid
from workbench.models.foreign.packed import FLOATS, Headers, Packed, Read, wrong_value
from workbench.models.foreign.words import unpack_words

ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
BITS = 4


def _unpacked(words: np.ndarray) -> np.ndarray:
    """uint8 [n, N] of words int32 [n, N / 8]."""
    nibbles = unpack_words(words, BITS, words.shape[1] * 8).reshape(len(words), -1, 8)
    values = np.empty_like(nibbles)
    values[..., ORDER] = nibbles
    return values.reshape(len(words), -1)


@dataclass(frozen=True)
class AwqMatrix(Packed):
    """group: columns of the weights that share a scale."""

    group: int

    def grid(self, read: Read) -> Grid:
        scales = np.ascontiguousarray(read(self.parts["scales"]).T)
        zeros = _unpacked(read(self.parts["qzeros"])).T.astype(np.int16)
        return Grid(BITS, self.shape[1], self.group, scales, zeros)

    def quants(self, read: Read) -> np.ndarray:
        return np.ascontiguousarray(_unpacked(read(self.parts["qweight"])).T)


def find(headers: Headers, config: Mapping[str, Any]) -> Iterator[tuple[str, Packed]]:
    """Matrices of a checkpoint by name. config: its quantization_config."""
    version = config.get("version") or "gemm"
    if str(version).lower() != "gemm":
        raise wrong_value(headers.where, "version", version, "gemm")
    if config.get("bits", config.get("w_bit", BITS)) != BITS:
        raise wrong_value(headers.where, "bits", config.get("bits", config.get("w_bit")), "4")
    for name in headers.ending(".qweight"):
        parts = {part: f"{name}.{part}" for part in ("qweight", "qzeros", "scales")}
        columns, words = headers.matrix(parts["qweight"], ("I32",))
        groups, _ = headers.matrix(parts["scales"], FLOATS)
        headers.found(parts["scales"], FLOATS, (groups, 8 * words))
        headers.found(parts["qzeros"], ("I32",), (groups, words))
        group = group_of(headers, name, columns, groups, config.get("group_size"))
        yield f"{name}.weight", AwqMatrix((8 * words, columns), parts, "AWQ, 4 bits", group)
