"""Weight planes as kernels see them: ports, header libraries, dequantization and random test data, one format each.

On a device a weight is a set of planes. Float formats have `values`, rows padded with zeros to whole groups of 32
columns. Integer formats have `quants` (packed little-endian words, lowest bits first), `scales` and, unless
symmetric, `zeros` or `offsets`; a weight is `scale * (quant - zero * ZERO_UNIT)` or `scale * quant + offset`, one scale
a block of BLOCK columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch

from workbench.dtypes import BITS, IMPLIED_ZERO

from .layout import FLOAT_GROUP
from .makers import Maker, handing_on
from .pair import Context, Port, ceil_div

WEIGHT_FORMATS = tuple(BITS)

#: What every kernel that reads an integer weight is told about it.
QUANT_PARAMS = {"block": int, "scale_stride": int, "zero_unit": float}


def is_quantized(fmt: str) -> bool:
    return fmt.startswith("int")


def weight_ports(fmt: str) -> dict[str, Port]:
    """Bindings 1, 2 and 3 of every kernel that reads weights; names of shapes are the kernel's own business."""
    if not is_quantized(fmt):
        return {"values": Port(("rows", "padded"), fmt, binding=1, of="weight")}
    return {
        "quants": Port(("rows", "words"), "u32", binding=1, of="weight"),
        "scales": Port(("scale_rows", "scale_blocks"), "scale", binding=2, of="weight"),
        "zeros": Port(("scale_rows", "scale_blocks"), "i8", optional=True, binding=3, of="weight"),
        "offsets": Port(("scale_rows", "scale_blocks"), "scale", optional=True, binding=3, of="weight"),
    }


def quant_params(fmt: str) -> dict[str, type]:
    return dict(QUANT_PARAMS) if is_quantized(fmt) else {}


def weight_library(fmt: str, context: Context) -> tuple[str, ...]:
    """The header files that read a weight of this format: `load_octet`, `scale_offset`."""
    if not is_quantized(fmt):
        return f"weights/{fmt}", "scale_offset/none"
    return f"weights/{fmt}", *scale_library(context)


def scale_library(context: Context) -> tuple[str, ...]:
    """The header files that say what an integer weight is: scales, zero-points or offsets, and how they meet quants."""
    scales = f"scales/{context.types['scales']}"
    if "offsets" in context.types:
        return scales, f"zeros/offset_{context.types['offsets']}", "affine/offset", "scale_offset/block"
    zeros = "zeros/plane" if "zeros" in context.types else "zeros/implied"
    return scales, zeros, "affine/zero_point", "scale_offset/block"


def piece_library(fmt: str, context: Context) -> tuple[str, ...]:
    """The header files that multiply pieces of a row: `activations_at`, `prepared`, `piece_at`, `piece_sum`."""
    if not is_quantized(fmt):
        return (f"pieces/{fmt}",)
    narrow = fmt == "int4" and context["piece"] == 16
    return "pieces/int4_narrow" if narrow else f"pieces/{fmt}", *scale_library(context)


def piece_tunables(fmt: str) -> dict[str, tuple[int, ...]]:
    """What variants over `piece_library` have beside tunables of their own: columns of a row that a thread takes at a
    time, of a format where there is a choice."""
    return {"piece": (32, 16)} if fmt == "int4" else {}


def piece_defaults(fmt: str, context: Context, *, crowded: bool = False) -> dict[str, int]:
    """The piece that suits an adapter. crowded: whether a thread reads more than one token's activations with a piece,
    several tokens' or a norm.

    On a GPU INT4 waits for 128 bytes of f32 a thread: with half of them side by side a product alone takes 20% less
    time, one behind a norm up to 38%, one with four tokens half (H100). On a software adapter, with four rows a team, a
    token of the embedded model takes 30% less (llvmpipe).
    """
    narrow = fmt == "int4" and (context.adapter.is_cpu or crowded or context.types["x"] == "f32")
    return {"piece": 16} if narrow else {}


def weight_sizes(fmt: str) -> dict[str, float]:
    """Constants that the header needs beside the parameters."""
    return {"implied_zero": float(IMPLIED_ZERO[fmt])} if is_quantized(fmt) else {}


def unpack(words: torch.Tensor, bits: int) -> torch.Tensor:
    """Packed int32 words [rows, words] -> int32 numbers [rows, words * 32 / bits]; INT8 is signed."""
    shifts = torch.arange(0, 32, bits, dtype=torch.int32)
    numbers = (words.to(torch.int32).unsqueeze(-1) >> shifts) & ((1 << bits) - 1)
    if bits == 8:
        numbers = torch.where(numbers > 127, numbers - 256, numbers)
    return numbers.flatten(1)


