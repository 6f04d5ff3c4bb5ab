"""Linear layers, y = x W^T (+ bias), one kernel a weight format: `linear[f32]` ... `linear[int2]`; with a residual
factor * y + residual.

Four variants share the reference: `gemv` for one token, `batch` for 2 to 16 on a GPU, `tile` for many; of software
adapters those whose subgroups have 8 lanes take `broadcast` for many, others `batch`. A call may compute a range of
rows of a larger result: it then writes columns [row_offset, row_offset + rows) of y [tokens, out_rows], since no
binding takes an embedding of 1 GB whole.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from ..composition import rule
from ..lora.low_rank import (
    LOW_RANK,
    LOW_RANK_DEFAULTS,
    LOW_RANK_PARAMS,
    low_rank_inputs,
    low_rank_sum,
    widened,
)
from ..numerics import EPS32, random_tensor
from ..pair import Adapter, Context, Cost, Kernel, Port, Variant, ceil_div, register, spread
from ..reduce import eight_lanes_only, one_subgroup
from ..tiles import beyond_a_workgroup
from ..weights import (
    BITS,
    WEIGHT_FORMATS,
    dense,
    is_quantized,
    magnitude_planes,
    piece_library,
    quant_params,
    random_planes,
    weight_library,
    weight_ports,
    weight_sizes,
    with_planes,
)
from . import halves
from .few_tokens import batch, epilogue, few_tokens, gemv, long_rows


def in_order(context: Context) -> tuple[str, ...]:
    """The library files of a tile whose rows are those of the weight."""
    return (*epilogue(context), "tile_rows/in_order")


def x_library(context: Context) -> str:
    """The library file that reads float activations, four at a time where rows allow it."""
    return "x/scalar" if context["columns"] % 4 else "x/vec4"


def tiles(context: Context) -> tuple[int, int, int]:
    """A workgroup for each tile of a product."""
    rows, tokens = context["tile_rows"], context["tile_tokens"]
    return spread(ceil_div(context["rows"], rows), ceil_div(context["tokens"], tokens))


def _refuse_tile(context: Context) -> str | None:
    if "tile_rows" not in context.sizes:
        return None
    tokens, rows = context["tile_tokens"], context["tile_rows"]
    threads = tokens // context["tokens_per_thread"] * (rows // context["rows_per_thread"])
    return beyond_a_workgroup(threads, 4 * context["tile_columns"] * (tokens + rows))


def _gpu_gemv(fmt: str, f16: bool, context: Context) -> tuple[int, int, int]:
    """Threads, teams and rows a team: floats measured on an H200, integers on an H100. f16: in f16 arithmetic."""
    if not is_quantized(fmt):
        return (256, 2, 2) if long_rows(context) else (256, 1, 1)
    if long_rows(context):
        return (256 if f16 or fmt == "int2" else 128), 1, 4
    return 128, 1, (8 if f16 and fmt == "int2" else 4)


def _gpu_batch(fmt: str, f16: bool, context: Context) -> tuple[int, int, int]:
    """Tokens at once, rows a team and threads, measured on an H100: registers set the limit, and beyond it a batch
    takes up to five times as long. f16: in f16 arithmetic."""
    if not is_quantized(fmt):
        return 8, 4, 64
    if f16:
        return (2, 2, 64) if fmt == "int2" else (4, 4, 64)
    return {"int8": (4, 2, 64), "int4": (4, 4, 64), "int2": (2, 4, 64)}[fmt]


def tiled(
    fmt: str, rows: Callable[[Context], tuple[str, ...]], place: str = "tile_place/tokens"
) -> dict[str, Variant]:
    """The variants for many tokens. rows: the library files with `weight_row` and `store_two`; place: that with what a
    tile of tokens is, which `broadcast` does not ask."""
    return {
        "tile": Variant(
            "linear/linear_tile",
            grid=tiles,
            tunables={
                "tile_tokens": (64, 32, 128),
                "tile_rows": (64, 32, 128),
                "tile_columns": (16, 8, 32),
                "tokens_per_thread": (8, 4),
                "rows_per_thread": (4, 8),
            },
            library=lambda c: (x_library(c), place, *weight_library(fmt, c), *rows(c)),
            refuse=_refuse_tile,
            why="many tokens: a weight in workgroup memory serves 64 of them",
        ),
        "broadcast": Variant(
            "linear/linear_broadcast",
            grid=lambda c: spread(ceil_div(c["rows"], 32), ceil_div(c["tokens"], 8)),
            library=lambda c: (*weight_library(fmt, c), *rows(c)),
            refuse=eight_lanes_only,
            why="many tokens on an adapter with 8 lanes a subgroup: no barrier, few loads",
        ),
    }


def _variants(fmt: str) -> dict[str, Variant]:
    def pieces(context: Context) -> tuple[str, ...]:
        return (x_library(context), "weigh/none", *piece_library(fmt, context))

    found = {
        "gemv": gemv(
            pieces,
            "few tokens: every weight byte is read once a token, at the memory's speed",
            gpu=partial(_gpu_gemv, fmt, False),
            pieces=fmt,
        ),
        "batch": batch(
            pieces,
            "2 to 16 tokens on a GPU, more in software: every weight byte is read once for several of them",
            gpu=partial(_gpu_batch, fmt, False),
            pieces=fmt,
        ),
        **tiled(fmt, in_order),
    }
    if is_quantized(fmt):
        tolerance = partial(linear_tolerance, fmt, f16=True)
        in_f16 = {
            "gemv": gemv(pieces, found["gemv"].why, gpu=partial(_gpu_gemv, fmt, True), pieces=fmt),
            "batch": batch(pieces, found["batch"].why, gpu=partial(_gpu_batch, fmt, True), pieces=fmt),
        }
        for name, in_f32 in in_f16.items():
            found[f"{name}_f16"] = halves.in_f16(in_f32, tolerance)
    return found


def _prefer(fmt: str, context: Context) -> tuple[str, str]:
    if chosen := few_tokens(context):
        variant, reason = chosen
        if halves.pays(fmt, variant, context):
            return f"{variant}_f16", f"{reason}, in f16 arithmetic"
        return chosen
    if barriers_cost(context.adapter):
        return "batch", BATCH_ON_CPU
    return prefer_tiled(context)


#: Why a software adapter takes `batch` for many tokens.
BATCH_ON_CPU = "a software adapter: sums within a subgroup need no barrier, which is what costs"


def barriers_cost(adapter: Adapter) -> bool:
    """Whether an adapter has nothing like a tile without barriers: 16 tokens times 256x256 in INT4 take 105 ms in tiles
    on SwiftShader and 6 ms in batches, 7.6 and 1.0 on lavapipe with 4 lanes; at 64 tokens 76 and 18, 6.0 and 4.7."""
    return one_subgroup(adapter) and adapter.subgroup_size != 8


def prefer_tiled(context: Context) -> tuple[str, str]:
    """Of `tiled` the variant that suits an adapter, and why."""
    if context.adapter.is_cpu and context.adapter.subgroup_size == 8:
        return "broadcast", "a software adapter with 8 lanes a subgroup: loads and barriers are what costs"
    return "tile", f"{context['tokens']} tokens: a tile of weights serves 64 of them"


def linear_reference(
    x, weight, bias=None, residual=None, factor=1.0, row_offset=0, out_rows=None, lora_b=None, **given
):
    """y = x W^T + bias + what adapters add (`wgsl_kernels.lora.low_rank`), with a residual factor * y +
    residual, placed at columns [row_offset, row_offset + rows) of [tokens, out_rows]."""
    y = F.linear(x, weight[:, : x.shape[-1]].to(x.dtype), None if bias is None else bias.to(x.dtype))
    if lora_b is not None:
        y = y + low_rank_sum(y.shape[-1], {**given, "lora_b": lora_b}).to(y.dtype)
    if out_rows is not None and out_rows != y.shape[-1]:
        y = F.pad(y, (row_offset, out_rows - row_offset - y.shape[-1]))
    return y if residual is None else factor * y + residual.to(x.dtype)


def linear_inputs(  # many parameters: one for each option of `Kernel.inputs`
    fmt: str,
    seed=0,
    tokens=1,
    rows=64,
    columns=64,
    n=None,
    k=None,
    bias=False,
    residual=False,
    factor=1.0,
    adapters=0,
    x_dtype="f32",
    y_dtype="f32",
    **weight_options,
) -> dict:
    """Random operands of a linear layer from a seed; n and k are other names of rows and columns. adapters: how many
    of them add to it."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = n or rows, k or columns
    arguments: dict[str, Any] = {"x": random_tensor(generator, (tokens, columns), x_dtype)}
    arguments |= random_planes(fmt, generator, rows, columns, **weight_options)
    if bias:
        arguments["bias"] = random_tensor(generator, (rows,), "f32")
    if residual:
        arguments["residual"] = random_tensor(generator, (tokens, rows), "f32")
        arguments["factor"] = factor
    return {**arguments, **low_rank_inputs(generator, tokens, rows, adapters)}


