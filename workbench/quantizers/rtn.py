"""Round to nearest: the scale spans the range of each block, nothing is searched and no data is needed.

With q in [low, high] (0..15 for int4, -128..127 for int8) and lo = min(w, 0), hi = max(w, 0) of a block:

    asymmetric   s = (hi - lo) / (high - low),   z = low + clamp(rint(-lo / s), 0, high - low)
    symmetric    s = max(hi / (high - z), -lo / (z - low)),   z implied (0, 8 or 2)
    q = clamp(rint(w / s) + z, low, high)

0 is always in range, so that z is a valid q and zero weights stay zero (to half a step if z is fractional).
The scale is rounded to its stored dtype before z and q are computed. The symmetric scale is the smallest that
clips nothing: since z = 8 leaves 8 levels below and 7 above, the two sides are divided by their own number of
levels.
"""

from __future__ import annotations

import numpy as np

from workbench.formats.spec import WeightFormat
from workbench.quantizers.blocks import (
    Quantized,
    checked_weights,
    in_blocks,
    quantize_with,
    rounded_scale,
    rounded_zero,
    row_chunks,
)


def ranges(weights: np.ndarray, format: WeightFormat) -> tuple[np.ndarray, np.ndarray]:
    """lo = min(w, 0) and hi = max(w, 0) of each block, float32 of `format.scale_shape`."""
    rows, columns = weights.shape
    lo = np.empty((rows, format.blocks(columns)), np.float32)
    hi = np.empty_like(lo)
    for part in row_chunks(rows, columns):
        chunk = in_blocks(weights[part], format)
        np.minimum(chunk.min(axis=2), 0, out=lo[part])
        np.maximum(chunk.max(axis=2), 0, out=hi[part])
    if format.granularity == "tensor":
        return lo.min(keepdims=True), hi.max(keepdims=True)
    return lo, hi


def wanted_scale(lo: np.ndarray, hi: np.ndarray, format: WeightFormat) -> np.ndarray:
    """The scale that spans [lo, hi], lo <= 0 <= hi, before it is rounded to what is stored, float32."""
    low, high = format.q_range
    with np.errstate(over="ignore", invalid="ignore"):
        if format.symmetric:
            zero = format.implied_zero
            return np.maximum(hi / np.float32(high - zero), -lo / np.float32(zero - low))
        return (hi - lo) / np.float32(high - low)


def parameters(lo: np.ndarray, hi: np.ndarray, format: WeightFormat) -> tuple[np.ndarray, np.ndarray]:
    """Scale and zero-point (float32, rounded to what is stored) that span [lo, hi], lo <= 0 <= hi."""
    scale = rounded_scale(wanted_scale(lo, hi, format), format)
    if format.symmetric:
        return scale, np.full_like(scale, format.implied_zero)
    return scale, clamped_zero(format.q_range[0] - lo / scale, format)


def clamped_zero(zero: np.ndarray, format: WeightFormat) -> np.ndarray:
    """A zero-point rounded to what is stored and clamped to the range of q, where 0 in range puts it."""
    low, high = format.q_range
    return np.clip(rounded_zero(zero, format), np.float32(low), np.float32(high))


def quantize(weights: np.ndarray, format: WeightFormat, importance: np.ndarray | None = None) -> Quantized:
    """Quantizes weights [rows, columns] by rounding to nearest; `importance` does not matter here.

    Raises `ValueError` for non-finite weights (naming the first) and for scales beyond the scale dtype.
    """
    weights = checked_weights(weights, format)
    scale, zero = parameters(*ranges(weights, format), format)
    return quantize_with(weights, format, scale, zero)