def dequantize_planes(fmt: str, planes: Mapping, columns: int, *, dtype=torch.float32) -> torch.Tensor:
    """Planes and parameters by name -> weights [rows, columns] in `dtype`: scale * (q - zero), scale * q + offset."""
    if not is_quantized(fmt):
        return planes["values"][:, :columns].to(dtype)
    block, unit = planes["block"], planes.get("zero_unit", 1.0)
    q = unpack(planes["quants"], BITS[fmt]).to(dtype)
    rows, padded = q.shape
    blocks = q.view(rows, padded // block, block)

    def of_blocks(plane: torch.Tensor) -> torch.Tensor:
        return plane.to(dtype).expand(rows, padded // block).unsqueeze(-1)

    scales = of_blocks(planes["scales"])
    if "offsets" in planes:
        w = scales * blocks + of_blocks(planes["offsets"])
    elif "zeros" in planes:
        w = scales * (blocks - of_blocks(planes["zeros"]) * unit)
    else:
        w = scales * (blocks - IMPLIED_ZERO[fmt])
    return w.view(rows, padded)[:, :columns]


def dense(fmt: str, **planes) -> torch.Tensor:
    """Dequantized weights with their padding, [rows, padded columns]; f64 where the scales (or values) are."""
    plane = planes["scales" if is_quantized(fmt) else "values"]
    columns = planes["quants"].shape[1] * 32 // BITS[fmt] if is_quantized(fmt) else plane.shape[1]
    dtype = torch.float64 if plane.dtype == torch.float64 else torch.float32
    return dequantize_planes(fmt, planes, columns, dtype=dtype)


def magnitude_planes(fmt: str, planes: Mapping, columns: int) -> torch.Tensor:
    """scale * (|q| + |zero|), or scale * |q| + |offset|, f64 [rows, columns]: what rounding errors of `scale * q` plus
    the rest of a weight scale with."""
    if not is_quantized(fmt):
        return planes["values"][:, :columns].double().abs()
    alone = {**planes, "offsets": torch.zeros_like(planes["scales"])}
    q_only = dequantize_planes(fmt, alone, columns, dtype=torch.float64)
    return q_only.abs() + (dequantize_planes(fmt, planes, columns, dtype=torch.float64) - q_only).abs()


def with_planes(fmt: str, make_inputs: Maker) -> Maker:
    """make_inputs(fmt, ...) for one format, as a maker that takes what `random_planes` does for it."""
    planes = partial(random_planes, fmt, None, 0, 0)  # what is left of its signature are the options
    return handing_on(partial(make_inputs, fmt), *((planes,) if is_quantized(fmt) else ()))


def random_planes(  # many parameters: one for each option of `Kernel.inputs`
    fmt: str,
    generator: torch.Generator | None,
    rows: int,
    columns: int,
    *,
    block: int = 32,
    granularity: str = "block",
    symmetric: bool = False,
    scale_dtype: str = "f16",
    zero_frac_bits: int = 0,
    offset: bool = False,
) -> dict:
    """Random planes of a weight with standard deviation near 1/sqrt(columns), and the parameters with them."""
    if not is_quantized(fmt):
        padded = ceil_div(columns, FLOAT_GROUP) * FLOAT_GROUP
        values = torch.zeros(rows, padded)
        values[:, :columns] = torch.randn(rows, columns, generator=generator) / columns**0.5
        dtype = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[fmt]
        return {"values": values.to(dtype)}
    bits = BITS[fmt]
    if granularity != "block":
        block = ceil_div(columns, 32) * 32
    blocks = ceil_div(columns, block)
    words = torch.randint(
        -(2**31), 2**31, (rows, blocks * block * bits // 32), generator=generator, dtype=torch.int64
    ).to(torch.int32)
    shape = (1, 1) if granularity == "tensor" else (rows, blocks)
    spread = (0.5 + torch.rand(shape, generator=generator)) * 3.4 / (2**bits * columns**0.5)
    of_scales = torch.float16 if scale_dtype == "f16" else torch.float32
    planes = {"quants": words, "scales": spread.to(of_scales)}
    low, high = (-128, 128) if bits == 8 else (0, 2**bits << zero_frac_bits)
    if offset:
        planes["offsets"] = -(spread * (low + (high - low) * torch.rand(shape, generator=generator))).to(
            of_scales
        )
    elif not symmetric:
        high = min(high, 128)
        planes["zeros"] = torch.randint(low, high, shape, generator=generator, dtype=torch.int64).to(
            torch.int8
        )
    stride = 0 if granularity == "tensor" else blocks
    return {**planes, "block": block, "scale_stride": stride, "zero_unit": 2.0**-zero_frac_bits}
