"""What a weight format is: number type, granularity, block length, scale and zero-point.

A quantized weight is stored as `w_hat = scale * (q - z)`, with q packed into u32 words:

    int8   q signed in [-128, 127] (symmetric: [-127, 127]), z signed in [-128, 127]
    int4   q unsigned in [0, 15], z in [0, 15]
    int2   q unsigned in [0, 3],  z in [0, 3]

A zero-point is stored as int8. With `zero_frac_bits` = f it is fixed point, z = stored / 2**f, and may then
be anything that int8 holds ([-16, 15.875] for int4 with 3 bits). Symmetric formats store none: z is 0, 8 or
2. Formats with an offset store one in its place, a float of the scales' type: `w_hat = scale * q + offset`, as files of
other projects have it (GGUF's Q4_1 and Q4_K, MLX). No quantizer here makes them.

A *block* is what shares one scale: `block_size` consecutive weights of a row, a whole row ("channel"), or the
whole matrix ("tensor"). Rows are padded to whole blocks ("block") or to a multiple of 32 ("channel" and
"tensor"), so that each row starts at a word.

A format that names no block size asks for the default of its dtype (128; int2: 256), which is fitted to the rows of
each matrix: where it would pad them, it is the largest multiple of 32 below that divides them, if that stores fewer
bits. int4 is thus int4/128 on rows of 4096, and int4/96 on rows of 576. What is stored names its block size.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from math import prod

from workbench.dtypes import BITS, ELEMENT_BYTES, IMPLIED_ZERO
from workbench.formats.errors import FormatError

FLOATS = ("f32", "f16", "bf16")
GRANULARITIES = ("tensor", "channel", "block")
DEFAULT_BLOCK = {"int8": 128, "int4": 128, "int2": 256}
SCALE_DTYPES = ("f16", "f32")
ORDERS = ("low-first", "high-first")
# The fixed-point zero must still reach the largest q: 15 * 2**3 and 3 * 2**5 are the last that fit int8.
MAX_ZERO_FRAC_BITS = {"int8": 0, "int4": 3, "int2": 5}
# Rows of channel and tensor granularity are padded to this many weights: two words of int2, eight of int8.
ROW_MULTIPLE = 32


def _one_of(field: str, value: object, allowed: tuple) -> None:
    if value not in allowed or isinstance(value, bool):
        raise FormatError(
            f"{value!r} is not allowed, only one of {', '.join(map(repr, allowed))}", field=field
        )


@dataclass(frozen=True)
class WeightFormat:
    """How the weights of one tensor are stored. Checked when made; raises `FormatError` naming the field.

    For the float dtypes the other fields mean nothing and are set to their defaults, so that equal formats
    are equal. `block_size=None` with granularity "block" is the dtype's default, fitted to each matrix (`fitted`).
    """

    dtype: str
    granularity: str = "block"
    block_size: int | None = None
    symmetric: bool = False
    scale_dtype: str = "f16"
    zero_frac_bits: int = 0
    order: str = "low-first"
    offset: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.dtype, str):
            raise FormatError(f"{self.dtype!r} is not a string", field="dtype")
        _one_of("dtype", self.dtype, tuple(BITS))
        if not self.is_quantized:
            for each in fields(self)[1:]:
                object.__setattr__(self, each.name, each.default)
            return
        for field, allowed in (
            ("granularity", GRANULARITIES),
            ("scale_dtype", SCALE_DTYPES),
            ("order", ORDERS),
        ):
            _one_of(field, getattr(self, field), allowed)
        for field in ("symmetric", "offset"):
            if not isinstance(getattr(self, field), bool):
                raise FormatError(f"{getattr(self, field)!r} is not true or false", field=field)
        if self.symmetric and self.offset:
            raise FormatError("is given, but a symmetric format stores nothing beside scales", field="offset")
        self._check_block_size()
        self._check_zero_frac_bits()
        if self.dtype == "int8":  # one weight a byte: there is no order within it
            object.__setattr__(self, "order", "low-first")

    def _check_block_size(self) -> None:
        size = self.block_size
        if self.granularity != "block":
            if size is not None:
                raise FormatError(
                    f"{size!r} is given, but granularity {self.granularity!r} has no block size",
                    field="block_size",
                )
            return
        if size is not None and (type(size) is not int or size < 32 or size % 32):
            raise FormatError(f"{size!r} is not a positive multiple of 32", field="block_size")

    def _check_zero_frac_bits(self) -> None:
        bits, most = self.zero_frac_bits, MAX_ZERO_FRAC_BITS[self.dtype]
        if type(bits) is not int or not 0 <= bits <= most:
            raise FormatError(
                f"{bits!r} is not allowed, {self.dtype} takes 0 to {most}", field="zero_frac_bits"
            )
        if bits and self.symmetric:
            raise FormatError(
                f"{bits} is given, but a symmetric format stores no zeros", field="zero_frac_bits"
            )
        if bits and self.offset:
            raise FormatError(
                f"{bits} is given, but a format with offsets stores no zeros", field="zero_frac_bits"
            )

    @property
    def is_quantized(self) -> bool:
        return self.dtype not in FLOATS

    @property
    def bits(self) -> int:
        """Bits of one q, or of one float."""
        return BITS[self.dtype]

    @property
    def q_range(self) -> tuple[int, int]:
        """Smallest and largest q that quantizers produce."""
        self._only_quantized("q_range")
        if self.dtype == "int8":
            return (-127, 127) if self.symmetric else (-128, 127)
        return 0, 2**self.bits - 1

    @property
    def zero_range(self) -> tuple[int, int]:
        """Smallest and largest stored zero-point (an int8; divide by 2**zero_frac_bits)."""
        self._only_quantized("zero_range")
        return (-128, 127) if self.zero_frac_bits else self.q_range

    @property
    def implied_zero(self) -> int:
        """The zero-point of a symmetric format: 0 (int8), 8 (int4), 2 (int2)."""
        self._only_quantized("implied_zero")
        return IMPLIED_ZERO[self.dtype]

    def _only_quantized(self, what: str) -> None:
        if not self.is_quantized:
            raise FormatError(f"{self.dtype!r} has no {what}, it is not quantized", field="dtype")

    @property
    def default_block(self) -> bool:
        """Whether it leaves the block size to the rows of the matrix."""
        return self.is_quantized and self.granularity == "block" and self.block_size is None

    def fitted(self, columns: int) -> WeightFormat:
        """With the block size that it has on rows of `columns`: itself, unless it asks for the default."""
        if not self.default_block:
            return self
        largest = DEFAULT_BLOCK[self.dtype]
        default = replace(self, block_size=largest)
        for size in range(largest, 0, -ROW_MULTIPLE):
            if columns % size == 0:
                smaller = replace(self, block_size=size)
                fewer = smaller.bits_per_weight(1, columns) < default.bits_per_weight(1, columns)
                return smaller if fewer else default
        return default

    def block(self, columns: int) -> int:
        """Weights of one row under one scale: the block size, or the padded row for channel and tensor."""
        self._only_quantized("block")
        if self.granularity == "block":
            return self.fitted(columns).block_size or DEFAULT_BLOCK[self.dtype]
        return -(-columns // ROW_MULTIPLE) * ROW_MULTIPLE

    def padded_columns(self, columns: int) -> int:
        """Weights stored for a row of `columns`."""
        block = self.block(columns)
        return -(-columns // block) * block

    def blocks(self, columns: int) -> int:
        """Blocks of a row; 1 for channel and tensor."""
        return self.padded_columns(columns) // self.block(columns)

    def scale_shape(self, rows: int, columns: int) -> tuple[int, int]:
        """Shape of the planes `scales`, and `zeros` or `offsets`."""
        return (1, 1) if self.granularity == "tensor" else (rows, self.blocks(columns))

    @property
    def zero_plane(self) -> tuple[str, str] | None:
        """Name and element type of the plane beside the scales: zero-points or offsets; None if symmetric."""
        if self.offset:
            return "offsets", self.scale_dtype
        return None if self.symmetric else ("zeros", "i8")

    def bits_per_weight(self, rows: int, columns: int) -> float:
        """Everything stored (quants with their padding, scales, zero-points or offsets) divided by rows * columns."""
        if not self.is_quantized:
            return float(self.bits)
        planes = self.planes(rows, columns).values()
        return 8 * sum(prod(shape) * ELEMENT_BYTES[element] for shape, element in planes) / (rows * columns)

    def planes(self, rows: int, columns: int) -> dict[str, tuple[tuple[int, int], str]]:
        """The planes of a quantized matrix: name -> (shape, element type)."""
        scales = self.scale_shape(rows, columns)
        words = self.padded_columns(columns) * self.bits // 32
        planes = {"quants": ((rows, words), "u32"), "scales": (scales, self.scale_dtype)}
        if self.zero_plane is not None:
            name, element = self.zero_plane
            planes[name] = scales, element
        return planes

    def shares(self, plane: str) -> bool:
        """Whether all rows of a matrix share this plane."""
        return self.granularity == "tensor" and plane != "quants"

    def to_json(self) -> dict:
        """A dict of JSON values; floats need their dtype alone, and `offset` is said only where there is one."""
        if not self.is_quantized:
            return {"dtype": self.dtype}
        return {name: value for name, value in asdict(self).items() if name != "offset" or value}

    @classmethod
    def from_json(cls, data: dict) -> WeightFormat:
        """The inverse of `to_json`; `FormatError` for a missing dtype or an unknown field."""
        if not isinstance(data, dict):
            raise FormatError(f"{data!r} is not an object", field="format")
        if "dtype" not in data:
            raise FormatError("is missing", field="dtype")
        known = [each.name for each in fields(cls)]
        for name in data:
            if name not in known:
                raise FormatError(f"is unknown, only {', '.join(known)} are allowed", field=str(name))
        return cls(**data)

    def __str__(self) -> str:
        """Short name for tables: `int4/128`, `int8/channel/sym`, `int2/256/z5/f32`, `int4/32/offset`, `int4` (default
        block), `f16`."""
        if not self.is_quantized:
            return self.dtype
        parts = [self.dtype]
        if not self.default_block:
            parts.append(str(self.block_size) if self.granularity == "block" else self.granularity)
        if self.symmetric:
            parts.append("sym")
        if self.offset:
            parts.append("offset")
        if self.zero_frac_bits:
            parts.append(f"z{self.zero_frac_bits}")
        if self.scale_dtype != "f16":
            parts.append(self.scale_dtype)
        if self.order != "low-first":
            parts.append(self.order)
        return "/".join(parts)
