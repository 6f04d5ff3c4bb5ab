"""MLX's layout: integers with an offset a group, as mlx-lm writes them.

    X.weight  uint32 [N, K b / 32]      q along a row, the first in the lowest bits; also of embeddings
    X.scales  X.biases  [N, G]          w = scale q + bias; f16, bf16 or f32; scales may be negative

config.json says group_size and bits, of some matrices their own. MLX computes the weights in the type of the scales;
here they are what f32 gives. Of 3, 5 and 6 bits the values lie across words as elsewhere (`words.unpack_words`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from workbench.errors import CheckpointError
from workbench.models.foreign.integers import Grid
from workbench.models.foreign.packed import FLOATS, Headers, Packed, Read, wrong_value
from workbench.models.foreign.words import unpack_words
from workbench.models.keys import shown

BITS = (2, 3, 4, 5, 6, 8)
#: The key of config.json, which mlx-lm writes as `quantization_config` as well.
KEY = "quantization"
#: What its quantization_config lacks, and those of others have.
METHOD = "mlx"


@dataclass(frozen=True)
class MlxMatrix(Packed):
    """bits: of q; group: columns that share a scale."""

    bits: int
    group: int

    def grid(self, read: Read) -> Grid:
        scales, offsets = (np.ascontiguousarray(read(self.parts[part])) for part in ("scales", "biases"))
        return Grid(self.bits, self.shape[1], self.group, scales, 0, offsets=offsets)

    def quants(self, read: Read) -> np.ndarray:
        return unpack_words(read(self.parts["weight"]), self.bits, self.shape[1])


def find(headers: Headers, config: Mapping[str, Any]) -> Iterator[tuple[str, Packed]]:
    """Matrices of a checkpoint by name. config: what config.json says under `KEY`.

    Bits and groups follow from the shapes where these leave no choice: matrices may have their own.
    """
    mode = config.get("mode", "affine")
    if mode != "affine":
        raise wrong_value(headers.where, "mode", mode, "affine")
    for name in headers.ending(".biases"):
        parts = {part: f"{name}.{part}" for part in ("weight", "scales", "biases")}
        rows, words = headers.matrix(parts["weight"], ("U32",))
        groups = headers.found(parts["scales"], FLOATS, None)
        if len(groups) != 2 or groups[0] != rows or not groups[1]:
            raise CheckpointError(
                f"{headers.where}: tensor {parts['scales']!r} has shape {list(groups)}; allowed: [{rows}, groups]"
            )
        headers.found(parts["biases"], FLOATS, groups)
        own = config.get(name)
        said = {**config, **own} if isinstance(own, Mapping) else config
        bits, group = said.get("bits"), said.get("group_size")
        if bits not in BITS or isinstance(bits, bool):
            raise wrong_value(headers.where, f"bits of {name}", bits, ", ".join(map(str, BITS)))
        if type(group) is not int or group < 1 or words * 32 != group * groups[1] * bits:
            raise CheckpointError(
                f"{headers.where}: {name} has {words} words and {groups[1]} groups a row, which bits {bits} and "
                f"group_size {shown(group)} of config.json do not give"
            )
        yield f"{name}.weight", MlxMatrix((rows, group * groups[1]), parts, f"MLX, {bits} bits", bits, group)
