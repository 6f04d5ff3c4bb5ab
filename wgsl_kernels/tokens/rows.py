"""Bookkeeping of a step: the rows whose results are wanted, and moving on by one generated token."""

from __future__ import annotations

import torch

from ..composition import rule
from ..numerics import random_tensor
from ..pair import Cost, Port, Variant, ceil_div, kernel
from ..state import STATE, make_state


def _make_row_inputs(seed=0, tokens=5, results=2, width=64, x_dtype="f32", y_dtype="f32") -> dict:
    generator = torch.Generator().manual_seed(seed)
    x = random_tensor(generator, (tokens, width), x_dtype)
    return {"x": x, "rows": torch.randint(0, tokens, (results,), generator=generator).to(torch.int32)}


def _make_advance_inputs(seed=0, tokens=4, steps=6, step=2) -> dict:
    generator = torch.Generator().manual_seed(seed)
    return {
        "token": torch.randint(0, 1000, (tokens,), generator=generator).to(torch.int32),
        "ids": torch.zeros(tokens, dtype=torch.int32),
        "history": torch.zeros(steps, tokens, dtype=torch.int32),
        "state": make_state(9, tokens, steps=step),
    }


def exact(arguments, expected) -> dict:
    """The tolerance of what moves numbers and computes none."""
    return {name: torch.zeros(tensor.shape, dtype=torch.float64) for name, tensor in expected.items()}


@kernel(
    reads={"x": Port(("tokens", "width")), "rows": Port(("results",), "u32")},
    writes={"y": Port(("results", "width"))},
    variants={
        "elements": Variant("tokens/select_rows", grid=lambda c: (ceil_div(c["width"], 64), c["results"], 1))
    },
    make_inputs=_make_row_inputs,
    tolerance=exact,
    cost=lambda s: Cost(4 * s["results"] * s["width"], 4 * s["results"] * s["width"], 0),
)
def select_rows(x, rows):
    """Rows [results, width] of x [tokens, width], by their indices; one beyond the last means the last."""
    return x[rows.long().clamp(max=x.shape[0] - 1)]


HISTORY = Port(("steps", "tokens"), "u32")


@kernel(
    reads={
        "token": Port(("tokens",), "u32"),
        "ids": Port(("tokens",), "u32"),
        "history": HISTORY,
        "state": Port(STATE.shape, "u32"),
    },
    writes={"ids": Port(("tokens",), "u32"), "history": HISTORY, "state": Port(STATE.shape, "u32")},
    updates={"ids": "ids", "history": "history", "state": "state"},
    variants={"one": Variant("tokens/advance", grid=lambda c: (ceil_div(c["tokens"], 64), 1, 1))},
    make_inputs=_make_advance_inputs,
    tolerance=exact,
    cost=lambda s: Cost(24 * s["tokens"], 16 * s["tokens"], 0),
)
def advance(token, ids, history, state):
    """ids = token, history[step of the row] = token; position and steps of each row go up by one; in place.

    token and ids [tokens], history [steps, tokens], state [tokens, 4].
    """
    for row, step in enumerate(state[:, 3].tolist()):
        if step < history.shape[0]:
            history[step, row] = token[row]
    ids[:] = token
    state[:, 0] += 1
    state[:, 3] += 1
    return ids, history, state


def _selected(p, x, rows):
    """Of one token the only row is the one that is wanted."""
    return p.select_rows(x=x, rows=rows)


ONLY_ROW = rule(
    _selected, lambda p, x, rows: x, name="only_row", where=lambda facts, match: facts.tokens == 1
)
