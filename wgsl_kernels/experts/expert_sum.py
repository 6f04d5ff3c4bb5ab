"""What the experts of a token gave, added up."""

from __future__ import annotations

import torch

from ..composition import rule
from ..makers import handing_on
from ..numerics import EPS32, random_tensor
from ..pair import Cost, Port, Variant, ceil_div, kernel


def _make_inputs(
    seed=0, tokens=3, width=24, chosen=2, residual=False, factor=1.0, x_dtype="f32", y_dtype="f32"
) -> dict:
    generator = torch.Generator().manual_seed(seed)
    x = random_tensor(generator, (tokens, chosen * width), x_dtype)
    more = {"residual": random_tensor(generator, (tokens, width)), "factor": factor} if residual else {}
    return {"x": x, "chosen": chosen, **more}


def _tolerance(arguments, expected) -> dict:
    x, chosen = arguments["x"].double().abs(), arguments["chosen"]
    bound = abs(arguments.get("factor", 1.0)) * x.unflatten(1, (chosen, -1)).sum(1)
    if "residual" in arguments:
        bound = bound + arguments["residual"].double().abs()
    return {"y": (chosen + 3) * EPS32 * bound + 1e-30}


@kernel(
    reads={
        "x": Port(("tokens", "x_width"), binding=0),
        "residual": Port(("tokens", "width"), "f32", optional=True, binding=5),
    },
    writes={"y": Port(("tokens", "width"), binding=6)},
    params={"chosen": int, "factor": float},
    defaults={"factor": 1.0},
    derive=lambda s: {"width": s["x_width"] // s["chosen"]} if "x_width" in s else {},
    variants={
        "elements": Variant(
            "experts/expert_sum",
            grid=lambda c: (ceil_div(c["width"], 64), c["tokens"], 1),
            library=lambda c: ("residual/plane" if "residual" in c.types else "residual/none",),
        )
    },
    make_inputs=handing_on(_make_inputs),
    tolerance=_tolerance,
    cost=lambda s: Cost(
        4 * s["tokens"] * s["x_width"], 4 * s["tokens"] * s["width"], s["tokens"] * s["x_width"]
    ),
)
def expert_sum(x, chosen, residual=None, factor=1.0):
    """y[t, r] = sum_j x[t, j, r] of x [tokens, chosen * width]; with a residual factor * y + residual."""
    y = x.unflatten(1, (chosen, -1)).sum(1)
    return y if residual is None else factor * y + residual.to(y.dtype)


def _sum_behind(p, x, residual, *, chosen, factor):
    """What experts gave, and the sum behind it."""
    return p.add(a=residual, b=p.expert_sum(x=x, chosen=chosen), factor=factor)


def _with_residual(p, x, residual, *, chosen, factor):
    return p.expert_sum(x=x, residual=residual, chosen=chosen, factor=factor)


EXPERT_SUM = rule(
    _sum_behind,
    _with_residual,
    name="expert_sum_residual",
    where=lambda facts, match: match.label("residual") == "f32",
)
