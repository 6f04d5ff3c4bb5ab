"""What a block format does to a matrix, one cause after another.

Quantizing is applied in steps, each with all causes before it:

    range       weights clipped to the range that their block's levels span
    rounding    the nearest level, with scale and zero-point as real numbers
    scale       the same with the scale rounded to its stored type (f16)
    zero-point  the same with the zero-point rounded as well: what the file holds

For round to nearest the real scale and zero-point are those of the block's range, so nothing is clipped and `range`
is 0. Methods that search (grid, hqq) choose their parameters anew under each restriction; for them "real" is the
closest that the format can say: an f32 scale, and a zero-point with as many fraction bits as its dtype allows (3 for
INT4, 5 for INT2, none for INT8, whose `zero-point` step is then 0). A symmetric format has no `zero-point` step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from workbench.errors import ProtocolError
from workbench.formats.spec import MAX_ZERO_FRAC_BITS, WeightFormat
from workbench.formats.tensor import WeightTensor, quantized_tensor
from workbench.quantizers import QUANTIZERS, QUANTIZERS_OF_ONE_MATRIX, rtn
from workbench.quantizers.blocks import Quantized, in_blocks, rounded_scale

#: A quantizer by name, or a function (weights f32 [rows, columns], format) -> Quantized.
Quantizer = str | Callable[[np.ndarray, WeightFormat], Quantized]
_SMALLEST = 2.0**-126


def stages(format: WeightFormat) -> tuple[str, ...]:
    """The steps that a format has, in order. Raises ProtocolError for a float format."""
    if not format.is_quantized:
        raise ProtocolError(f"{format} is not quantized; a waterfall needs int8, int4 or int2")
    return ("range", "rounding", "scale", "zero-point")[: 3 if format.symmetric else 4]


def stage_weights(
    weights: np.ndarray, format: WeightFormat, stage: str, quantizer: Quantizer = "rtn"
) -> np.ndarray:
    """Weights f32 [rows, columns] with all causes up to `stage` applied. Raises ProtocolError for unknown names,
    ValueError for what the quantizer refuses."""
    names = stages(format)
    if stage not in names:
        raise ProtocolError(f"stage {stage!r} is unknown; {format} has {', '.join(names)}")
    weights = np.asarray(weights, np.float32)
    if stage == names[-1]:
        return stored(weights, format, quantizer).dequantize()
    if quantizer == "rtn":
        return _real_rtn(weights, format, stage)
    relaxed = replace(format, scale_dtype="f32" if stage != "scale" else format.scale_dtype)
    if not format.symmetric:
        relaxed = replace(relaxed, zero_frac_bits=MAX_ZERO_FRAC_BITS[format.dtype])
    tensor = stored(weights, relaxed, quantizer)
    if stage != "range":
        return tensor.dequantize()
    return _clipped(
        weights, format, tensor.planes["scales"].astype(np.float64), tensor.zero_points().astype(np.float64)
    )


def stored(weights: np.ndarray, format: WeightFormat, quantizer: Quantizer = "rtn") -> WeightTensor:
    """The packed tensor that a quantizer makes, in the bit order of the kernels."""
    if isinstance(quantizer, str):
        if quantizer not in QUANTIZERS_OF_ONE_MATRIX:
            raise ProtocolError(
                f"quantizer {quantizer!r} is unknown; allowed: {', '.join(QUANTIZERS_OF_ONE_MATRIX)}"
            )
        quantizer = QUANTIZERS[quantizer].quantize
    format = replace(format, order="low-first")
    return quantized_tensor("weights", weights.shape, format, *quantizer(weights, format))


def _real_rtn(weights: np.ndarray, format: WeightFormat, stage: str) -> np.ndarray:
    """Round to nearest with a real zero-point, and a scale that is real or rounded to its type; f64 inside."""
    low, high = format.q_range
    lo, hi = (end.astype(np.float64) for end in rtn.ranges(weights, format))
    if format.symmetric:
        scale = np.maximum(hi / (high - format.implied_zero), -lo / (format.implied_zero - low))
    else:
        scale = (hi - lo) / (high - low)
    scale = np.maximum(scale, _SMALLEST)
    if stage == "scale":
        scale = rounded_scale(scale.astype(np.float32), format).astype(np.float64)
    zero = np.full_like(scale, format.implied_zero) if format.symmetric else low - lo / scale
    if stage == "range":
        return _clipped(weights, format, scale, zero)
    blocks, (s, z) = in_blocks(weights, format).astype(np.float64), _spread(scale, zero, weights, format)
    return _joined(s * (np.clip(np.rint(blocks / s + z), low, high) - z), weights)


def _clipped(weights: np.ndarray, format: WeightFormat, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
    low, high = format.q_range
    s, z = _spread(scale, zero, weights, format)
    # half a unit in the last place of slack: the range's own ends are not clipped by its rounding
    slack = np.abs(s) * (high - low) * 2.0**-24
    blocks = in_blocks(weights, format).astype(np.float64)
    return _joined(np.clip(blocks, s * (low - z) - slack, s * (high - z) + slack), weights)


def _spread(scale: np.ndarray, zero: np.ndarray, weights: np.ndarray, format: WeightFormat) -> tuple:
    shape = (len(weights), format.blocks(weights.shape[1]))
    return tuple(np.broadcast_to(each, shape)[..., None] for each in (scale, zero))


def _joined(blocks: np.ndarray, like: np.ndarray) -> np.ndarray:
    return blocks.reshape(len(blocks), -1)[:, : like.shape[1]].astype(np.float32)