def linear_tolerance(fmt: str, arguments, expected, *, f16: bool = False) -> dict:
    """Rounding errors of a sum of products grow with sum |w||x|; |w| counts quant and zero apart (see weights.py).

    f16: of products in f16 arithmetic, which come first.
    """
    x = arguments["x"].double()
    bound = x.abs() @ magnitude_planes(fmt, arguments, x.shape[1]).T
    if "bias" in arguments:
        bound = bound + arguments["bias"].double().abs()
    if "lora_b" in arguments:
        inner, up = widened(bound.shape[1], arguments)
        bound = bound + inner.abs() @ up.abs().T
    rounding = halves.bound(fmt, x, arguments) if f16 else torch.zeros_like(bound)
    before, width = arguments.get("row_offset", 0), expected["y"].shape[-1]
    bound, rounding = (F.pad(each, (before, width - before - each.shape[-1])) for each in (bound, rounding))
    if "residual" in arguments:
        factor = abs(arguments.get("factor", 1.0))
        bound, rounding = factor * bound + arguments["residual"].double().abs(), factor * rounding
    return {"y": 8 * EPS32 * bound + rounding + 1e-30}


def _cost(fmt: str, sizes) -> Cost:
    tokens, rows, columns = sizes["tokens"], sizes["rows"], sizes["columns"]
    weight = rows * columns * BITS[fmt] / 8
    if is_quantized(fmt):
        weight += rows * (columns / sizes["block"]) * 3
    return Cost(weight + 4 * tokens * columns, 4 * tokens * rows, 2 * tokens * rows * columns)


