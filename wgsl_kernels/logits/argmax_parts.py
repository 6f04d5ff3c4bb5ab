"""An argmax over rows of logits that lie in memory, in two dispatches with many workgroups each row.

    argmax_parts, argmax_reduce  argmax

A workgroup a row has nothing to hide its loads behind: eight rows of 128,256 logits took 107 us (H200). `norm_argmax`
is the end of a step of one token, whose logits never reach memory.
"""

from __future__ import annotations

import torch

from ..composition import Facts, Match, rule
from ..makers import handing_on
from ..pair import Cost, Port, Variant, ceil_div, kernel
from ..reduce import lanes_default, reduction
from .logits import argmax
from .norm_argmax import PARTS, largest_of

#: Numbers of a group: eight for each thread of a workgroup.
GROUP = 2048


def _inputs(group=GROUP, **options) -> dict:
    return {**argmax.inputs(**options), "group": group}


def _tolerance(arguments, expected) -> dict:
    return {name: torch.zeros(value.shape, dtype=torch.float64) for name, value in expected.items()}


@kernel(
    reads=dict(argmax.reads),
    writes={name: Port(port.shape, port.dtype) for name, port in PARTS.items()},
    params={"group": int},
    derive=lambda s: {"groups": ceil_div(s["width"], s["group"])} if {"width", "group"} <= set(s) else {},
    variants={
        "groups": Variant(
            "logits/argmax_parts",
            grid=lambda c: (c["groups"], c["tokens"], 1),
            tunables={"workgroup": (256, 8, 16, 32, 64, 128)},
            defaults=lanes_default,
            library=lambda c: (reduction(c),),
        )
    },
    make_inputs=handing_on(_inputs, argmax.make_inputs),
    tolerance=_tolerance,
    cost=lambda s: Cost(
        4 * s["tokens"] * s["width"], 8 * s["tokens"] * s["groups"], s["tokens"] * s["width"]
    ),
)
def argmax_parts(x, group):
    """Of each `group` numbers of a row of x [tokens, width] the largest and its index, the first of equals.

    largest, index [tokens, groups]; width below 2^24. The last group may have fewer.
    """
    return largest_of(x, group)


def _long_rows(facts: Facts, match: Match) -> bool | dict[str, int]:
    """Several groups, on a GPU; a CPU computes workgroups one after the other."""
    if facts.adapter.is_cpu or match.shape("x")[1] <= GROUP:
        return False
    return {"group": GROUP}


def _whole(p, x):
    """The largest logit of each row, a group of them after the other."""
    return p.argmax(x=x)


def _by_groups(p, x, *, group):
    largest, index = p.argmax_parts(x=x, group=group)
    return p.argmax_reduce(largest=largest, index=index)


ARGMAX_PARTS = rule(_whole, _by_groups, name="argmax_parts", where=_long_rows)
