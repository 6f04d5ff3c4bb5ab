"""What all readers of quantized matrices come to: `w = s (q - z)` with integers q and z, or `w = s q + b` with a float
b, and which format holds that.

    Grid          scales, zero-points or offsets, and sizes of one matrix: small, and enough to choose a format
    side_by_side  the grid with the columns of each group put together, and their order
    fitting       the format that holds a grid's integers bit for bit, or why none does
    to_tensor     the integers in that format
    floats        the weights of a grid in f32, where no format fits

q is unsigned here, 0 to 2**bits - 1, and z in the same units; formats that store signed q are shifted by 2**(bits - 1),
and an offset makes up for that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from workbench.errors import CheckpointError
from workbench.formats.spec import WeightFormat
from workbench.formats.tensor import WeightTensor, float_tensor, quantized_tensor
from workbench.quantizers.blocks import LARGEST_SCALE, SMALLEST_SCALE

#: Rows that are dequantized at a time hold so many weights.
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Grid:
    """Of a matrix [rows, columns]. bits: of q. group: columns that share a scale; the last ones of a row may be fewer.

    scales: f32 [rows, groups]; zeros: int16 [rows, groups], z in units of q, the same for all where it is one number.
    offsets: f32 [rows, groups], in place of zeros, which are 0 then. order: of columns whose groups are no runs of the
    row, the group of each, int [columns]; None for runs.
    """

    bits: int
    columns: int
    group: int
    scales: np.ndarray
    zeros: np.ndarray | int
    order: np.ndarray | None = None
    offsets: np.ndarray | None = None

    @property
    def finite(self) -> bool:
        """Whether scales and offsets are."""
        return all(np.isfinite(each).all() for each in (self.scales, self.offsets) if each is not None)

    @property
    def one_zero(self) -> int | None:
        """The zero-point of all blocks, None where they differ."""
        if isinstance(self.zeros, int):
            return self.zeros
        first = int(self.zeros.flat[0])
        return first if (self.zeros == first).all() else None


def groups_in_order(name: str, g_idx: np.ndarray, groups: int) -> tuple[int, np.ndarray | None]:
    """(columns of a group, None) where the groups of columns are runs of one length, else (0, g_idx).

    g_idx: int [columns], from a tensor of that name. Raises CheckpointError for what is no group.
    """
    if g_idx.min() < 0 or g_idx.max() >= groups:
        raise CheckpointError(
            f"tensor {name!r} names groups {g_idx.min()} to {g_idx.max()}; allowed: 0 to {groups - 1}"
        )
    columns = len(g_idx)
    group = int(np.argmax(g_idx != g_idx[0])) or columns
    in_runs = -(-columns // group) == groups and np.array_equal(np.arange(columns) // group, g_idx)
    return (group, None) if in_runs else (0, g_idx)


def side_by_side(grid: Grid) -> tuple[Grid, np.ndarray | None]:
    """The grid with the columns of each group side by side, and the column of the matrix that each of them is.

    The same grid and None where its groups are runs as they are, and where an order of the columns does not make them
    runs of one length.
    """
    if grid.order is None:
        return grid, None
    columns = np.argsort(grid.order, kind="stable")
    group, left = groups_in_order("", grid.order[columns], grid.scales.shape[1])
    return (replace(grid, group=group, order=None), columns) if left is None else (grid, None)


def fitting(grid: Grid) -> tuple[WeightFormat | None, str]:
    """The format that holds the grid's integers, scales and zero-points as they are; or None and why there is none."""
    if grid.order is not None:
        return (
            None,
            "its columns are grouped in an order of their own (act-order), and not in groups of one length in front of "
            "a linear layer",
        )
    by_row = grid.group >= grid.columns
    if not by_row and grid.group % 32:
        return None, f"its blocks of {grid.group} weights are no multiple of 32"
    dtype = next(name for name, bits in (("int2", 2), ("int4", 4), ("int8", 8)) if grid.bits <= bits)
    planes = [grid.scales]
    if grid.offsets is not None:
        if (offsets := moved(grid.offsets, grid.scales, _offset_shift(grid))) is None:
            return None, "its offsets are not f32 where integers are signed"
        planes.append(offsets)
    scale_dtype = _scale_dtype(*planes)
    if scale_dtype is None:
        return None, "it has scales or offsets below 2^-126, which WGSL may flush to zero"
    how = {
        "granularity": "channel" if by_row else "block",
        "block_size": None if by_row else grid.group,
        "scale_dtype": scale_dtype,
    }
    if grid.offsets is not None:
        return WeightFormat(dtype, offset=True, **how), ""
    for symmetric in (True, False):
        fmt = WeightFormat(dtype, symmetric=symmetric, **how)
        shift = _shift(grid, fmt)
        if shift is not None:
            return fmt, ""
    return None, "it has zero-points outside the range of its integers"


