"""A plan's float activations, and how many of them a run may keep at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from workbench.plan.plan import Plan


def float_activations(plan: Plan) -> dict[str, tuple[str, int]]:
    """Activations of f32 and f16 in the order of the calls that write them: name -> (dtype, width of a row)."""
    found = {b.name: b for b in plan.of_kind("activation") if b.dtype in ("f32", "f16")}
    order = dict.fromkeys(name for call in plan.calls for name in call.outputs.values())
    return {
        name: (found[name].dtype, math.prod(d for d in found[name].shape if isinstance(d, int)))
        for name in order
        if name in found
    }


def passes(named: Mapping[str, tuple[str, int]], tokens: int, most: int) -> Iterator[list[str]]:
    """Groups of names, name -> (dtype, width), whose rows of so many tokens fit into `most` bytes together as f32; one
    name at least."""
    group: list[str] = []
    size = 0
    for name, (_, width) in named.items():
        need = 4 * tokens * width
        if group and size + need > most:
            yield group
            group, size = [], 0
        group.append(name)
        size += need
    yield group
