"""`lora_up`: what an adapter adds to a product, added by a dispatch of its own."""

from __future__ import annotations

from dataclasses import replace

import torch

from ..numerics import EPS32, random_tensor
from ..pair import Cost, Port, Variant, ceil_div, kernel, spread
from .low_rank import (
    LOW_RANK,
    LOW_RANK_DEFAULTS,
    LOW_RANK_PARAMS,
    low_rank_files,
    low_rank_inputs,
    low_rank_sum,
    widened,
)


def _inputs(seed=0, tokens=3, width=24, adapters=2, rank=8, x_dtype="f32", y_dtype="f32") -> dict:
    generator = torch.Generator().manual_seed(seed)
    x = random_tensor(generator, (tokens, width), x_dtype)
    return {"x": x, **low_rank_inputs(generator, tokens, width, adapters, rank=rank)}


def _tolerance(arguments, expected) -> dict:
    x, up = widened(arguments["x"].shape[1], arguments)
    return {"y": 8 * EPS32 * (arguments["x"].double().abs() + x.abs() @ up.abs().T) + 1e-30}


@kernel(
    reads={
        "x": Port(("tokens", "width")),
        **{name: replace(port, optional=False) for name, port in LOW_RANK.items()},
    },
    writes={"y": Port(("tokens", "width"), binding=6)},
    params=LOW_RANK_PARAMS,
    defaults=LOW_RANK_DEFAULTS,
    variants={
        "elements": Variant(
            "lora/lora_up",
            grid=lambda c: spread(ceil_div(c["width"], 64), c["tokens"]),
            library=low_rank_files,
        )
    },
    make_inputs=_inputs,
    tolerance=_tolerance,
    cost=lambda s: Cost(
        4 * s["tokens"] * s["width"] * (1 + s["lora_rank"]),
        4 * s["tokens"] * s["width"],
        2 * s["tokens"] * s["width"] * s["lora_rank"],
    ),
)
def lora_up(x, **given):
    """y = x + B lora_x, with the B of each token's adapter (`wgsl_kernels.lora.low_rank`)."""
    return x + low_rank_sum(x.shape[1], given).to(x.dtype)
