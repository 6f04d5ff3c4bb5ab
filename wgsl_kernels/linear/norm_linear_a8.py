"""Fused kernels of a decode step with INT8 activations, which are made in front of a product or behind one.

    norm_linear_a8        rms_norm, quantize_activations, linear_a8
    norm_qkv_a8           rms_norm, quantize_activations, linear_a8 (q, k, v), rope (q), rope (k), kv_append
    norm_gate_up_a8       rms_norm, quantize_activations, linear_a8 (gate, up), silu_mul, quantize_activations
    norm_gate_up_gelu_a8  rms_norm, quantize_activations, linear_a8 (gate, up), gelu_mul, quantize_activations

They stand once a weight format; weights of q, k and v, and of gate and up, are stacked as in
`norm_linear`. Each reference is the composition of the references it replaces. With `linear_a8` and its residual
behind attention and the MLP, a decoder layer is six dispatches where attention is split.
"""

from __future__ import annotations

from functools import partial

import torch

from ..activations.activations import activation_file, gelu_mul, silu_mul
from ..composition import Facts, Match, Rule, fusion
from ..layout import A8, INT8_BLOCK, INT8_STRIDES, KV8
from ..lora.lent import composed_with_adapters
from ..lora.low_rank import LOW_BYTES, LOW_RANK, LOW_RANK_DEFAULTS, LOW_RANK_PARAMS, low_rank_files
from ..makers import handing_on
from ..norm.rms_norm import rms_norm
from ..pair import Context, Cost, Kernel, Port, Variant, ceil_div, register, spread
from ..quantized.quantize_activations import near_half, quantize_activations, quantized_tolerance, rounded
from ..reduce import by_quads, known_lanes, team_reduction
from ..state import NO_RING, RING, slot_file
from ..tiles import WORKGROUP_BYTES
from ..weights import dense, quant_params, weight_ports, weight_sizes, with_planes
from .few_tokens import gemv_defaults, gemv_tunables
from .linear import linear_reference
from .norm_linear import (
    NORM,
    X,
    gate_and_up,
    gate_up_inputs,
    gated_bound,
    halves_of,
    in_place,
    linear_inputs,
    placed,
    product_bound,
    refuse_columns,
    weight_parts,
    with_low_rank,
)
from .norm_qkv import (
    qkv_derive,
    qkv_inputs,
    qkv_ports,
    qkv_rows,
    qkv_tolerance,
    turned_and_appended,
)
from .products_a8 import integer_pieces

#: What default tunables leave of a workgroup's memory for a row, bytes.
ROW_BYTES = WORKGROUP_BYTES - 1024
#: INT8 activations as an output: words, four numbers each, and a scale for each block of 32.
WORDS, SCALES = ("tokens", "y_words"), ("tokens", "y_blocks")


def _row_bytes(columns: int) -> int:
    """Of a quantized row with two facts a block, in workgroup memory."""
    return ceil_div(columns, INT8_BLOCK) * (INT8_BLOCK + 8)


def row_fits(columns: int, *, adapters: bool = False) -> bool:
    """Whether a quantized row fits into workgroup memory beside what default tunables take. adapters: and what adapters
    add."""
    return _row_bytes(columns) + adapters * LOW_BYTES <= ROW_BYTES


