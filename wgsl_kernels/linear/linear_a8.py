"""Linear layers with INT8 activations and integer weights: `linear[int8, a8]`, `linear[int4, a8]`, `linear[int2, a8]`.

Activations come from `quantize_activations` in blocks of 32, in the order (`stride`) that the weight format unpacks
to. Products are integer dot products of four (DP4A), exact; only scales are floats. What this costs in accuracy is
the activations' rounding, which a plan states by its own calls.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch

from ..layout import A8, INT8_BLOCK, INT8_STRIDES
from ..lora.low_rank import LOW_RANK, LOW_RANK_DEFAULTS, LOW_RANK_PARAMS
from ..makers import handing_on
from ..pair import Adapter, Context, Cost, Kernel, Port, Variant, ceil_div, register, spread
from ..quantized.quantize_activations import quantize_activations, unpack_activations
from ..reduce import known_lanes, lanes_default, one_subgroup, team_reduction, whole_subgroups
from ..tiles import beyond_a_workgroup
from ..weights import (
    BITS,
    dense,
    quant_params,
    weight_ports,
    weight_sizes,
    with_planes,
)
from .few_tokens import epilogue, few_tokens, gemv, long_rows
from .linear import (
    BATCH_ON_CPU,
    in_order,
    linear_inputs,
    linear_reference,
    linear_tolerance,
    tiles,
)
from .products_a8 import integer_pieces, packed_library
from .staged_a8 import PIECES, refuse_staged, staged, within_rows

#: Tokens of a step up to which reading weights once for every eight of them is faster than a tile, whose workgroups are
#: too few: 4096x14336 takes 62 us for 32 tokens, a tile 540 (INT4, H200).
A8_BATCH = 32


def _pieces(fmt: str, context: Context) -> tuple[str, ...]:
    return ("x_a8/buffer", *integer_pieces(fmt, context, context["x_groups"]))


def _gpu_defaults(fmt: str, context: Context) -> tuple[int, int, int]:
    """Threads, teams and rows a team: INT8 and INT4 measured on an H200, INT2 on an H100."""
    if fmt == "int2":
        if long_rows(context):
            return 224, 1, 8
        return (64, 1, 8) if context["rows"] > 8192 else (128, 2, 4)
    if fmt == "int8":
        return (256, 1, 1) if long_rows(context) else (256, 2, 1)
    return (256, 2, 2) if long_rows(context) else (256, 4, 2)


def _gpu_staged(fmt: str, context: Context) -> dict[str, int]:
    """Tunables of the staged variant, measured on an H200."""
    many = context["rows"] > 8192
    if fmt == "int2":
        short = (64, 1, 8, 1, 0) if many else (256, 4, 4, 1, 1)
        chosen = (128, 1, 8, 2, 0) if long_rows(context) else short
    else:
        short = (128, 1, 4, 1, 0) if many else (256, 4, 2, 2, 1)
        whole = context["columns"] % 7168 == 0  # turns of 224 pieces
        long = (224, 1, 4, 2, 0) if whole else (128, 2, 4, 2, 1)
        chosen = long if long_rows(context) else short
    names = "workgroup", "teams", "rows_per_team", "held", "columns_staged"
    return dict(zip(names, chosen, strict=True))


def _refuse_tile(context: Context) -> str | None:
    if "tile_rows" not in context.sizes:
        return None
    tokens, rows = context["tile_tokens"], context["tile_rows"]
    threads = tokens // 4 * (rows // context["rows_per_thread"])
    if tokens + rows > threads:
        return f"{threads} threads are fewer than the {tokens} tokens and {rows} rows that they load"
    return beyond_a_workgroup(threads, 40 * (tokens + rows))


def tiled(
    fmt: str, rows: Callable[[Context], tuple[str, ...]], place: str = "tile_place/tokens"
) -> dict[str, Variant]:
    """The variant for many tokens. rows: the library files with `weight_row` and `store_two`; place: that with what a
    tile of tokens is."""
    return {
        "tile": Variant(
            "linear/linear_a8_tile",
            grid=tiles,
            tunables={
                "tile_tokens": (64, 32, 128),
                "tile_rows": (128, 32, 64),
                "rows_per_thread": (8, 4, 16),
            },
            library=lambda c: (place, *packed_library(fmt, c), *rows(c)),
            refuse=_refuse_tile,
            why="many tokens: weights unpacked once serve 64 of them, activations 128 rows",
        )
    }


def _batch_bytes(context: Context) -> int:
    """Of the workgroup memory that activations, two facts for each 32, sums of teams and what adapters add take."""
    threads, lanes = context["workgroup"], known_lanes(context)
    team = threads // context["teams"]
    rows = context["rows_per_team"] * context["batch"]
    sums = 4 * rows * threads // min(team, lanes) if lanes else 16 * threads
    low = 16 * rows * context["teams"] if "lora_b" in context.types else 0
    return (INT8_BLOCK + 8) * context["batch"] * max(32, team) + sums + low


def _refuse_batch(context: Context) -> str | None:
    if not {"workgroup", "batch"} <= set(context.sizes):
        return None
    team, left = divmod(context["workgroup"], context["teams"])
    part = known_lanes(context) > team >= 4 and team & (team - 1) == 0 and not left
    if not part and (reason := whole_subgroups(context)):
        return reason
    return beyond_a_workgroup(context["workgroup"], _batch_bytes(context))


def _batch(fmt: str) -> Variant:
    """The variant for 2 to 32 tokens."""
    sizes = (8, 2, 4)

    def defaults(context: Context) -> dict[str, int]:
        at_once = next((size for size in sorted(sizes) if context["tokens"] <= size), 8)
        alone = {} if known_lanes(context) == 32 else {"workgroup": 32, "teams": 1}
        return {**alone, **lanes_default(context), "batch": at_once}

    return Variant(
        "linear/linear_a8_batch",
        grid=lambda c: spread(
            ceil_div(c["rows"], c["rows_per_team"] * c["teams"]) * ceil_div(c["tokens"], c["batch"])
        ),
        tunables={
            "workgroup": (128, 8, 32, 64, 256),
            "teams": (4, 1, 2, 8, 16),
            "rows_per_team": (4, 2),
            "batch": sizes,
        },
        library=lambda c: (
            "x_a8/buffer",
            *packed_library(fmt, c),
            *epilogue(c),
            *team_reduction(c),
        ),
        refuse=_refuse_batch,
        defaults=defaults,
        why="2 to 32 tokens on a GPU: weights are read and unpacked once for eight of them, activations for 16 rows",
    )


#: Rows from which on one token takes the staged variant: with it the products of a 1B, of 2,048 rows, made its decode
#: 8% slower (H200).
STAGED_ROWS = 4096
STAGED_PAYS = "one token on a GPU: all loads of a workgroup are on their way at once"


def _stages(fmt: str, context: Context) -> bool:
    """Whether the staged variant can run as it was measured, in subgroups of 32."""
    if context["rows"] < STAGED_ROWS:
        return False
    if fmt not in PIECES or context.adapter.is_cpu or known_lanes(context) != 32:
        return False
    sizes = {**context.sizes, **within_rows(fmt, context, _gpu_staged(fmt, context))}
    return refuse_staged(fmt, replace(context, sizes=sizes)) is None


def _variants(fmt: str) -> dict[str, Variant]:
    return {
        "gemv": gemv(
            partial(_pieces, fmt),
            "few tokens: every weight byte is read once a token, and unpacking costs an operation for four weights",
            gpu=partial(_gpu_defaults, fmt),
        ),
        **({"staged": staged(fmt, partial(_gpu_staged, fmt))} if fmt in PIECES else {}),
        "batch": _batch(fmt),
        **tiled(fmt, in_order),
    }


def _prefer(fmt: str, context: Context) -> tuple[str, str]:
    if chosen := few_tokens(context, A8_BATCH):
        if context["tokens"] == 1 and _stages(fmt, context):
            return "staged", STAGED_PAYS
        return chosen
    if barriers_cost_few(context.adapter, context["tokens"]):
        return "batch", BATCH_ON_CPU
    return "tile", f"{context['tokens']} tokens: a tile serves 64 of them"


def barriers_cost_few(adapter: Adapter, tokens: int) -> bool:
    """Whether a software adapter takes so many tokens in batches: 16 times 256x256 in INT4 take 3.7 ms in tiles on
    lavapipe with 8 lanes and 0.3 in batches, 16 and 5 on SwiftShader; of 64 tokens tiles are as good or better."""
    return one_subgroup(adapter) and tokens <= A8_BATCH


def dequantize_activations(fmt: str, x, x_scales, columns: int) -> torch.Tensor:
    """Words in the order of a weight format, and their scales -> x [tokens, columns] in the scales' type."""
    q = unpack_activations(x, INT8_STRIDES[fmt]).to(x_scales.dtype)
    return (q.unflatten(1, (-1, INT8_BLOCK)) * x_scales.unsqueeze(-1)).flatten(1)[:, :columns]


