"""Fused kernels of a decode step that begin with a norm: `norm_linear` and `norm_gate_up`, a format each. `norm_qkv`
has a module of its own.

    norm_linear        rms_norm, linear
    norm_gate_up       rms_norm, linear (gate), linear (up), silu_mul
    norm_gate_up_gelu  rms_norm, linear (gate), linear (up), gelu_mul

The weights of gate and up are stacked, row under row in one set of planes. Each reference is the composition of the
references it replaces.
"""

from __future__ import annotations

import functools
from functools import partial

import torch

from ..activations.activations import activation_file, gelu_mul, silu_mul
from ..composition import Facts, Match, Rule, fusion
from ..lora.lent import composed_with_adapters
from ..lora.low_rank import (
    LOW_RANK,
    LOW_RANK_DEFAULTS,
    LOW_RANK_PARAMS,
    low_rank_files,
    low_rank_inputs,
    widened,
)
from ..norm.rms_norm import rms_norm
from ..numerics import EPS32, random_tensor
from ..pair import Context, Cost, Kernel, Port, Variant, ceil_div, register, spread
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
from .few_tokens import FEW_TOKENS, gemv_defaults, gemv_tunables


def behind_a_norm(facts: Facts, match: Match) -> bool:
    """Where a norm goes into the products that read it: on a GPU a batch of tokens is better served by `batch`."""
    few = facts.tokens == 1 or (facts.adapter.is_cpu and facts.tokens <= FEW_TOKENS)
    return few and match.shape("x")[1] % 4 == 0


X = Port(("tokens", "columns"))
NORM = Port(("columns",), "f32", binding=7)


def refuse_columns(context: Context) -> str | None:
    if context["columns"] % 4:
        return f"{context['columns']} columns are not a multiple of 4"
    return whole_subgroups(context)