def _derive(fmt: str, sizes) -> dict:
    return {"out_rows": sizes.get("rows"), **weight_sizes(fmt)}


def linear(fmt: str) -> Kernel:
    """The pair for one weight format."""
    return register(
        Kernel(
            op="linear",
            form={"weight": fmt},
            reference=linear_reference,
            reads={
                "x": Port(("tokens", "columns")),
                **weight_ports(fmt),
                "bias": Port(("rows",), "f32", optional=True, binding=4),
                "residual": Port(("tokens", "out_rows"), "f32", optional=True, binding=5),
                **LOW_RANK,
            },
            writes={"y": Port(("tokens", "out_rows"), binding=6)},
            params={
                **quant_params(fmt),
                "factor": float,
                "row_offset": int,
                "out_rows": int,
                **LOW_RANK_PARAMS,
            },
            defaults={"factor": 1.0, "row_offset": 0, **LOW_RANK_DEFAULTS},
            variants=_variants(fmt),
            make_inputs=with_planes(fmt, linear_inputs),
            tolerance=partial(linear_tolerance, fmt),
            cost=partial(_cost, fmt),
            prepare=partial(dense, fmt),
            prepared_ports=tuple(weight_ports(fmt)),
            derive=partial(_derive, fmt),
            prefer=partial(_prefer, fmt),
        )
    )


for _format in WEIGHT_FORMATS:
    linear(_format)


def _sum_behind(p, x, weight, residual, bias=None, *, factor):
    """A linear layer and the sum behind it."""
    return p.add(a=residual, b=p.linear(x=x, weight=weight, bias=bias), factor=factor)


def _with_residual(p, x, weight, residual, bias=None, *, factor):
    return p.linear(x=x, weight=weight, bias=bias, residual=residual, factor=factor)


LINEAR_SUM = rule(
    _sum_behind,
    _with_residual,
    name="linear_sum",
    where=lambda facts, match: match.label("residual") == "f32",
)
