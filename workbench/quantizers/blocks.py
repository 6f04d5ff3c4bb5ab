"""What every quantizer shares: its result, its checks, and the step from scale and zero-point to q.

Inside the quantizers zero-points are float32 in units of q (already divided by 2**zero_frac_bits), and a
chunk of rows is viewed as [rows, blocks, block] with zero weights in the padding columns. A zero weight
quantizes to q = rint(z), which is what padding must hold, and since every range includes 0 it moves no scale.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from workbench.dtypes import NUMPY
from workbench.formats.spec import WeightFormat

# WGSL may flush subnormal numbers, so no scale is below the smallest normal one of its type.
SMALLEST_SCALE = {"f16": np.float32(2.0**-14), "f32": np.float32(2.0**-126)}
LARGEST_SCALE = {"f16": np.float32(65504.0), "f32": np.finfo(np.float32).max}


class Quantized(NamedTuple):
    """What a quantizer returns: `quantized_tensor(name, shape, format, *quantized)` makes it a weight.

    q       uint8, or int8 for int8   [rows, padded_columns]
    scales  float16 or float32        [rows, blocks], or [1, 1] for granularity "tensor"
    zeros   int8                      like scales, z * 2**zero_frac_bits; None if the format is symmetric
    """

    q: np.ndarray
    scales: np.ndarray
    zeros: np.ndarray | None


def checked_weights(weights: np.ndarray, format: WeightFormat) -> np.ndarray:
    """`weights` as float32 [rows, columns].

    `ValueError` for another shape, a float format or one with offsets, or a non-finite weight.
    """
    if not format.is_quantized:
        raise ValueError(f"format {format} is not quantized: use formats.tensor.float_tensor")
    if format.offset:
        raise ValueError(
            f"format {format} has offsets, which come from files of other projects alone and no quantizer chooses; "
            "allowed: formats with zero-points, or symmetric ones"
        )
    weights = np.asarray(weights)
    if weights.ndim != 2 or 0 in weights.shape or weights.dtype.kind != "f":
        raise ValueError(
            f"weights are {weights.dtype} {list(weights.shape)}, but must be float [rows, columns]"
        )
    weights = weights.astype(np.float32, copy=False)
    for part in row_chunks(*weights.shape, size=1 << 20):
        chunk = weights[part]
        # A non-finite weight makes the sum non-finite: only then is each one looked at.
        with np.errstate(all="ignore"):
            suspicious = not np.isfinite(chunk.sum(dtype=np.float64))
        if suspicious and not (finite := np.isfinite(chunk)).all():
            row, column = np.argwhere(~finite)[0]
            raise ValueError(
                f"weights[{part.start + row}, {column}] is {chunk[row, column]}, "
                "and only finite weights can be quantized"
            )
    return weights


def checked_importance(importance: np.ndarray | None, columns: int) -> np.ndarray | None:
    """`importance` as float32 [columns], scaled to a largest value of 1; None stays None.

    `ValueError` if its length is wrong or an entry is negative or non-finite. All zero counts as None.
    """
    if importance is None:
        return None
    importance = np.asarray(importance, np.float64)
    if importance.shape != (columns,):
        raise ValueError(
            f"importance has shape {list(importance.shape)}, but the weights have {columns} columns"
        )
    bad = ~(np.isfinite(importance) & (importance >= 0))
    if bad.any():
        index = int(np.argmax(bad))
        raise ValueError(f"importance[{index}] is {importance[index]}: it must be finite and not negative")
    largest = importance.max()
    return None if largest == 0 else (importance / largest).astype(np.float32)


def row_chunks(rows: int, columns: int, size: int = 1 << 18) -> Iterator[slice]:
    """Slices of rows with about `size` weights each (at least one row): bounds memory, stays in the cache."""
    step = max(1, size // columns)
    for start in range(0, rows, step):
        yield slice(start, min(rows, start + step))


def in_blocks(chunk: np.ndarray, format: WeightFormat) -> np.ndarray:
    """[rows, columns] -> [rows, blocks, block] with zeros in the padding; a view where nothing is padded."""
    rows, columns = chunk.shape
    padded = format.padded_columns(columns)
    if padded != columns:
        wider = np.zeros((rows, padded), chunk.dtype)
        wider[:, :columns] = chunk
        chunk = wider
    return chunk.reshape(rows, format.blocks(columns), format.block(columns))


def rounded_scale(scale: np.ndarray, format: WeightFormat) -> np.ndarray:
    """`scale` rounded to the scale dtype of the format and kept normal, as float32, before q is computed.

    `ValueError` if a scale is too large for its dtype.
    """
    kind = format.scale_dtype
    with np.errstate(over="ignore"):
        scale = np.maximum(np.asarray(scale, NUMPY[kind]).astype(np.float32), SMALLEST_SCALE[kind])
    if not (scale <= LARGEST_SCALE[kind]).all():
        raise ValueError(
            f"the weights need a scale beyond {LARGEST_SCALE[kind]:.6g}, which {kind} cannot hold"
            + ("; scale_dtype 'f32' can" if kind == "f16" else "")
        )
    return scale


def rounded_zero(zero: np.ndarray, format: WeightFormat) -> np.ndarray:
    """Zero-points (float32, in units of q) rounded to what the format stores, and clamped to its range."""
    unit = np.float32(2**format.zero_frac_bits)
    low, high = format.zero_range
    return np.clip(np.rint(zero * unit), low, high) / unit


def stored_zero(zero: np.ndarray, format: WeightFormat) -> np.ndarray | None:
    """Rounded zero-points as the int8 plane, or None for a symmetric format."""
    if format.symmetric:
        return None
    return np.rint(zero * np.float32(2**format.zero_frac_bits)).astype(np.int8)


def quantize_with(
    weights: np.ndarray, format: WeightFormat, scales: np.ndarray, zeros: np.ndarray
) -> Quantized:
    """The nearest q for given parameters: clamp(rint(w / s) + z), or clamp(rint(w / s + z)) with a fraction.

    weights float32 [rows, columns]; scales and zeros float32 of `format.scale_shape`, already rounded by
    `rounded_scale` and `rounded_zero`.
    """
    rows, columns = weights.shape
    low, high = (np.float32(end) for end in format.q_range)
    q = np.empty((rows, format.padded_columns(columns)), np.int8 if format.dtype == "int8" else np.uint8)
    shape = (rows, format.blocks(columns))
    every_scale, every_zero = np.broadcast_to(scales, shape), np.broadcast_to(zeros, shape)
    for part in row_chunks(rows, columns):
        chunk = in_blocks(weights[part], format)
        s, z = every_scale[part, :, None], every_zero[part, :, None]
        level = chunk / s
        if format.zero_frac_bits:
            level += z
            np.rint(level, out=level)
        else:
            np.rint(level, out=level)
            level += z
        np.clip(level, low, high, out=level)
        q[part] = level.reshape(len(level), -1)
    return Quantized(q, scales.astype(NUMPY[format.scale_dtype]), stored_zero(zeros, format))