def _reference(fmt: str, x, x_scales, weight, columns, **rest):
    """`linear_reference` of x = x_scale * xq."""
    return linear_reference(
        dequantize_activations(fmt, x, x_scales.to(weight.dtype), columns), weight, **rest
    )


def _make_inputs(fmt: str, **options) -> dict:
    arguments = linear_inputs(fmt, **options)
    x = arguments.pop("x")
    words, scales = quantize_activations.reference(x, block=INT8_BLOCK, stride=INT8_STRIDES[fmt])
    return {"x": words, "x_scales": scales, "columns": x.shape[1], **arguments}


def _tolerance(fmt: str, arguments, expected) -> dict:
    """As for float activations: integer products are exact, sums over blocks round as any sum does."""
    x = dequantize_activations(fmt, arguments["x"], arguments["x_scales"].double(), arguments["columns"])
    return linear_tolerance(fmt, {**arguments, "x": x}, expected)


def _cost(fmt: str, sizes) -> Cost:
    tokens, rows, columns = sizes["tokens"], sizes["rows"], sizes["columns"]
    weight = rows * columns * BITS[fmt] / 8 + rows * (columns / sizes["block"]) * 3
    return Cost(weight + 1.125 * tokens * columns, 4 * tokens * rows, 2 * tokens * rows * columns)


