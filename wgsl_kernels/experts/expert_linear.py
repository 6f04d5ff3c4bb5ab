"""Products with the matrices of experts, a kernel a weight format: `expert_linear[f32]` ... `expert_linear[int2, a8]`.

The experts of a projection are one matrix [experts * expert_rows, columns], an expert's rows side by side. A token is
multiplied with the rows of the experts that `route` chose for it, and no other row is read. Its results lie side by
side: y [tokens, chosen * expert_rows].

A call may compute a range of the matrix's rows, as bindings hold them: it then writes what these rows give.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from ..layout import A8, INT8_BLOCK, INT8_STRIDES
from ..linear.few_tokens import gemv_defaults, gemv_tunables, long_rows
from ..linear.linear import x_library
from ..linear.products_a8 import integer_pieces
from ..makers import Maker, handing_on
from ..numerics import EPS32, random_tensor
from ..pair import Context, Cost, Kernel, Port, Variant, ceil_div, register, spread
from ..quantized.quantize_activations import quantize_activations, unpack_activations
from ..reduce import team_reduction, whole_subgroups
from ..weights import (
    BITS,
    WEIGHT_FORMATS,
    dense,
    is_quantized,
    magnitude_planes,
    piece_defaults,
    piece_library,
    piece_tunables,
    quant_params,
    random_planes,
    weight_ports,
    weight_sizes,
    with_planes,
)

EXPERTS = Port(("tokens", "chosen"), "u32", binding=4)
SCORES = Port(("tokens", "chosen"), "f32", optional=True, binding=8)
#: What the operand `x` is bound as: floats, and INT8.
FLOAT_X = {"x": Port(("tokens", "x_width"))}
INT8_X = {
    "x": Port(("tokens", "x_words"), "u32", of="x", plane="quants"),
    "x_scales": Port(("tokens", "x_row_groups"), "f32", binding=7, of="x", plane="scales"),
}


def score_file(context: Context) -> str:
    """The library file with what a product is multiplied by."""
    return "expert_score/plane" if "scores" in context.types else "expert_score/none"


def pieces(fmt: str, integer: bool, context: Context) -> tuple[str, ...]:
    """The library files that multiply pieces of a row."""
    if integer:
        return "x_a8/buffer", *integer_pieces(fmt, context, context["x_groups"])
    return x_library(context), "weigh/none", *piece_library(fmt, context)


def _pairs(context: Context) -> int:
    """Of a token and an expert."""
    return context["tokens"] * context["chosen"]


def _nothing(context: Context) -> tuple[str, ...]:
    return ()


def gathered(
    file: str,
    fmt: str,
    integer: bool,
    *,
    rows: int = 1,
    pairs: Callable[[Context], int] = _pairs,
    more: Callable[[Context], tuple[str, ...]] = _nothing,
) -> Variant:
    """A variant over `team_sums` in which experts decide which rows are read. rows: of the weight, for one of a result;
    pairs: the grid's second dimension; more: library files."""
    defaults = gemv_defaults(lambda c: (256 if long_rows(c) else 128, 1, 4))
    own = "" if integer else fmt
    return Variant(
        file,
        grid=lambda c: spread(ceil_div(c["expert_rows"], c["rows_per_team"] // rows * c["teams"]), pairs(c)),
        tunables={**gemv_tunables((4, 2, 8, 16) if rows == 2 else (2, 1, 4, 8, 16)), **piece_tunables(own)},
        library=lambda c: (
            *pieces(fmt, integer, c),
            "extra_sum/none",
            score_file(c),
            *team_reduction(c),
            *more(c),
        ),
        refuse=whole_subgroups,
        defaults=lambda c: {**defaults(c), **piece_defaults(own, c)},
        why="an expert's rows are read where a token goes to it",
    )


def floats_of(fmt: str, arguments) -> torch.Tensor:
    """The activations of a call as floats: as they are, or what INT8 stands for in the type of its scales."""
    if "x_scales" not in arguments:
        return arguments["x"]
    scales, columns = arguments["x_scales"], arguments["columns"]
    q = unpack_activations(arguments["x"], INT8_STRIDES[fmt]).to(scales.dtype)
    x = q.unflatten(1, (-1, INT8_BLOCK)) * scales.unsqueeze(-1)
    groups = ceil_div(columns, INT8_BLOCK)
    return x.view(len(x), -1, groups * INT8_BLOCK)[..., :columns].flatten(1)


def expert_linear_reference(
    x, weight, experts, expert_rows, scores=None, columns=None, row_offset=0, **_
) -> torch.Tensor:
    """y[t, j, r] = scores[t, j] * sum_k x[t, k] W[experts[t, j] * expert_rows + r, k], [tokens, chosen * expert_rows].

    x [tokens, columns], or [tokens, chosen * columns] with an input for each expert; experts and scores
    [tokens, chosen]. weight: rows of the experts' matrix from `row_offset` on; what others give stays 0.
    """
    tokens, chosen = experts.shape
    columns = columns or weight.shape[1]
    x = x.reshape(tokens, -1, columns).expand(tokens, chosen, columns).reshape(-1, columns)
    weight, ids = weight[:, :columns].to(x.dtype), experts.reshape(-1).long()
    y = x.new_zeros(tokens * chosen, expert_rows)
    for expert in ids.unique().tolist():
        first = expert * expert_rows - row_offset
        low, high = max(first, 0), min(first + expert_rows, weight.shape[0])
        if low < high:
            pairs = (ids == expert).nonzero()[:, 0]
            product = F.linear(x[pairs], weight[low:high])
            y = y.index_add(0, pairs, F.pad(product, (low - first, first + expert_rows - high)))
    if scores is not None:
        y = y * scores.reshape(-1, 1).to(y.dtype)
    return y.view(tokens, chosen * expert_rows)


def _integer_reference(fmt: str, x, x_scales, weight, columns, **rest):
    """`expert_linear_reference` of x = x_scale * xq."""
    x = floats_of(fmt, {"x": x, "x_scales": x_scales.to(weight.dtype), "columns": columns})
    return expert_linear_reference(x, weight, columns=columns, **rest)


def expert_inputs(  # many parameters: one for each option of `Kernel.inputs`
    fmt: str,
    seed=0,
    tokens=2,
    rows=48,
    expert_rows=12,
    columns=64,
    chosen=2,
    apart=False,
    x_width=None,
    scores=False,
    row_offset=0,
    x_dtype="f32",
    y_dtype="f32",
    **weight_options,
) -> dict:
    """Random operands from a seed; rows: of all experts, or of a range from `row_offset` on. apart: an input for each
    expert, or x_width: of all inputs of a token."""
    generator = torch.Generator().manual_seed(seed)
    count = ceil_div(row_offset + rows, expert_rows)
    width = x_width or columns * (chosen if apart else 1)
    arguments: dict[str, Any] = {
        "x": random_tensor(generator, (tokens, width), x_dtype),
        **random_planes(fmt, generator, rows, columns, **weight_options),
        "experts": torch.randint(0, count, (tokens, chosen), generator=generator).to(torch.int32),
        "columns": columns,
        "expert_rows": expert_rows,
    }
    if scores:
        arguments["scores"] = torch.rand(tokens, chosen, generator=generator)
    return {**arguments, "row_offset": row_offset} if row_offset else arguments


def in_int8(fmt: str, arguments) -> dict:
    """The same call with its activations in INT8; columns are whole blocks where experts have inputs of their own."""
    x = arguments["x"]
    words, scales = quantize_activations.reference(x, block=INT8_BLOCK, stride=INT8_STRIDES[fmt])
    return {**arguments, "x": words, "x_scales": scales, "x_columns": x.shape[1]}


def expert_tolerance(fmt: str, arguments, expected) -> dict:
    """Rounding errors of a sum of products grow with sum |w||x|; |w| counts quant and zero apart (weights.py)."""
    columns = arguments["columns"]
    x = floats_of(fmt, {**arguments, **_doubled(arguments)}).double()
    magnitude = magnitude_planes(fmt, arguments, columns)
    given = {n: arguments[n] for n in ("experts", "expert_rows", "row_offset") if n in arguments}
    scores = arguments.get("scores")
    bound = expert_linear_reference(
        x.abs(), magnitude, columns=columns, scores=None if scores is None else scores.double().abs(), **given
    )
    return {"y": 10 * EPS32 * bound + 1e-30}


def _doubled(arguments) -> dict:
    return {"x_scales": arguments["x_scales"].double()} if "x_scales" in arguments else {}


def weight_cost(fmt: str, sizes) -> float:
    """Bytes of the experts' rows that a step reads once, where every pair of token and expert has another if it can."""
    rows = min(sizes["rows"], sizes["tokens"] * sizes["chosen"] * sizes["expert_rows"])
    scales = rows * (sizes["columns"] / sizes["block"]) * 3 if is_quantized(fmt) else 0
    return rows * sizes["columns"] * BITS[fmt] / 8 + scales


def _cost(fmt: str, integer: bool, sizes) -> Cost:
    tokens, chosen, rows, columns = (sizes[n] for n in ("tokens", "chosen", "expert_rows", "columns"))
    x = (1.125 if integer else 4) * tokens * columns * sizes["inputs"]
    return Cost(weight_cost(fmt, sizes) + x, 4 * tokens * chosen * rows, 2 * tokens * chosen * rows * columns)


def derive(fmt: str, integer: bool, s) -> dict:
    """Sizes that follow from others: how many inputs a token has, and what is as wide as its results."""
    found = weight_sizes(fmt)
    if {"chosen", "expert_rows"} <= set(s):
        found["out_width"] = s["chosen"] * s["expert_rows"]
    if "columns" in s:
        width = s.get("x_columns" if integer else "x_width", s["columns"])
        found |= {"inputs": width // s["columns"], "x_groups": ceil_div(s["columns"], INT8_BLOCK)}
    return found


def params_of(fmt: str, integer: bool) -> dict[str, type]:
    """Of every op that reads the matrices of experts."""
    return {
        **quant_params(fmt),
        "columns": int,
        "expert_rows": int,
        **({"x_columns": int} if integer else {}),
    }


def reads_of(fmt: str, integer: bool) -> dict[str, Port]:
    """Likewise its inputs."""
    x = dict(INT8_X if integer else FLOAT_X)
    return {"x": x.pop("x"), **weight_ports(fmt), "experts": EXPERTS, "scores": SCORES, **x}


def form_of(fmt: str, integer: bool) -> dict[str, str]:
    return {"weight": fmt, **({"x": A8} if integer else {})}


def made(fmt: str, integer: bool, make_inputs: Maker, settled: tuple[str, ...] = ()) -> Maker:
    """A maker of inputs for one form, from one of float activations for any format, which hands on to `expert_inputs`
    but for options that are settled."""
    floats = handing_on(partial(make_inputs, fmt), with_planes(fmt, expert_inputs), without=settled)
    if not integer:
        return floats

    def make_integers(x_columns=None, **options) -> dict:
        return in_int8(fmt, floats(x_width=x_columns, **options))

    return handing_on(make_integers, floats, without=("x_dtype", "x_width"))


def expert_linear(fmt: str, integer: bool = False) -> Kernel:
    """The pair for one weight format, with float or INT8 activations."""
    return register(
        Kernel(
            op="expert_linear",
            form=form_of(fmt, integer),
            reference=partial(_integer_reference, fmt) if integer else expert_linear_reference,
            reads=reads_of(fmt, integer),
            writes={"y": Port(("tokens", "out_width"), binding=6)},
            params={**params_of(fmt, integer), "row_offset": int},
            defaults={"row_offset": 0},
            variants={"gemv": gathered("experts/expert_linear", fmt, integer)},
            make_inputs=made(fmt, integer, expert_inputs),
            tolerance=partial(expert_tolerance, fmt),
            cost=partial(_cost, fmt, integer),
            prepare=partial(dense, fmt),
            prepared_ports=tuple(weight_ports(fmt)),
            derive=partial(derive, fmt, integer),
        )
    )


for _format in WEIGHT_FORMATS:
    expert_linear(_format)
for _format in INT8_STRIDES:
    expert_linear(_format, integer=True)
