"""Root mean square normalisation of each head by itself (queries and keys of Qwen3), alone and in front of a rotation.

head_norm_rope  head_norm, rope
"""

from __future__ import annotations

from dataclasses import replace

import torch

from ..attention.rope import head_dim_of, paired, rope_inputs
from ..composition import composed, fusion
from ..makers import handing_on
from ..numerics import EPS32
from ..pair import Context, Cost, Kernel, KernelUsageError, Port, Variant, kernel, register
from ..reduce import lanes_default, reduction
from ..state import STATE

ROWS = Port(("tokens", "width"))
WEIGHT = Port(("head_dim",), "f32")


def _variant(file: str) -> dict[str, Variant]:
    def files(context: Context) -> tuple[str, ...]:
        weight = "head_weight/plane" if "weight" in context.types else "head_weight/none"
        return weight, reduction(context)

    return {
        "heads": Variant(
            file,
            grid=lambda c: (c["width"] // c["head_dim"], c["tokens"], 1),
            tunables={"workgroup": (32, 8, 16, 64, 128)},
            defaults=lanes_default,
            library=files,
        )
    }


def _weight(seed: int, head_dim: int) -> torch.Tensor:
    return torch.rand(head_dim, generator=torch.Generator().manual_seed(seed)) + 0.5


def _make_inputs(
    seed=0, tokens=3, heads=2, head_dim=16, weight=True, eps=1e-6, x_dtype="f32", y_dtype="f32"
) -> dict:
    x = rope_inputs(seed, tokens, heads, head_dim, x_dtype=x_dtype)["x"]
    return {"x": x, "eps": eps} | ({"weight": _weight(seed, head_dim)} if weight else {"head_dim": head_dim})


def _tolerance(arguments, expected) -> dict:
    return {"y": 24 * EPS32 * expected["y"].double().abs() + 1e-30}


def _cost(s) -> Cost:
    count = s["tokens"] * s["width"]
    return Cost(4 * (count + s["head_dim"]), 4 * count, 4 * count)


def _derive(s) -> dict:
    if "width" in s and "head_dim" not in s:
        raise KernelUsageError("head_norm without a weight needs the parameter head_dim")
    return {}


@kernel(
    reads={"x": ROWS, "weight": replace(WEIGHT, optional=True)},
    writes={"y": ROWS},
    params={"eps": float, "head_dim": int},
    derive=_derive,
    variants=_variant("norm/head_norm"),
    make_inputs=_make_inputs,
    tolerance=_tolerance,
    cost=_cost,
)
def head_norm(x, eps, weight=None, head_dim=None):
    """y = x / sqrt(mean(x^2) + eps) * weight for each head of x [tokens, heads * head_dim]; weight [head_dim].

    Without a weight (Llama 4) the parameter head_dim says how long heads are, and nothing is multiplied.
    """
    heads = x.unflatten(-1, (-1, head_dim if weight is None else weight.shape[0]))
    y = heads * torch.rsqrt(heads.pow(2).mean(-1, keepdim=True) + eps)
    return (y if weight is None else y * weight.to(x.dtype)).flatten(-2)


@fusion()
def head_norm_rope(p, x, weight, table, state, *, eps, passed):
    """The rotary embedding of normalised heads."""
    return p.rope(x=p.head_norm(x=x, weight=weight, eps=eps), table=table, state=state, passed=passed)


def _rope_tolerance(arguments, expected) -> dict:
    normed = head_norm.reference(arguments["x"].double(), arguments["eps"], arguments["weight"].double())
    pairs = paired(normed.abs(), arguments["table"].shape[1], arguments["weight"].shape[0])
    return {"y": 32 * EPS32 * pairs + 1e-30}


def _rope_inputs(seed=0, head_dim=16, eps=1e-6, **options) -> dict:
    return {
        **rope_inputs(seed, head_dim=head_dim, **options),
        "weight": _weight(seed, head_dim),
        "eps": eps,
    }


register(
    Kernel(
        op="head_norm_rope",
        reference=composed(head_norm_rope),
        reads={"x": ROWS, "weight": WEIGHT, "table": Port(("positions", "rotated"), "f32"), "state": STATE},
        writes={"y": ROWS},
        params={"eps": float, "passed": int},
        defaults={"passed": 0},
        derive=head_dim_of,
        variants=_variant("norm/head_norm_rope"),
        make_inputs=handing_on(_rope_inputs, rope_inputs),
        tolerance=_rope_tolerance,
        cost=_cost,
    )
)
