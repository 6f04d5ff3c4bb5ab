"""What the numbers of a buffer are: plain elements, a matrix in some format, activations or a cache in INT8.

A buffer of a plan is one value, whatever its storage: `layers.0.attn.q_proj` is a matrix [rows, columns] in INT4.
A type says in which planes it lies on a device, and which parameters of kernels follow from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from wgsl_kernels.layout import A8, FLOAT_GROUP, INT8_BLOCK, INT8_STRIDES, KV8, cache_words
from workbench.dtypes import ELEMENT_BYTES
from workbench.formats.spec import WeightFormat

Shape = tuple[int | str, ...]
#: Plane -> shape and element type; of plain numbers the only plane is "".
Planes = Mapping[str, tuple[Shape, str]]


def number(dimension: int | str) -> int:
    """A dimension that is the same in every run. Raises `ValueError` for one that a run decides."""
    if isinstance(dimension, str):
        raise ValueError(f"{dimension!r} is a number only in a run")
    return dimension


@dataclass(frozen=True)
class Plain:
    """Numbers of one element type, one after the other."""

    dtype: str
    #: What forms of kernels call it; None for what every kernel tells by the element type alone.
    label: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        if self.dtype not in ELEMENT_BYTES:
            raise ValueError(f"{self.dtype!r} is not an element type; allowed: {', '.join(ELEMENT_BYTES)}")

    def planes(self, shape: Shape) -> Planes:
        return {"": (shape, self.dtype)}

    def params(self, shape: Shape) -> Mapping[str, int | float]:
        return {}

    def __str__(self) -> str:
        return self.dtype


@dataclass(frozen=True)
class Matrix:
    """A matrix [rows, columns] as the converter stores it."""

    format: WeightFormat

    @property
    def label(self) -> str:
        return self.format.dtype

    def planes(self, shape: Shape) -> Planes:
        rows, columns = map(number, shape)
        fmt = self.format
        if not fmt.is_quantized:
            return {"values": ((rows, -(-columns // FLOAT_GROUP) * FLOAT_GROUP), fmt.dtype)}
        return fmt.planes(rows, columns)

    def params(self, shape: Shape) -> Mapping[str, int | float]:
        columns = number(shape[1])
        fmt = self.format
        if not fmt.is_quantized:
            return {"columns": columns}
        return {
            "columns": columns,
            "block": fmt.block(columns),
            "scale_stride": 0 if fmt.granularity == "tensor" else fmt.blocks(columns),
            "zero_unit": 2.0**-fmt.zero_frac_bits,
        }

    def __str__(self) -> str:
        return str(self.format)


@dataclass(frozen=True)
class Int8Rows:
    """Activations [tokens, width] in INT8, a scale for each 32 columns.

    stride: order of their words (`wgsl_kernels.layout.INT8_STRIDES`), which is that of the weights they meet.
    """

    stride: int
    label: ClassVar[str] = A8

    def __post_init__(self) -> None:
        if self.stride not in INT8_STRIDES.values():
            raise ValueError(
                f"a stride of {self.stride!r} is unknown; allowed: {sorted(set(INT8_STRIDES.values()))}"
            )

    def planes(self, shape: Shape) -> Planes:
        rows, width = shape
        groups = -(-number(width) // INT8_BLOCK)
        return {"quants": ((rows, groups * INT8_BLOCK // 4), "u32"), "scales": ((rows, groups), "f32")}

    def params(self, shape: Shape) -> Mapping[str, int | float]:
        return {"columns": number(shape[1]), "stride": self.stride}

    def __str__(self) -> str:
        return f"{A8}/{INT8_BLOCK}/{self.stride}"


@dataclass(frozen=True)
class Int8Cache:
    """Keys and values [sequences, 2, heads, capacity, head_dim] in INT8, a scale for each head and position."""

    label: ClassVar[str] = KV8

    def planes(self, shape: Shape) -> Planes:
        *rows, head_dim = shape
        return {"quants": ((*rows, cache_words(number(head_dim))), "u32"), "scales": (tuple(rows), "f32")}

    def params(self, shape: Shape) -> Mapping[str, int | float]:
        return {"head_dim": number(shape[-1])}

    def __str__(self) -> str:
        return KV8


Type = Plain | Matrix | Int8Rows | Int8Cache


def to_json(kind: Type) -> str | dict:
    """A JSON value; `from_json` is the inverse."""
    return kind.format.to_json() if isinstance(kind, Matrix) else str(kind)


def from_json(data: str | Mapping) -> Type:
    """Raises `ValueError` for what is no type."""
    if isinstance(data, Mapping):
        return Matrix(WeightFormat.from_json(dict(data)))
    if data == KV8:
        return Int8Cache()
    if isinstance(data, str) and data.startswith(f"{A8}/"):
        _, block, stride = data.split("/")
        if int(block) == INT8_BLOCK:
            return Int8Rows(int(stride))
    return Plain(data)