def linear_a8(fmt: str) -> Kernel:
    """The pair for one weight format."""
    return register(
        Kernel(
            op="linear",
            form={"weight": fmt, "x": A8},
            reference=partial(_reference, fmt),
            reads={
                "x": Port(("tokens", "x_words"), "u32", of="x", plane="quants"),
                **weight_ports(fmt),
                "bias": Port(("rows",), "f32", optional=True, binding=4),
                "residual": Port(("tokens", "out_rows"), "f32", optional=True, binding=5),
                "x_scales": Port(("tokens", "x_groups"), "f32", binding=7, of="x", plane="scales"),
                **LOW_RANK,
            },
            writes={"y": Port(("tokens", "out_rows"), binding=6)},
            params={
                **quant_params(fmt),
                "columns": int,
                "factor": float,
                "row_offset": int,
                "out_rows": int,
                **LOW_RANK_PARAMS,
            },
            defaults={"factor": 1.0, "row_offset": 0, **LOW_RANK_DEFAULTS},
            variants=_variants(fmt),
            make_inputs=handing_on(partial(_make_inputs, fmt), with_planes(fmt, linear_inputs)),
            tolerance=partial(_tolerance, fmt),
            cost=partial(_cost, fmt),
            prepare=partial(dense, fmt),
            prepared_ports=tuple(weight_ports(fmt)),
            derive=lambda sizes: {"out_rows": sizes.get("rows"), **weight_sizes(fmt)},
            prefer=partial(_prefer, fmt),
        )
    )


for _format in INT8_STRIDES:
    linear_a8(_format)
