"""A weight in memory: a name, a shape, a format, and its planes as numpy arrays.

Planes of a quantized tensor [rows, columns] (always planar; the interleaved layout exists in files alone):

    quants   uint32            [rows, padded_columns * bits / 32]   see packing.py
    scales   float16, float32  [rows, blocks], or [1, 1] for granularity "tensor"
    zeros    int8              like scales; absent if symmetric, or if there are
    offsets  float16, float32  like scales, in their type

and of a float tensor of any shape: `values`, as float32, float16, or uint16 (the bits of bf16).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from workbench.dtypes import NUMPY
from workbench.formats.bf16 import from_bf16, to_bf16
from workbench.formats.errors import FormatError
from workbench.formats.packing import pack, unpack
from workbench.formats.spec import WeightFormat

# dequantize() works on so many weights at a time.
_CHUNK = 1 << 20


def plane_specs(shape: tuple[int, ...], format: WeightFormat) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """The planes a tensor has: name -> (shape, dtype). `FormatError` if a quantized tensor is not 2-D."""
    if not format.is_quantized:
        return {"values": (tuple(shape), NUMPY[format.dtype])}
    if len(shape) != 2:
        raise FormatError(f"{list(shape)} is not [rows, columns], which {format} needs", field="shape")
    return {name: (size, NUMPY[element]) for name, (size, element) in format.planes(*shape).items()}


@dataclass(frozen=True, eq=False)
class WeightTensor:
    """One weight with its planes; their names, shapes and dtypes are checked when made (`FormatError`).

    A default block size is fitted to the shape: the format of a tensor names it.
    """

    name: str
    shape: tuple[int, ...]
    format: WeightFormat
    planes: dict[str, np.ndarray] = field(repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(int(size) for size in self.shape))
        if any(size < 1 for size in self.shape):
            raise FormatError(f"{list(self.shape)} has an empty dimension", tensor=self.name, field="shape")
        try:
            wanted = plane_specs(self.shape, self.format)
        except FormatError as error:
            raise error.at(tensor=self.name) from None
        if self.format.is_quantized:
            object.__setattr__(self, "format", self.format.fitted(self.shape[1]))
        if set(self.planes) != set(wanted):
            raise FormatError(
                f"has {sorted(self.planes)}, but {self.format} needs {sorted(wanted)}",
                tensor=self.name,
                field="planes",
            )
        for name, (shape, dtype) in wanted.items():
            plane = self.planes[name]
            if plane.shape != shape or plane.dtype != dtype:
                raise FormatError(
                    f"is {plane.dtype} {list(plane.shape)}, but {self.format} of shape {list(self.shape)} "
                    f"needs {dtype} {list(shape)}",
                    tensor=self.name,
                    field=f"planes.{name}",
                )

    @property
    def nbytes(self) -> int:
        """Bytes of all planes."""
        return sum(plane.nbytes for plane in self.planes.values())

    def rows(self, start: int, stop: int) -> WeightTensor:
        """The tensor of rows start to stop, as views; with granularity "tensor" they share its scale."""
        if not self.shape or not 0 <= start < stop <= self.shape[0]:
            raise IndexError(f"rows {start} to {stop} of {self.name!r} with shape {list(self.shape)}")
        planes = {
            name: plane if self.format.shares(name) else plane[start:stop]
            for name, plane in self.planes.items()
        }
        return WeightTensor(self.name, (stop - start, *self.shape[1:]), self.format, planes)

    def zero_points(self) -> np.ndarray:
        """The zero-points as float32, shaped like the scales: stored / 2**zero_frac_bits, or implied.

        Of a format with offsets: where weights are zero, -offset / scale, rounded; 0 where the scale is.
        """
        if self.format.symmetric:
            return np.full(self.planes["scales"].shape, self.format.implied_zero, np.float32)
        if self.format.offset:
            scales, offsets = (self.planes[name].astype(np.float32) for name in ("scales", "offsets"))
            return np.divide(-offsets, scales, out=np.zeros_like(scales), where=scales != 0)
        return self.planes["zeros"].astype(np.float32) / np.float32(2**self.format.zero_frac_bits)

    def quants(self) -> np.ndarray:
        """The unpacked q with its padding [rows, padded_columns]: int8 for int8, else uint8."""
        columns = self.format.padded_columns(self.shape[1])
        return unpack(self.planes["quants"], self.format.bits, columns, self.format.order)

    def dequantize(self) -> np.ndarray:
        """The weights as float32 of `shape`: scale * (q - z), or scale * q + offset, each step rounded to f32; floats
        are exact."""
        if not self.format.is_quantized:
            values = self.planes["values"]
            return from_bf16(values) if self.format.dtype == "bf16" else values.astype(np.float32)
        rows, columns = self.shape
        form, words = self.format, self.planes["quants"]
        padded, blocks = form.padded_columns(columns), form.blocks(columns)
        scales = np.broadcast_to(self.planes["scales"].astype(np.float32), (rows, blocks))
        zeros = self.planes["offsets"].astype(np.float32) if form.offset else self.zero_points()
        zeros = np.broadcast_to(zeros, (rows, blocks))
        result = np.empty((rows, columns), np.float32)
        step = max(1, _CHUNK // padded)
        for start in range(0, rows, step):
            part = slice(start, min(rows, start + step))
            q = unpack(words[part], form.bits, padded, form.order).astype(np.float32)
            q = q.reshape(q.shape[0], blocks, padded // blocks)
            if not form.offset:
                q -= zeros[part, :, None]
            q *= scales[part, :, None]
            if form.offset:
                q += zeros[part, :, None]
            result[part] = q.reshape(q.shape[0], padded)[:, :columns]
        return result


def quantized_tensor(
    name: str,
    shape: tuple[int, ...],
    format: WeightFormat,
    q: np.ndarray,
    scales: np.ndarray,
    zeros: np.ndarray | None,
) -> WeightTensor:
    """Packs an unpacked q [rows, padded_columns] with its scales and zeros (offsets; None if symmetric) into a tensor.

    Scales and offsets are cast to the scale dtype of the format, zeros to int8; they must survive the cast unchanged.
    """
    try:
        wanted = plane_specs(shape, format)
        if "quants" not in wanted:
            raise FormatError(f"{format} is not a quantized format", field="format")
        padded = (shape[0], format.padded_columns(shape[1]))
        if np.shape(q) != padded:
            raise FormatError(f"has shape {list(np.shape(q))}, but {format} needs {list(padded)}", field="q")
        planes = {
            "quants": pack(q, format.bits, format.order),
            "scales": _cast("scales", scales, wanted["scales"][1]),
        }
        if zeros is not None:
            plane, element = format.zero_plane or ("zeros", "i8")
            planes[plane] = _cast(plane, zeros, NUMPY[element])
        return WeightTensor(name, shape, format, planes)
    except FormatError as error:
        raise error.at(tensor=name) from None


def _cast(what: str, values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    values = np.asarray(values)
    with np.errstate(over="ignore", invalid="ignore"):
        cast = np.ascontiguousarray(values.astype(dtype, copy=False))
        same = np.array_equal(cast.astype(values.dtype), values)
    if not same:
        raise FormatError(
            f"hold values that {dtype} cannot represent; round them before computing q", field=what
        )
    return cast


def float_tensor(name: str, values: np.ndarray, dtype: str) -> WeightTensor:
    """A float tensor from `values` of any shape; `dtype` is "f32", "f16" or "bf16", rounded to nearest even.

    uint16 values are taken as the bits of bf16. A finite value that becomes infinite is refused:
    `FormatError` names its index.
    """
    format = WeightFormat(dtype)
    if format.is_quantized:
        raise FormatError(f"{dtype!r} is not a float format", tensor=name, field="dtype")
    values = np.asarray(values)
    if values.dtype == np.uint16:
        if dtype == "bf16":
            return WeightTensor(name, values.shape, format, {"values": np.require(values, requirements="C")})
        values = from_bf16(values)
    if values.dtype.kind != "f":
        raise FormatError(
            f"are {values.dtype}, not floats (or uint16 bits of bf16)", tensor=name, field="values"
        )
    with np.errstate(over="ignore"):
        if dtype == "bf16":
            stored = to_bf16(values)
            infinite = (stored & 0x7FFF) == 0x7F80
        else:
            stored = np.require(values.astype(NUMPY[dtype], copy=False), requirements="C")
            infinite = np.isinf(stored) if stored.dtype != values.dtype else np.zeros(1, bool)
    if infinite.any():
        overflow = np.argwhere(infinite & np.isfinite(values))
        if len(overflow):
            index = overflow[0].tolist()
            raise FormatError(
                f"{values[tuple(index)]} at {index} is too large for {dtype}", tensor=name, field="values"
            )
    return WeightTensor(name, values.shape, format, {"values": stored})
