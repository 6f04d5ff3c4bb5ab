"""One tensor of a source in another format, in ranges of rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from inspect import signature

import numpy as np

from workbench.convert.suited import quantized_once
from workbench.errors import CheckpointError
from workbench.formats.errors import FormatError
from workbench.formats.spec import WeightFormat
from workbench.formats.tensor import WeightTensor, float_tensor, plane_specs, quantized_tensor
from workbench.models.finite import require_finite
from workbench.models.source import Source
from workbench.quantizers import QUANTIZERS
from workbench.quantizers.blocks import Quantized

#: Rounds weights f32 [rows, columns].
Quantize = Callable[[np.ndarray, WeightFormat], Quantized]


def quantizer_on(name: str, device: str) -> Quantize:
    """The quantizer of that name, on a device (as torch names it) if it can use one."""
    quantize = QUANTIZERS[name].quantize
    return partial(quantize, device=device) if "device" in signature(quantize).parameters else quantize


def convert_tensor(
    source: Source, name: str, fmt: WeightFormat, quantize: Quantize, advance=None
) -> WeightTensor:
    """One tensor of the source in another format. `advance(n)` is called after each n weights.

    Raises CheckpointError for weights that are not finite, or that the format cannot hold.
    """
    shape, _ = source.describe(name)
    quantized_once(source, name, fmt)
    # One scale over all rows of a matrix needs all rows at once.
    whole = fmt.is_quantized and fmt.granularity == "tensor"
    planes = {plane: np.empty(size, dtype) for plane, (size, dtype) in plane_specs(shape, fmt).items()}
    for start, part in [(0, source.tensor(name))] if whole else source.parts(name):
        part = _converted(source, name, start, part, fmt, quantize)
        for plane, values in part.planes.items():
            planes[plane][start : start + len(values)] = values
        if advance is not None:
            advance(math.prod(part.shape))
    return WeightTensor(name, shape, fmt, planes)


def _converted(
    source: Source, name: str, start: int, part: WeightTensor, fmt: WeightFormat, quantize: Quantize
):
    """Rows of a tensor, the first of which is `start`, in another format."""
    if part.format.is_quantized and part.format == replace(fmt, order="low-first"):
        zeros = part.planes[fmt.zero_plane[0]] if fmt.zero_plane is not None else None
        return quantized_tensor(name, part.shape, fmt, part.quants(), part.planes["scales"], zeros)
    values = part.dequantize()
    try:
        if fmt.is_quantized:
            return quantized_tensor(name, values.shape, fmt, *quantize(values, fmt))
        require_finite(source.path, name, start, values)
        return part if part.format == fmt else float_tensor(name, values, fmt.dtype)
    except FormatError as error:
        raise CheckpointError(f"{source.path}: {error}") from error
    except ValueError as error:
        require_finite(source.path, name, start, values)  # says where in the whole tensor
        raise CheckpointError(f"{source.path}: tensor {name!r} cannot be {fmt}: {error}") from error
