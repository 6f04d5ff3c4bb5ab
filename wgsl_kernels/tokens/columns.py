"""Columns in another order: what a matrix reads whose own columns were put in order of their groups."""

from __future__ import annotations

import torch

from ..numerics import random_tensor
from ..pair import Cost, Port, Variant, ceil_div, kernel
from .rows import exact


def _make_inputs(seed=0, tokens=3, width=130, x_dtype="f32", y_dtype="f32") -> dict:
    generator = torch.Generator().manual_seed(seed)
    x = random_tensor(generator, (tokens, width), x_dtype)
    return {"x": x, "order": torch.randperm(width, generator=generator).float()}


@kernel(
    reads={"x": Port(("tokens", "width")), "order": Port(("width",))},
    writes={"y": Port(("tokens", "width"))},
    variants={
        "elements": Variant(
            "tokens/select_columns", grid=lambda c: (ceil_div(c["width"], 64), c["tokens"], 1)
        )
    },
    make_inputs=_make_inputs,
    tolerance=exact,
    cost=lambda s: Cost(4 * s["tokens"] * s["width"] + 4 * s["width"], 4 * s["tokens"] * s["width"], 0),
)
def select_columns(x, order):
    """y[t, i] = x[t, order[i]] of x [tokens, width]; one beyond the last means the last.

    order [width]: columns from 0 up as floats, as the vectors of a model are stored; f32 holds them exactly up to 2^24.
    """
    return x[:, order.long().clamp(max=x.shape[1] - 1)]
