"""What f16 can hold of a matrix: where its numbers end too early, scales or weights are stored in f32 instead.

An f16 scale is at least 2^-14, its smallest normal number, since WGSL may flush what is below: a block whose largest
weights are smaller than the levels that this leaves is rounded coarsely, or to nothing. That the weights are small
says nothing of what they are worth: a norm or the next matrix may multiply them again. So any block that is not all
zero counts, and one is enough. Likewise for weights that are themselves stored in f16, and at the other end of f16.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from workbench.formats.bf16 import to_bf16
from workbench.formats.spec import DEFAULT_BLOCK, WeightFormat
from workbench.formats.tensor import WeightTensor
from workbench.quantizers import rtn
from workbench.quantizers.blocks import LARGEST_SCALE, SMALLEST_SCALE, in_blocks

#: Weights of an f16 matrix are looked at in the blocks of this format.
_OF_F16 = WeightFormat("int8", block_size=DEFAULT_BLOCK["int8"], symmetric=True)
SMALLEST, LARGEST = float(SMALLEST_SCALE["f16"]), float(LARGEST_SCALE["f16"])


class Reach:
    """How small and how large the numbers are that f16 would have to hold of matrices that share a format.

    For a quantized format these are the scales that round to nearest wants, for f16 the largest |weight| of each block
    of 128.
    """

    def __init__(self, format: WeightFormat) -> None:
        self.format = format
        self.blocks = self.small = 0
        self.least, self.most = np.inf, 0.0

    @property
    def matters(self) -> bool:
        """Whether the format stores anything in f16."""
        return self.format.dtype == "f16" or (self.format.is_quantized and self.format.scale_dtype == "f16")

    def passes(self, part: WeightTensor) -> bool:
        """Whether rows of an f16 or bf16 matrix are seen to suit f16 from their bits: each block all zero, or its
        largest |weight| so large that the scale cannot be too small, and not too large. False says nothing."""
        form = self.format if self.format.is_quantized else _OF_F16
        if part.format.dtype not in ("f16", "bf16") or form.granularity == "tensor":
            return False
        low, high = form.q_range
        least = SMALLEST * (high - low) if self.format.is_quantized else SMALLEST
        bounds = np.array([least, LARGEST], np.float32)
        ends = to_bf16(bounds) if part.format.dtype == "bf16" else bounds.astype(np.float16).view(np.uint16)
        # Without their sign, the bits of floats are in the order of the floats.
        largest = in_blocks(part.planes["values"].view(np.uint16) & np.uint16(0x7FFF), form).max(2)
        if ((largest <= ends[0]) & (largest > 0)).any() or (largest >= ends[1]).any():
            return False
        self.blocks += largest.size
        return True

    def add(self, parts: Iterable[np.ndarray]) -> None:
        """A matrix in ranges of its rows, f32 [rows, columns]. NaN does not count."""
        form = self.format if self.format.is_quantized else _OF_F16
        found = []
        for part in parts:
            with np.errstate(invalid="ignore"):
                lo, hi = rtn.ranges(part, form)
            found.append((lo, hi))
        if form.granularity == "tensor":
            found = [(np.min([lo for lo, _ in found], 0), np.max([hi for _, hi in found], 0))]
        for lo, hi in found:
            numbers = rtn.wanted_scale(lo, hi, form) if self.format.is_quantized else np.maximum(-lo, hi)
            there = numbers[numbers > 0]
            self.blocks += numbers.size
            if there.size:
                self.small += int((there < SMALLEST).sum())
                self.least, self.most = (
                    min(self.least, float(there.min())),
                    max(self.most, float(there.max())),
                )

    @property
    def why(self) -> str | None:
        """Why f16 will not do, for a reader; None where it will."""
        if not self.matters:
            return None
        what = "want scales" if self.format.is_quantized else "hold weights"
        if self.most > LARGEST:
            return f"blocks {what} up to {self.most:.3g}, beyond the {LARGEST:.0f} of f16"
        if self.small:
            return (
                f"{self.small:,} of {self.blocks:,} blocks {what} below {SMALLEST:.2g}, the smallest normal number "
                f"of f16, down to {self.least:.2g}"
            )
        return None

    @property
    def suited(self) -> WeightFormat:
        """The format, or the same with what f16 cannot hold in f32."""
        if self.why is None:
            return self.format
        return replace(self.format, scale_dtype="f32") if self.format.is_quantized else WeightFormat("f32")


def suited(format: WeightFormat, matrices: Iterable[np.ndarray]) -> tuple[WeightFormat, str | None]:
    """The format that matrices f32 [rows, columns] of one width are stored in, and why it is not the one asked for.

    A default block size is fitted to the rows; what f16 cannot hold becomes f32, for all of them alike, so that a
    kernel can read them together.
    """
    matrices = list(matrices)
    reach = Reach(format.fitted(matrices[0].shape[1]))
    if reach.matters:
        for matrix in matrices:
            reach.add([matrix])
    return reach.suited, reach.why