def variant_behind_a_norm(
    file: str, fmt: str, units, *, rows_per_unit: int, library=lambda context: ()
) -> Variant:
    """units(context): what the grid counts, each of so many rows. library: files beside those of the product."""
    rows = (4, 2, 8, 16) if rows_per_unit == 2 else (4, 1, 2, 8, 16)
    # What is read of activations and norm serves twice as many rows: 10 to 35% less time of integer weights (H100).
    defaults = gemv_defaults(lambda c: (128, 1, 8 if is_quantized(fmt) else 4))
    return Variant(
        file,
        grid=lambda c: spread(
            ceil_div(units(c), c["rows_per_team"] // rows_per_unit * c["teams"]), c["tokens"]
        ),
        tunables={**gemv_tunables(rows), **piece_tunables(fmt)},
        library=lambda c: (
            "x/vec4",
            "extra_sum/norm",
            "row_factor/norm",
            "weigh/norm",
            "stage/none",
            *low_rank_files(c, own_state="kv_heads" not in c.sizes, one_token=True),
            *piece_library(fmt, c),
            *team_reduction(c),
            *library(c),
        ),
        refuse=refuse_columns,
        defaults=lambda c: {**defaults(c), **piece_defaults(fmt, c, crowded=True)},
        why="few tokens: one dispatch, and what is between the layers stays in registers",
    )


def inputs_behind_a_norm(
    fmt: str, generator, tokens: int, rows: int, columns: int, x_dtype: str, eps: float, options
) -> dict:
    return {
        "x": random_tensor(generator, (tokens, columns), x_dtype),
        "norm": torch.rand(columns, generator=generator) + 0.5,
        **random_planes(fmt, generator, rows, columns, **options),
        "eps": eps,
    }


def weight_parts(fmt: str, arguments) -> dict:
    """What `dense` takes, from a call's arguments."""
    return {n: arguments[n] for n in (*weight_ports(fmt), "block", "zero_unit") if n in arguments}


def with_low_rank(arguments, normed, weight) -> tuple[torch.Tensor, torch.Tensor]:
    """n = rms_norm(x) f64 [tokens, columns] and W f64 [rows, columns], with what adapters add as columns more."""
    weight = weight[:, : normed.shape[1]]
    if "lora_b" not in arguments:
        return normed, weight
    inner, up = widened(len(weight), arguments)
    rms = torch.sqrt(arguments["x"].double().pow(2).mean(-1, keepdim=True) + arguments["eps"])
    return torch.cat([normed, inner / rms], -1), torch.cat([weight, up], -1)


def product_bound(fmt: str, arguments, normed) -> torch.Tensor:
    """Bound of the error of n W^T, n = rms_norm(x) f64 [tokens, columns]: of the sum, and of the norm's factor."""
    columns = normed.shape[1]
    n, weight = with_low_rank(arguments, normed, magnitude_planes(fmt, arguments, columns))
    return (12 + columns**0.5) * EPS32 * (n.abs() @ weight.abs().T) + 1e-30


def bound_behind_a_norm(fmt: str, arguments) -> torch.Tensor:
    """Bound of the error of rms_norm(x) W^T, f64 [tokens, rows]."""
    normed = rms_norm.reference(arguments["x"].double(), arguments["norm"].double(), arguments["eps"])
    return product_bound(fmt, arguments, normed)


def _weight_cost(fmt: str, s) -> float:
    scales = s["rows"] * s["columns"] / s["block"] * 3 if is_quantized(fmt) else 0
    return s["rows"] * s["columns"] * BITS[fmt] / 8 + scales


def _cost(fmt: str, s) -> Cost:
    read = _weight_cost(fmt, s) + 4 * (s["tokens"] + 1) * s["columns"]
    written = s["rows"] if "kv_heads" in s else s.get("width", s["rows"])
    return Cost(read, 4 * s["tokens"] * written, 2 * s["tokens"] * s["rows"] * s["columns"])


def shared_parts(fmt: str) -> dict:
    ports = weight_ports(fmt)
    return {"prepare": partial(dense, fmt), "prepared_ports": tuple(ports), "cost": partial(_cost, fmt)}


# ---- norm, linear ------------------------------------------------------------------------------------------------


@fusion(where=behind_a_norm)
def norm_linear(p, x, norm, weight, *, eps):
    """y = rms_norm(x) W^T."""
    return p.linear(x=p.rms_norm(x=x, weight=norm, eps=eps), weight=weight)


def in_place(reference):
    """A reference whose y stands at columns [row_offset, row_offset + rows) of [tokens, out_rows]."""

    @functools.wraps(reference)
    def placed_reference(row_offset=0, out_rows=None, **given):
        y = reference(**given)
        after = 0 if out_rows is None else out_rows - row_offset - y.shape[-1]
        return torch.nn.functional.pad(y, (row_offset if out_rows is not None else 0, after))

    return placed_reference


def linear_inputs(  # many parameters: one for each option of `Kernel.inputs`
    fmt,
    seed=0,
    tokens=1,
    rows=64,
    columns=64,
    eps=1e-5,
    adapters=0,
    slices=1,
    x_dtype="f32",
    y_dtype="f32",
    **options,
) -> dict:
    """adapters: how many of them add to the product; slices: of their `lora_x`."""
    generator = torch.Generator().manual_seed(seed)
    made = inputs_behind_a_norm(fmt, generator, tokens, rows, columns, x_dtype, eps, options)
    return {**made, **low_rank_inputs(generator, tokens, rows, adapters, slices=slices)}


def placed(bound, arguments, expected) -> dict:
    """The bound of a range of rows in the places that it has in the result."""
    before = arguments.get("row_offset", 0)
    after = expected["y"].shape[-1] - before - bound.shape[-1]
    return {"y": torch.nn.functional.pad(bound, (before, after))}


def norm_linear_pair(fmt: str) -> Kernel:
    """The pair for one weight format."""
    return register(
        Kernel(
            op="norm_linear",
            form={"weight": fmt},
            reference=in_place(composed_with_adapters(norm_linear, single=True)),
            reads={"x": X, **weight_ports(fmt), "norm": NORM, **LOW_RANK},
            writes={"y": Port(("tokens", "out_rows"), binding=6)},
            params={**quant_params(fmt), "eps": float, "row_offset": int, "out_rows": int, **LOW_RANK_PARAMS},
            defaults={"row_offset": 0, **LOW_RANK_DEFAULTS},
            variants={
                "gemv": variant_behind_a_norm("linear/norm_linear", fmt, lambda c: c["rows"], rows_per_unit=1)
            },
            make_inputs=with_planes(fmt, linear_inputs),
            tolerance=lambda arguments, expected: placed(
                bound_behind_a_norm(fmt, arguments), arguments, expected
            ),
            derive=lambda s: {"out_rows": s.get("rows"), **weight_sizes(fmt)},
            **shared_parts(fmt),
        )
    )


# ---- norm, gate, up, their product -------------------------------------------------------------------------------


def gate_and_up(p, normed, gate, up) -> dict:
    """What a gated unit takes: n G^T and n U^T."""
    return {"gate": p.linear(x=normed, weight=gate), "up": p.linear(x=normed, weight=up)}


@fusion(stack=("gate", "up"), where=behind_a_norm)
def norm_gate_up(p, x, norm, gate, up, *, eps):
    """y = silu(n G^T) * (n U^T), n = rms_norm(x)."""
    return p.silu_mul(**gate_and_up(p, p.rms_norm(x=x, weight=norm, eps=eps), gate, up))


@fusion(stack=("gate", "up"), where=behind_a_norm)
def norm_gate_up_gelu(p, x, norm, gate, up, *, eps):
    """y = gelu(n G^T) * (n U^T), n = rms_norm(x)."""
    return p.gelu_mul(**gate_and_up(p, p.rms_norm(x=x, weight=norm, eps=eps), gate, up))


def halves_of(weight, **_) -> list[int]:
    """Rows of gate and of up."""
    return [weight.shape[0] // 2] * 2


def gate_up_inputs(  # many parameters: one for each option of `Kernel.inputs`
    fmt,
    seed=0,
    tokens=1,
    width=32,
    columns=64,
    eps=1e-5,
    adapters=0,
    slices=1,
    x_dtype="f32",
    y_dtype="f32",
    **options,
) -> dict:
    """adapters: how many of them add to gate and up; slices: of their `lora_x`."""
    generator = torch.Generator().manual_seed(seed)
    made = inputs_behind_a_norm(fmt, generator, tokens, 2 * width, columns, x_dtype, eps, options)
    return {**made, **low_rank_inputs(generator, tokens, 2 * width, adapters, (width,), slices=slices)}


def gated_bound(normed, weight, bound) -> torch.Tensor:
    """Bound of the error of a(g) * u, f64 [tokens, width], where those of g and u are `bound` [tokens, rows].

    SiLU and GELU a have a slope of at most 1.13 and a(g) <= |g|; their own error is that of `silu_mul` and `gelu_mul`.
    """
    gate, up = (normed @ weight[:, : normed.shape[1]].T).abs().chunk(2, dim=-1)
    gate_error, up_error = bound.chunk(2, dim=-1)
    product = (12 + 4 * gate) * EPS32 * gate * up
    return 1.13 * gate_error * (up + up_error) + (gate + gate_error) * up_error + product + 1e-30


def _gate_up_tolerance(fmt: str, arguments, expected) -> dict:
    weight = dense(fmt, **weight_parts(fmt, arguments)).double()
    normed = rms_norm.reference(arguments["x"].double(), arguments["norm"].double(), arguments["eps"])
    return {"y": gated_bound(*with_low_rank(arguments, normed, weight), bound_behind_a_norm(fmt, arguments))}


def norm_gate_up_pair(fmt: str, rule: Rule, unit: Kernel) -> Kernel:
    """The pair for one weight format and gated unit, `rule` of its composition."""
    return register(
        Kernel(
            op=rule.name,
            form={"weight": fmt},
            reference=composed_with_adapters(rule, rows=halves_of),
            reads={"x": X, **weight_ports(fmt), "norm": NORM, **LOW_RANK},
            writes={"y": Port(("tokens", "width"), binding=6)},
            params={**quant_params(fmt), "eps": float, **LOW_RANK_PARAMS},
            defaults=LOW_RANK_DEFAULTS,
            variants={
                "gemv": variant_behind_a_norm(
                    "linear/norm_gate_up",
                    fmt,
                    lambda c: c["width"],
                    rows_per_unit=2,
                    library=lambda c: (activation_file(unit),),
                )
            },
            make_inputs=with_planes(fmt, gate_up_inputs),
            tolerance=partial(_gate_up_tolerance, fmt),
            derive=lambda s: (
                {"width": s["rows"] // 2, **weight_sizes(fmt)} if "rows" in s else weight_sizes(fmt)
            ),
            **shared_parts(fmt),
        )
    )


#: The pairs by weight format; others are made from them.
NORM_LINEAR = {fmt: norm_linear_pair(fmt) for fmt in WEIGHT_FORMATS}
for _format in WEIGHT_FORMATS:
    norm_gate_up_pair(_format, norm_gate_up, silu_mul)
    norm_gate_up_pair(_format, norm_gate_up_gelu, gelu_mul)
