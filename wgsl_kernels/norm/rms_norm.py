"""Root mean square normalisation (Zhang and Sennrich 2019, eq. 4)."""

from __future__ import annotations

import torch

from ..numerics import EPS32, random_tensor
from ..pair import Cost, Port, Variant, kernel
from ..reduce import lanes_default, reduction


def _make_inputs(seed=0, tokens=3, hidden=64, eps=1e-5, x_dtype="f32", y_dtype="f32") -> dict:
    generator = torch.Generator().manual_seed(seed)
    x = random_tensor(generator, (tokens, hidden), x_dtype)
    return {"x": x, "weight": torch.rand(hidden, generator=generator) + 0.5, "eps": eps}


def _tolerance(arguments, expected) -> dict:
    hidden = arguments["x"].shape[-1]
    return {"y": (8 + hidden**0.5) * EPS32 * expected["y"].double().abs() + 1e-30}


@kernel(
    reads={"x": Port(("tokens", "hidden")), "weight": Port(("hidden",), "f32")},
    writes={"y": Port(("tokens", "hidden"))},
    params={"eps": float},
    variants={
        "row": Variant(
            "norm/rms_norm",
            grid=lambda c: (c["tokens"], 1, 1),
            tunables={"workgroup": (128, 8, 16, 32, 64, 256)},
            defaults=lanes_default,
            library=lambda c: (reduction(c),),
        )
    },
    make_inputs=_make_inputs,
    tolerance=_tolerance,
    cost=lambda s: Cost(
        4 * s["tokens"] * s["hidden"], 4 * s["tokens"] * s["hidden"], 4 * s["tokens"] * s["hidden"]
    ),
)
def rms_norm(x, weight, eps):
    """y = x / sqrt(mean(x^2) + eps) * weight, row by row; x [tokens, hidden], weight [hidden]."""
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight.to(x.dtype)
