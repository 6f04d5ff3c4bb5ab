"""HQQ's layout, as its package and transformers put it into safetensors: integers and float zero-points.

    X.W_q     [groups / n, group]   n integers a value, of lines at equal distances, the first in the highest bits
    X.scale   X.zero  [groups, 1]   w = (q - zero) scale; f16, bf16 or f32
    X.shape   int64 [2]             of the weights; X.nbits, X.axis, X.view_as_float, ... numbers and texts

A group is a run of a row (axis 1). With axis 0 it is every so-many-th weight of the matrix: scale and zero are
[1, groups], and W_q is [group / n, groups]. HQQ computes the weights in its `compute_dtype`; here they are what f32
gives.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from workbench.errors import CheckpointError, UnsupportedModelError
from workbench.formats.tensor import WeightTensor, float_tensor
from workbench.models.foreign.integers import Grid
from workbench.models.foreign.packed import FLOATS, Headers, Packed, Read

#: `packing` -> dtype of W_q, bits of each integer there, and how many are in a value.
PACKINGS = {
    "8bit_u8": ("U8", 8, 1),
    "4bit_u8": ("U8", 4, 2),
    "3bit_32": ("I32", 3, 10),
    "2bit_u8": ("U8", 2, 4),
    "1bit_u8": ("U8", 1, 8),
}
#: Bits of q, and the packing that has room for them.
BITS = {1: "1bit_u8", 2: "2bit_u8", 3: "3bit_32", 4: "4bit_u8", 5: "8bit_u8", 6: "8bit_u8", 8: "8bit_u8"}
#: What stands beside W_q, scale, zero and shape, and decides no weight but where it is looked at.
_BESIDE = (
    "nbits", "group_size", "axis", "packing", "unpack_view_dtype", "view_as_float", "quant_scale", "quant_zero",
    "compute_dtype", "offload_meta", "encoded_state_dict", "stores_quant_config", "channel_wise", "optimize",
    "round_zero",
)  # fmt: skip


@dataclass(frozen=True)
class HqqMatrix(Packed):
    """bits: of q. axis: 1 where a group is a run of the matrix, 0 where it is not. groups: how many there are."""

    bits: int
    axis: int
    groups: int

    @property
    def group(self) -> int:
        """Weights that share a scale."""
        return self.shape[0] * self.shape[1] // self.groups

    def grid(self, read: Read) -> Grid | None:
        if self._across:
            return None
        scales, zeros = (read(self.parts[part]).reshape(self.shape[0], -1) for part in ("scale", "zero"))
        scales, zeros = np.ascontiguousarray(scales), np.ascontiguousarray(zeros)
        if (zeros == np.rint(zeros)).all() and zeros.min() >= 0 and zeros.max() < 2**self.bits:
            return Grid(self.bits, self.shape[1], self.group, scales, zeros.astype(np.int16))
        offsets = -(scales * zeros)
        if (offsets != -(scales.astype(np.float64) * zeros)).any():
            return None
        return Grid(self.bits, self.shape[1], self.group, scales, 0, offsets=offsets)

    def quants(self, read: Read) -> np.ndarray:
        return self._integers(read).reshape(self.shape)

    def _integers(self, read: Read) -> np.ndarray:
        """uint8 [groups, group], with axis 0 [group, groups]."""
        packed = read(self.parts["W_q"])
        _, room, count = PACKINGS[BITS[self.bits]]
        found = [packed >> room * at & (1 << room) - 1 for at in range(count)][::-1]
        lines = self.group if self.axis == 0 else self.groups
        q = np.concatenate(found)[:lines].astype(np.uint8)
        if room > self.bits and (q >> self.bits).any():
            raise CheckpointError(f"tensor {self.parts['W_q']!r} has numbers of more than {self.bits} bits")
        return q

    def floats(self, name: str, read: Read) -> WeightTensor:
        if self.grid(read) is not None:
            return super().floats(name, read)
        values = self._integers(read).astype(np.float32)
        values -= read(self.parts["zero"])
        values *= read(self.parts["scale"])
        return float_tensor(name, values.reshape(self.shape), "f32")

    @property
    def _across(self) -> str:
        """How its groups are no runs of a row; empty where they are."""
        if self.axis == 0:
            return "its groups are no runs of a row (axis 0)"
        return "" if self.shape[1] % self.group == 0 else "its groups end in other rows than they begin"

    @property
    def why_floats(self) -> str:
        return self._across or "its zero-points times their scales are no f32"


def find(headers: Headers, config: Mapping[str, Any]) -> Iterator[tuple[str, Packed]]:
    """Matrices of a checkpoint by name; the quantization_config says nothing that does not stand beside each."""
    for name in headers.ending(".W_q"):
        yield f"{name}.weight", _matrix(headers, name)


def _matrix(headers: Headers, name: str) -> HqqMatrix:
    for quantized in ("zero_q", "scale_q", "zero_scale"):
        if f"{name}.{quantized}" in headers.all:
            raise UnsupportedModelError(
                f"{headers.where}: {name} has {quantized}; allowed: scale and zero as floats"
            )
    rows, columns = _shape(headers, f"{name}.shape")
    bits = _number(headers, f"{name}.nbits", tuple(BITS))
    axis = _number(headers, f"{name}.axis", (0, 1))
    if f"{name}.view_as_float" in headers.all:
        _number(headers, f"{name}.view_as_float", (0,))
    parts = {part: f"{name}.{part}" for part in ("W_q", "scale", "zero", "shape")}
    scales = headers.matrix(parts["scale"], FLOATS)
    groups = scales[1 - axis]
    if scales[axis] != 1 or rows * columns % groups:
        raise CheckpointError(
            f"{headers.where}: tensor {parts['scale']!r} has shape {list(scales)}, which {rows * columns} weights in "
            f"groups along axis {axis} do not have"
        )
    headers.found(parts["zero"], FLOATS, scales)
    group = rows * columns // groups
    lines, width = (groups, group) if axis == 1 else (group, groups)
    dtype, _, count = PACKINGS[BITS[bits]]
    # All but 3 bits fill their values.
    if lines % count and bits != 3:
        raise CheckpointError(
            f"{headers.where}: {name} has {lines} lines, of which {count} are packed at a time"
        )
    headers.found(parts["W_q"], (dtype,), (-(-lines // count), width))
    beside = {part: f"{name}.{part}" for part in _BESIDE if f"{name}.{part}" in headers.all}
    return HqqMatrix((rows, columns), parts | beside, f"HQQ, {bits} bits", bits, axis, groups)


def _shape(headers: Headers, name: str) -> tuple[int, int]:
    sizes = headers.sizes(name)
    if len(sizes) != 2:
        raise CheckpointError(f"{headers.where}: tensor {name!r} holds {list(sizes[:4])}; allowed: two sizes")
    return sizes[0], sizes[1]


def _number(headers: Headers, name: str, allowed: tuple[int, ...]) -> int:
    """A tensor of one number. Raises CheckpointError, UnsupportedModelError."""
    headers.found(name, ("I32", "I64", "U8"), (), (1,))
    value = int(headers.read(name).reshape(()))
    if value not in allowed:
        raise UnsupportedModelError(
            f"{headers.where}: {name} is {value}; allowed: {', '.join(map(str, allowed))}"
        )
    return value
