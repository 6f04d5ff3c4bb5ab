"""How likely the chosen token and its rivals were, kept on the device until somebody reads them.

exp_sums, tell      log-softmax of a row at a few places
"""

from __future__ import annotations

import torch

from ..numerics import EPS32, random_tensor
from ..pair import Cost, Port, Variant, kernel
from ..reduce import lanes_default, reduction
from ..state import STATE, make_state

ROW = Port((1, "width"), "f32")
PARTS = Port(("parts",), "f32")


def _sum_inputs(seed=0, width=200, parts=3, y_dtype="f32") -> dict:
    generator = torch.Generator().manual_seed(seed)
    return {"x": 4 * random_tensor(generator, (1, width)), "parts": parts}


def _sum_tolerance(arguments, expected) -> dict:
    x = arguments["x"].double()
    span = (x.max() - x.min()).item()
    return {
        "largest": torch.zeros(expected["largest"].shape, dtype=torch.float64),
        "total": (16 + 4 * span) * EPS32 * expected["total"].double() + 1e-30,
    }


@kernel(
    reads={"x": ROW},
    writes={"largest": PARTS, "total": PARTS},
    params={"parts": int},
    variants={
        "parts": Variant(
            "logits/exp_sums",
            grid=lambda c: (c["parts"], 1, 1),
            tunables={"workgroup": (256, 8, 16, 32, 64, 128)},
            defaults=lanes_default,
            library=lambda c: (reduction(c),),
        )
    },
    make_inputs=_sum_inputs,
    tolerance=_sum_tolerance,
    cost=lambda s: Cost(8 * s["width"], 8 * s["parts"], 3 * s["width"]),
)
def exp_sums(x, parts):
    """Of `parts` equal parts of x [1, width] the largest number and sum(exp(x - largest)), 0 of an empty one."""
    length = -(-x.shape[1] // parts)
    padded = torch.nn.functional.pad(
        x, (0, parts * length - x.shape[1]), value=torch.finfo(torch.float32).min
    )
    rows = padded.view(parts, length)
    largest = rows.max(-1).values
    inside = torch.arange(parts * length).view(parts, length) < x.shape[1]
    return largest, (torch.exp(rows - largest.unsqueeze(-1)) * inside).sum(-1)


def _tell_inputs(seed=0, width=200, parts=3, k=5, steps=6, step=2, y_dtype="f32") -> dict:
    generator = torch.Generator().manual_seed(seed)
    x = 4 * random_tensor(generator, (1, width))
    largest, total = exp_sums.reference(x, parts)
    k = min(k, width)
    return {
        "x": x,
        "token": torch.randint(0, width, (1,), generator=generator).to(torch.int32),
        "likely": x.topk(k).indices.to(torch.int32),
        "largest": largest,
        "total": total,
        "state": make_state(9, steps=step),
        "told": torch.zeros(steps, k + 1),
        "told_ids": torch.zeros(steps, k, dtype=torch.int32),
    }


def _tell_tolerance(arguments, expected) -> dict:
    x = arguments["x"].double()
    span = (x.max() - x.min()).item()
    told = torch.full(expected["told"].shape, (32 + 8 * span) * EPS32, dtype=torch.float64)
    return {"told": told, "told_ids": torch.zeros(expected["told_ids"].shape, dtype=torch.float64)}


TOLD = Port(("steps", "told_width"), "f32")
TOLD_IDS = Port(("steps", "k"), "u32")


@kernel(
    reads={
        "x": ROW,
        "token": Port((1,), "u32"),
        "likely": Port((1, "k"), "u32"),
        "largest": PARTS,
        "total": PARTS,
        "state": STATE,
        "told": TOLD,
        "told_ids": TOLD_IDS,
    },
    writes={"told": TOLD, "told_ids": TOLD_IDS},
    updates={"told": "told", "told_ids": "told_ids"},
    variants={"one": Variant("logits/tell", grid=lambda c: (1, 1, 1))},
    make_inputs=_tell_inputs,
    tolerance=_tell_tolerance,
    cost=lambda s: Cost(8 * s["parts"] + 8 * s["k"], 8 * s["k"] + 4, 4 * s["parts"]),
)
def tell(x, token, likely, largest, total, state, told, told_ids):
    """told[step] = ln p of the token and of the `likely` ones, p = softmax(x); told_ids[step] = likely.

    step = state[0, 3]: how many tokens were generated before.
    largest, total: `exp_sums` of x [1, width]. In place; nothing where it lies beyond the rows of `told`.
    """
    step = int(state[0, 3])
    if step < told.shape[0]:
        most = largest.max()
        all_of_it = most + (total * torch.exp(largest - most)).sum().log()
        places = torch.cat([token.long(), likely[0].long()])
        told[step] = (x[0, places] - all_of_it).to(told.dtype)
        told_ids[step] = likely[0]
    return told, told_ids