def _sum_bytes(context: Context, rows: int) -> int:
    """Of the workgroup memory in which sums of so many rows are added up over teams, and of 64 products."""
    threads, lanes = context.sizes.get("workgroup", 64), known_lanes(context)
    low = LOW_BYTES if "lora_b" in context.types else 0
    parts = ceil_div(threads // context.sizes.get("teams", 1), lanes) if lanes else 1
    return 512 + low + 4 * parts * rows + (0 if lanes else 16 * threads)


def row_bytes(context: Context, rows: int) -> int:
    """Of the workgroup memory that a quantized row takes, and sums of so many rows of weights."""
    return _row_bytes(context["columns"]) + _sum_bytes(context, rows)


def _refuse(context: Context) -> str | None:
    at_once = (context.sizes.get("rows_per_team", 4) + 1) * context.sizes.get("teams", 1)
    rows = max(at_once, 64) if "y_stride" in context.sizes else at_once  # gate and up of a block are kept
    need = row_bytes(context, rows)
    if need > WORKGROUP_BYTES:
        return f"{need} bytes of workgroup memory are more than {WORKGROUP_BYTES}"
    return refuse_columns(context)


def _library(fmt: str, context: Context) -> tuple[str, ...]:
    maker = by_quads(context)
    squares = (
        ("extra_sum/none", "row_factor/row") if maker == "quads" else ("extra_sum/norm", "row_factor/norm")
    )
    return (
        "x/vec4",
        *squares,
        *low_rank_files(context, own_state="kv_heads" not in context.sizes, one_token=True),
        "x_a8/row",
        f"stage/{maker}",
        *integer_pieces(fmt, context, ceil_div(context["columns"], INT8_BLOCK)),
        *team_reduction(context),
    )


def round_sums(context: Context) -> str:
    """The library file for sums of all rounds of a workgroup."""
    return f"round_sums/{'subgroups' if 'add_up/subgroups' in team_reduction(context) else 'any'}"


def normed_in_int8(x, norm, eps) -> torch.Tensor:
    """rms_norm(x) as INT8 and back."""
    return rounded(rms_norm.reference(x, norm, eps))


def quantized_behind_a_norm(facts: Facts, match: Match) -> bool:
    """One token on a GPU: a CPU would quantize a row once for every few rows of weights."""
    columns = match.shape("x")[1]
    return (
        facts.tokens == 1
        and not facts.adapter.is_cpu
        and columns % 4 == 0
        and row_fits(columns, adapters=match.has("lora_b"))
    )


def _product_bound(fmt: str, arguments) -> torch.Tensor:
    """Bound of the error of a product with quantized activations, f64 [tokens, rows]: of the sum, and a step of the
    quantizer wherever an activation lies between two."""
    normed = rms_norm.reference(arguments["x"].double(), arguments["norm"].double(), arguments["eps"])
    _, scales = quantize_activations.reference(normed, INT8_BLOCK, stride=1)
    columns = normed.shape[1]
    steps = near_half(normed, scales, INT8_BLOCK) * scales.repeat_interleave(INT8_BLOCK, -1)
    weight = dense(fmt, **weight_parts(fmt, arguments)).double()[:, :columns]
    return product_bound(fmt, arguments, normed) + steps[:, :columns] @ weight.abs().T


def _cost(fmt: str, s) -> Cost:
    scales = s["rows"] * s["columns"] / s["block"] * 3
    read = s["rows"] * s["words"] * 4 + scales + 4 * (s["tokens"] + 1) * s["columns"]
    written = 1.125 * s["width"] if "y_words" in s else 4 * s["rows"]
    return Cost(read, s["tokens"] * written, 2 * s["tokens"] * s["rows"] * s["columns"])


def _shared(fmt: str) -> dict:
    return {
        "prepare": partial(dense, fmt),
        "prepared_ports": tuple(weight_ports(fmt)),
        "cost": partial(_cost, fmt),
    }


# ---- norm, linear ------------------------------------------------------------------------------------------------


@fusion(where=quantized_behind_a_norm)
def norm_linear_a8(p, x, norm, weight, *, eps):
    """As `norm_linear`, over normalised rows that are rounded to INT8."""
    return p.linear(x=p.quantize_activations(x=p.rms_norm(x=x, weight=norm, eps=eps)), weight=weight)


def norm_linear_a8_pair(fmt: str) -> Kernel:
    """The pair for one weight format."""
    return register(
        Kernel(
            op="norm_linear_a8",
            form={"weight": fmt},
            reference=in_place(composed_with_adapters(norm_linear_a8, single=True)),
            reads={"x": X, **weight_ports(fmt), "norm": NORM, **LOW_RANK},
            writes={"y": Port(("tokens", "out_rows"), binding=6)},
            params={**quant_params(fmt), "eps": float, "row_offset": int, "out_rows": int, **LOW_RANK_PARAMS},
            defaults={"row_offset": 0, **LOW_RANK_DEFAULTS},
            variants={
                "gemv": Variant(
                    "linear/norm_linear",
                    grid=lambda c: spread(ceil_div(c["rows"], c["rows_per_team"] * c["teams"]), c["tokens"]),
                    tunables=gemv_tunables((4, 1, 2, 8, 16)),
                    library=partial(_library, fmt),
                    refuse=_refuse,
                    defaults=gemv_defaults(lambda c: (256, 4, 4)),
                    why="few tokens: the row is quantized by those that need it, and no dispatch stands between",
                )
            },
            make_inputs=with_planes(fmt, linear_inputs),
            tolerance=lambda arguments, expected: placed(_product_bound(fmt, arguments), arguments, expected),
            derive=lambda s: {
                "out_rows": s.get("rows"),
                "stride": INT8_STRIDES[fmt],
                **weight_sizes(fmt),
            },
            **_shared(fmt),
        )
    )


# ---- norm, q/k/v, rotary embedding, append -----------------------------------------------------------------------


def _float_cache(facts: Facts, match: Match) -> bool:
    return match.label("kv") != KV8 and quantized_behind_a_norm(facts, match)


@fusion(stack=("q", "k", "v"), where=_float_cache)
def norm_qkv_a8(
    p, x, norm, q, k, v, table, kv, state, *, eps, passed, ring, sinks
):  # many parameters: the operands and parameters of the op
    """As `norm_qkv`, over normalised rows that are rounded to INT8."""
    normed = p.quantize_activations(x=p.rms_norm(x=x, weight=norm, eps=eps))
    placed = {"ring": ring, "sinks": sinks}
    return turned_and_appended(p, normed, q, k, v, table, kv, state, passed=passed, **placed)


def norm_qkv_a8_pair(fmt: str) -> Kernel:
    """The pair for one weight format."""
    reads, writes = qkv_ports(fmt)
    return register(
        Kernel(
            op="norm_qkv_a8",
            form={"weight": fmt},
            reference=composed_with_adapters(norm_qkv_a8, rows=qkv_rows),
            reads=reads,
            writes=writes,
            updates={"kv": "kv"},
            params={**quant_params(fmt), "eps": float, "passed": int, **RING, **LOW_RANK_PARAMS},
            defaults={"passed": 0, **NO_RING, **LOW_RANK_DEFAULTS},
            variants={
                "gemv": Variant(
                    "linear/norm_qkv",
                    grid=lambda c: spread(
                        ceil_div(c["rows"] // 2, c["rows_per_team"] // 2 * c["teams"]), c["tokens"]
                    ),
                    tunables=gemv_tunables((2, 4, 8, 16)),
                    library=lambda c: (*_library(fmt, c), "append/cache", slot_file(c)),
                    refuse=_refuse,
                    defaults=gemv_defaults(lambda c: (256, 4, 4)),  # measured on an H200
                    why="few tokens: the row is quantized by those that need it, and no dispatch stands between",
                )
            },
            make_inputs=with_planes(fmt, qkv_inputs),
            tolerance=lambda arguments, expected: qkv_tolerance(_product_bound(fmt, arguments), arguments),
            derive=lambda s: {"stride": INT8_STRIDES[fmt], **qkv_derive(fmt, s)},
            **_shared(fmt),
        )
    )


# ---- norm, gate, up, their product, quantized --------------------------------------------------------------------


@fusion(stack=("gate", "up"), where=quantized_behind_a_norm)
def norm_gate_up_a8(p, x, norm, gate, up, *, eps):
    """silu(n G^T) * (n U^T) in INT8, n = rms_norm(x) as INT8."""
    normed = p.quantize_activations(x=p.rms_norm(x=x, weight=norm, eps=eps))
    return p.quantize_activations(x=p.silu_mul(**gate_and_up(p, normed, gate, up)))


@fusion(stack=("gate", "up"), where=quantized_behind_a_norm)
def norm_gate_up_gelu_a8(p, x, norm, gate, up, *, eps):
    """gelu(n G^T) * (n U^T) in INT8, n = rms_norm(x) as INT8."""
    normed = p.quantize_activations(x=p.rms_norm(x=x, weight=norm, eps=eps))
    return p.quantize_activations(x=p.gelu_mul(**gate_and_up(p, normed, gate, up)))


def _words(y, y_stride):
    return quantize_activations.reference(y, stride=y_stride)


def _gate_up_inputs(fmt: str, y_stride=1, width=32, rows=None, **options) -> dict:
    """rows, of gate and up together, is another way to say the width: no buffer of the kernel shows it."""
    width = rows // 2 if rows else width
    return {**gate_up_inputs(fmt, width=width, **options), "y_stride": y_stride}


def _gate_up_tolerance(fmt: str, unit: Kernel, arguments, expected) -> dict:
    weight = dense(fmt, **weight_parts(fmt, arguments)).double()
    normed = normed_in_int8(arguments["x"].double(), arguments["norm"].double(), arguments["eps"])
    normed, weight = with_low_rank(arguments, normed, weight)
    error = gated_bound(normed, weight, _product_bound(fmt, arguments))
    y = unit.reference(*linear_reference(normed, weight).chunk(2, dim=-1))
    stride = arguments["y_stride"]
    quants, scales = quantized_tolerance(y, expected["y_scales"].double(), INT8_BLOCK, stride, error)
    return {"y": quants, "y_scales": scales}


def _units(context: Context) -> tuple[int, int]:
    """Units that a workgroup computes at once, and in all: whole blocks."""
    once = context["rows_per_team"] // 2 * context["teams"]
    return once, once * max(1, INT8_BLOCK // once)


def whole_blocks(context: Context) -> str | None:
    """Why the rounds of a workgroup do not end with a block, or None."""
    if {"rows_per_team", "teams"} <= set(context.sizes) and _units(context)[1] % INT8_BLOCK:
        return f"rounds of {_units(context)[0]} units make no whole blocks of {INT8_BLOCK}"
    return None


def _refuse_gate_up(context: Context) -> str | None:
    return whole_blocks(context) or _refuse(context)


def _gate_up_derive(fmt: str, s) -> dict:
    found = {"stride": INT8_STRIDES[fmt], **weight_sizes(fmt)}
    if "rows" in s:
        blocks = ceil_div(s["rows"] // 2, INT8_BLOCK)
        found |= {"width": s["rows"] // 2, "y_blocks": blocks, "y_words": blocks * INT8_BLOCK // 4}
    return found


def norm_gate_up_a8_pair(fmt: str, rule: Rule, unit: Kernel) -> Kernel:
    """The pair for one weight format and gated unit, `rule` of its composition."""
    return register(
        Kernel(
            op=rule.name,
            form={"weight": fmt, "y": A8},
            reference=composed_with_adapters(rule, rows=halves_of, quantize=_words),
            reads={"x": X, **weight_ports(fmt), "norm": NORM, **LOW_RANK},
            writes={
                "y": Port(WORDS, "u32", binding=6, packed=8, of="y", plane="quants"),
                "y_scales": Port(SCALES, "f32", binding=4, of="y", plane="scales"),
            },
            params={**quant_params(fmt), "eps": float, "y_stride": int, **LOW_RANK_PARAMS},
            defaults=LOW_RANK_DEFAULTS,
            variants={
                "gemv": Variant(
                    "linear/norm_gate_up_a8",
                    grid=lambda c: spread(ceil_div(c["width"], _units(c)[1]), c["tokens"]),
                    tunables=gemv_tunables((2, 4, 8, 16)),
                    library=lambda c: (
                        *_library(fmt, c),
                        activation_file(unit),
                        round_sums(c),
                        f"store_blocks/{by_quads(c)}",
                    ),
                    refuse=_refuse_gate_up,
                    # measured on an H200: teams in which every thread has a piece of a row
                    defaults=gemv_defaults(lambda c: (256, 2 if c["columns"] > 2048 else 4, 4)),
                    why="few tokens: the row is quantized by those that need it, the product where it is made",
                )
            },
            make_inputs=handing_on(partial(_gate_up_inputs, fmt), with_planes(fmt, gate_up_inputs)),
            tolerance=partial(_gate_up_tolerance, fmt, unit),
            derive=partial(_gate_up_derive, fmt),
            **_shared(fmt),
        )
    )


#: The pairs by weight format; others are made from them.
NORM_LINEAR_A8 = {fmt: norm_linear_a8_pair(fmt) for fmt in INT8_STRIDES}
NORM_QKV_A8 = {fmt: norm_qkv_a8_pair(fmt) for fmt in INT8_STRIDES}
for _format in INT8_STRIDES:
    norm_gate_up_a8_pair(_format, norm_gate_up_a8, silu_mul)
    norm_gate_up_a8_pair(_format, norm_gate_up_gelu_a8, gelu_mul)