def _scale_dtype(*planes: np.ndarray) -> str | None:
    """The smaller type that holds scales, and offsets, exactly and normal."""
    return next((dtype for dtype in ("f16", "f32") if all(_holds(dtype, each) for each in planes)), None)


def _holds(dtype: str, values: np.ndarray) -> bool:
    sizes = np.abs(values[values != 0])
    if not sizes.size:
        return True
    if sizes.min() < SMALLEST_SCALE[dtype] or sizes.max() > LARGEST_SCALE[dtype]:
        return False
    return dtype == "f32" or np.array_equal(values.astype(np.float16).astype(np.float32), values)


def _offset_shift(grid: Grid) -> int:
    """What is added to q to store it beside offsets."""
    return -128 if grid.bits == 8 else 0


def moved(offsets: np.ndarray, scales: np.ndarray, shift: int) -> np.ndarray | None:
    """Offsets, f32, of q to which `shift`, a power of two or its negative, was added: b - shift s; None if f32 does not
    hold them exactly. offsets, scales: f32."""
    if not shift:
        return offsets
    step = np.float32(-shift) * scales
    with np.errstate(over="ignore", invalid="ignore"):
        found = offsets + step
        part = found - offsets
        lost = (offsets - (found - part)) + (step - part)  # Knuth's two-sum
    return found if (lost == 0).all() else None


def _shift(grid: Grid, fmt: WeightFormat) -> int | None:
    """What is added to q and z to store them in a format; None if they leave its range."""
    low, high = (-128, 127) if fmt.dtype == "int8" else (0, 2**fmt.bits - 1)
    if fmt.symmetric:
        if grid.one_zero is None:
            return None
        shift = fmt.implied_zero - grid.one_zero
        return shift if low <= shift and shift + 2**grid.bits - 1 <= high else None
    shift = -128 if grid.bits == 8 else 0
    zeros = np.asarray(grid.zeros)
    return shift if low <= zeros.min() + shift and zeros.max() + shift <= high else None


def to_tensor(name: str, grid: Grid, q: np.ndarray, fmt: WeightFormat) -> WeightTensor:
    """A matrix in the format that `fitting` gave for its grid. q: uint8 [rows, columns]."""
    rows, columns = q.shape
    zeros, shift = _beside_scales(grid, fmt)
    stored = np.empty((rows, fmt.padded_columns(columns)), np.int8 if fmt.dtype == "int8" else np.uint8)
    np.add(q, shift, out=stored[:, :columns], dtype=np.int16, casting="unsafe")
    stored[:, columns:] = 0 if fmt.offset else zeros[:, -1:]  # a weight of zero, where a q makes one
    return quantized_tensor(name, q.shape, fmt, stored, grid.scales, None if fmt.symmetric else zeros)


def _beside_scales(grid: Grid, fmt: WeightFormat) -> tuple[np.ndarray, int]:
    """Zero-points or offsets [rows, groups] of q as a format stores them, and what is added to q."""
    if fmt.offset:
        assert grid.offsets is not None, "fitting chose the format"
        shift = _offset_shift(grid)
        found = moved(grid.offsets, grid.scales, shift)
        assert found is not None, "fitting chose the format"
        return found, shift
    own = _shift(grid, fmt)
    assert own is not None, "fitting chose the format"
    return np.broadcast_to(np.asarray(grid.zeros, np.int16), grid.scales.shape) + np.int16(own), own


def floats(name: str, grid: Grid, q: np.ndarray) -> WeightTensor:
    """The weights in f32, each step rounded to f32. q: uint8 [rows, columns]."""
    order = np.arange(grid.columns) // grid.group if grid.order is None else grid.order
    zeros = np.broadcast_to(np.asarray(grid.zeros, np.float32), grid.scales.shape)
    values = np.empty(q.shape, np.float32)
    step = max(1, _CHUNK // grid.columns)
    for start in range(0, len(q), step):
        part = slice(start, start + step)
        np.subtract(q[part], zeros[part][:, order], out=values[part], dtype=np.float32)
        values[part] *= grid.scales[part][:, order]
        if grid.offsets is not None:
            values[part] += grid.offsets[part][:, order]
    return float_tensor(name, values, "f32")
