"""Two products of experts with what stands behind them, for few tokens; a weight format and type of activations each.

    expert_gate_up  expert_linear (gate), expert_linear (up), silu_mul
    expert_down     expert_linear, expert_sum

Gate and up are stacked as elsewhere: all experts' gates, then all their ups.
"""

from __future__ import annotations

from functools import partial

import torch

from ..activations.activations import activation_file, silu_mul
from ..composition import Facts, Match, composed, fusion
from ..layout import A8, INT8_STRIDES
from ..linear.norm_linear import weight_parts
from ..numerics import EPS32, random_tensor
from ..pair import Context, Cost, Kernel, Port, register
from ..weights import WEIGHT_FORMATS, dense, magnitude_planes, weight_ports
from .expert_linear import (
    derive,
    expert_inputs,
    expert_linear_reference,
    floats_of,
    form_of,
    gathered,
    made,
    params_of,
    reads_of,
    weight_cost,
)


def _halves(weight, **_) -> list[int]:
    """Rows of gate and of up."""
    return [weight.shape[0] // 2] * 2


def _bindings_suffice(facts: Facts, match: Match) -> bool:
    """INT8 activations, scores and a residual together would be a ninth storage buffer."""
    one = len(match.ranges("weight")) == 1
    return one and not (match.has("scores") and match.label("x") == A8)


@fusion(stack=("gate", "up"))
def expert_gate_up(p, x, gate, up, experts, scores=None, *, expert_rows):
    """y = silu(x G^T) * (x U^T) of each token and each of its experts."""
    gate, up = (
        p.expert_linear(x=x, weight=matrix, experts=experts, scores=scores, expert_rows=expert_rows)
        for matrix in (gate, up)
    )
    return p.silu_mul(gate=gate, up=up)


@fusion(where=_bindings_suffice)
def expert_down(
    p, x, weight, experts, scores=None, residual=None, *, expert_rows, chosen, factor
):  # many parameters: the operands and parameters of the op
    """y = factor * sum_j (scores * x_j W_j^T) + residual over the experts of each token."""
    each = p.expert_linear(x=x, weight=weight, experts=experts, scores=scores, expert_rows=expert_rows)
    return p.expert_sum(x=each, residual=residual, chosen=chosen, factor=factor)


def _reference(rule, fmt: str, integer: bool, rows=None):
    """The reference of a fused kernel: its composition, of what INT8 activations stand for."""
    of_floats = composed(rule, rows=rows)

    def reference(weight, **given):
        if integer:
            given["x_scales"] = given["x_scales"].to(weight.dtype)
            given = {**given, "x": floats_of(fmt, given)}
        return of_floats(weight=weight[:, : given.get("columns", weight.shape[1])], **given)

    reference.__doc__ = rule.summary
    return reference


def _operands(fmt: str, arguments) -> tuple[torch.Tensor, dict]:
    """x in f64, and the other arguments of `expert_linear_reference`."""
    doubled = {n: arguments[n].double() for n in ("x_scales", "scores") if n in arguments}
    given = {n: arguments[n] for n in ("experts", "expert_rows", "columns")}
    return floats_of(fmt, {**arguments, **doubled}).double(), {**given, "scores": doubled.get("scores")}


def _gate_up_tolerance(fmt: str, arguments, expected) -> dict:
    """From the bounds of both products. SiLU has a slope of at most 1.13, and |silu(g)| <= |g|."""
    x, given = _operands(fmt, arguments)
    weight = dense(fmt, **weight_parts(fmt, arguments)).double()
    magnitude = magnitude_planes(fmt, arguments, arguments["columns"])
    gate, up = (expert_linear_reference(x, half, **given).abs() for half in weight.chunk(2))
    gate_error, up_error = (
        12 * EPS32 * expert_linear_reference(x.abs(), half, **given) for half in magnitude.chunk(2)
    )
    product = (12 + 4 * gate) * EPS32 * gate * up
    return {"y": 1.13 * gate_error * (up + up_error) + (gate + gate_error) * up_error + product + 1e-30}


def _down_tolerance(fmt: str, arguments, expected) -> dict:
    x, given = _operands(fmt, arguments)
    magnitude = magnitude_planes(fmt, arguments, arguments["columns"])
    bound = (
        expert_linear_reference(x.abs(), magnitude, **given).unflatten(1, (arguments["chosen"], -1)).sum(1)
    )
    if "residual" in arguments:
        bound = abs(arguments.get("factor", 1.0)) * bound + arguments["residual"].double().abs()
    return {"y": (10 + arguments["chosen"]) * EPS32 * bound + 1e-30}


def _gate_up_inputs(fmt: str, rows=96, expert_rows=12, **options) -> dict:
    """rows: of gate and up together."""
    found = expert_inputs(fmt, rows=rows, expert_rows=expert_rows, **options)
    return {**found, "experts": found["experts"] % (rows // 2 // expert_rows)}


def _down_inputs(
    fmt: str, seed=0, tokens=2, expert_rows=12, chosen=2, residual=False, factor=1.0, **options
) -> dict:
    found = expert_inputs(
        fmt, seed=seed, tokens=tokens, expert_rows=expert_rows, chosen=chosen, apart=True, **options
    )
    if residual:
        generator = torch.Generator().manual_seed(seed + 1)
        found |= {"residual": random_tensor(generator, (tokens, expert_rows)), "factor": factor}
    return {**found, "chosen": chosen}


def _gate_up_cost(fmt: str, sizes) -> Cost:
    tokens, chosen, rows, columns = (sizes[n] for n in ("tokens", "chosen", "expert_rows", "columns"))
    read = weight_cost(fmt, {**sizes, "expert_rows": 2 * rows}) + 4 * tokens * columns * sizes["inputs"]
    return Cost(read, 4 * tokens * chosen * rows, 4 * tokens * chosen * rows * columns)


def _down_cost(fmt: str, sizes) -> Cost:
    tokens, chosen, rows, columns = (sizes[n] for n in ("tokens", "chosen", "expert_rows", "columns"))
    read = weight_cost(fmt, sizes) + 4 * tokens * (columns * sizes["inputs"] + rows)
    return Cost(read, 4 * tokens * rows, 2 * tokens * chosen * rows * columns)


def _shared(fmt: str, integer: bool) -> dict:
    """What both pairs have in common."""
    return {
        "form": form_of(fmt, integer),
        "prepare": partial(dense, fmt),
        "prepared_ports": tuple(weight_ports(fmt)),
        "derive": partial(derive, fmt, integer),
    }


def expert_gate_up_pair(fmt: str, integer: bool = False) -> Kernel:
    """The pair for one weight format, with float or INT8 activations."""
    unit = activation_file(silu_mul)
    return register(
        Kernel(
            op="expert_gate_up",
            reference=_reference(expert_gate_up, fmt, integer, _halves),
            reads=reads_of(fmt, integer),
            writes={"y": Port(("tokens", "out_width"), binding=6)},
            params=params_of(fmt, integer),
            variants={
                "gemv": gathered("experts/expert_gate_up", fmt, integer, rows=2, more=lambda c: (unit,)),
            },
            make_inputs=made(fmt, integer, _gate_up_inputs),
            tolerance=partial(_gate_up_tolerance, fmt),
            cost=partial(_gate_up_cost, fmt),
            **_shared(fmt, integer),
        )
    )


def _residual(context: Context) -> tuple[str, ...]:
    return ("residual/plane" if "residual" in context.types else "residual/none",)


def expert_down_pair(fmt: str, integer: bool = False) -> Kernel:
    """The pair for one weight format, with float or INT8 activations."""
    reads = reads_of(fmt, integer)
    if integer:
        del reads["scores"]
    reads["residual"] = Port(("tokens", "expert_rows"), "f32", optional=True, binding=5)
    return register(
        Kernel(
            op="expert_down",
            reference=_reference(expert_down, fmt, integer),
            reads=reads,
            writes={"y": Port(("tokens", "expert_rows"), binding=6)},
            params={**params_of(fmt, integer), "chosen": int, "factor": float},
            defaults={"factor": 1.0},
            variants={
                "gemv": gathered(
                    "experts/expert_down", fmt, integer, pairs=lambda c: c["tokens"], more=_residual
                ),
            },
            make_inputs=made(
                fmt, integer, _down_inputs, settled=("apart", *(("scores",) if integer else ()))
            ),
            tolerance=partial(_down_tolerance, fmt),
            cost=partial(_down_cost, fmt),
            **_shared(fmt, integer),
        )
    )


for _format in WEIGHT_FORMATS:
    expert_gate_up_pair(_format)
    expert_down_pair(_format)
for _format in INT8_STRIDES:
    expert_gate_up_pair(_format, integer=True)
    expert_down_pair(_format, integer=True)
