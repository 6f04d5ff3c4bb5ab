"""Weights of a source as the planes that kernels bind, in numpy, part by part.

Float planes are padded with zero columns to whole groups of 32; integer planes are what the file holds.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from wgsl_kernels.layout import FLOAT_GROUP
from workbench.formats.tensor import WeightTensor
from workbench.models.source import Source
from workbench.plan.plan import Buffer


def device_planes(tensor: WeightTensor) -> dict[str, np.ndarray]:
    """Plane arrays of a matrix by name, rows first. Copies only where float rows need padding."""
    if tensor.format.is_quantized:
        return dict(tensor.planes)
    values = tensor.planes["values"]
    rest = -values.shape[1] % FLOAT_GROUP
    return {"values": np.pad(values, ((0, 0), (0, rest))) if rest else values}


def matrix_parts(source: Source, name: str) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """(first row, planes) of each part of a matrix as it lies in the file, one part in memory at a time."""
    for first, tensor in source.parts(name):
        yield first, device_planes(tensor)


def vector(source: Source, buffer: Buffer) -> np.ndarray:
    """A one-dimensional weight of a plan, in f32."""
    values = source.tensor(buffer.tensor).dequantize()
    return values + np.float32(buffer.offset) if buffer.offset else values
