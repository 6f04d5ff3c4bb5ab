"""Rows scaled by their position: temperature tuning of attention (Nakanishi 2025), as Llama 4 has it for queries."""

from __future__ import annotations

import torch

from ..numerics import EPS32, random_tensor
from ..pair import Cost, Port, Variant, ceil_div, kernel
from ..state import STATE, make_state

ROWS = Port(("tokens", "width"))


def position_factor(positions: torch.Tensor, scale: float, floor: float) -> torch.Tensor:
    """1 + scale * ln(1 + floor((p + 1) / floor)) for positions p."""
    return 1 + scale * torch.log1p(((positions + 1) / floor).floor())


def _make_inputs(
    seed=0, tokens=3, width=64, position=5, scale=0.1, floor=4.0, x_dtype="f32", y_dtype="f32"
) -> dict:
    x = random_tensor(torch.Generator().manual_seed(seed), (tokens, width), x_dtype)
    return {"x": x, "state": make_state(position, tokens), "scale": scale, "floor": floor}


@kernel(
    reads={"x": ROWS, "state": STATE},
    writes={"y": ROWS},
    params={"scale": float, "floor": float},
    variants={
        "elements": Variant(
            "attention/position_scale",
            grid=lambda c: (ceil_div(c["width"], 64), c["tokens"], 1),
        )
    },
    make_inputs=_make_inputs,
    # WGSL's log is good to 3 units in the last place, and the division by `floor` to 2.5
    tolerance=lambda arguments, expected: {"y": 16 * EPS32 * expected["y"].double().abs() + 1e-30},
    cost=lambda s: Cost(4 * s["tokens"] * s["width"], 4 * s["tokens"] * s["width"], s["tokens"] * s["width"]),
)
def position_scale(x, state, scale, floor):
    """y = x * `position_factor` of its row's position, state[t, 0] for row t of x [tokens, width]."""
    return x * position_factor(state[:, 0].to(x.dtype), scale, floor)[:, None]
