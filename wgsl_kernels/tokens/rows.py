"""Bookkeeping of a step: the last token's row, and moving on by one generated token."""

from __future__ import annotations

import torch

from ..attention.rope import STATE, make_state
from ..composition import rule
from ..numerics import random_tensor
from ..pair import Cost, Port, Variant, ceil_div, kernel


def _make_row_inputs(seed=0, tokens=5, width=64, valid=None, x_dtype="f32", y_dtype="f32") -> dict:
    generator = torch.Generator().manual_seed(seed)
    x = random_tensor(generator, (tokens, width), x_dtype)
    return {"x": x, "state": make_state(3, tokens if valid is None else valid)}


def _make_advance_inputs(seed=0, tokens=4, steps=6, step=2) -> dict:
    generator = torch.Generator().manual_seed(seed)
    return {
        "token": torch.randint(0, 1000, (1,), generator=generator).to(torch.int32),
        "ids": torch.zeros(tokens, dtype=torch.int32),
        "history": torch.zeros(steps, dtype=torch.int32),
        "state": make_state(9, 1, 0, step),
    }


def _exact(arguments, expected) -> dict:
    return {name: torch.zeros(tensor.shape, dtype=torch.float64) for name, tensor in expected.items()}


@kernel(
    reads={"x": Port(("tokens", "width")), "state": STATE},
    writes={"y": Port((1, "width"))},
    variants={"elements": Variant("tokens/last_row", grid=lambda c: (ceil_div(c["width"], 64), 1, 1))},
    make_inputs=_make_row_inputs,
    tolerance=_exact,
    cost=lambda s: Cost(4 * s["width"], 4 * s["width"], 0),
)
def last_row(x, state):
    """The row of the last real token, [1, width], of x [tokens, width]; state[1] tokens are real."""
    row = min(max(int(state[1]), 1), x.shape[0]) - 1
    return x[row : row + 1]


@kernel(
    reads={
        "token": Port((1,), "u32"),
        "ids": Port(("tokens",), "u32"),
        "history": Port(("steps",), "u32"),
        "state": Port((4,), "u32"),
    },
    writes={"ids": Port(("tokens",), "u32"), "history": Port(("steps",), "u32"), "state": Port((4,), "u32")},
    updates={"ids": "ids", "history": "history", "state": "state"},
    variants={"one": Variant("tokens/advance", grid=lambda c: (1, 1, 1))},
    make_inputs=_make_advance_inputs,
    tolerance=_exact,
    cost=lambda s: Cost(24, 16, 0),
)
def advance(token, ids, history, state):
    """ids[0] = token, history[state[3]] = token, position and steps of the state go up by one; in place."""
    step = int(state[3])
    ids[0] = token[0]
    if step < history.shape[0]:
        history[step] = token[0]
    state[0] += 1
    state[3] += 1
    return ids, history, state


def _last(p, x, state):
    """Of one token the last row is the only one."""
    return p.last_row(x=x, state=state)


ONLY_ROW = rule(_last, lambda p, x, state: x, name="only_row", where=lambda facts, match: facts.tokens == 1)
