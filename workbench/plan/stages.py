"""A plan cut into stages: what is before the decoder layers, each layer, what is behind them.

Only the residual stream passes from a stage to the next, so that a model can be run, calibrated and measured with one
layer in memory.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from .plan import Call, Plan, PlanError

_LAYER = re.compile(r"layers\.(\d+)\.")


@dataclass(frozen=True)
class Stage:
    """Some calls of a plan, in order. reads: the activation that comes from the stage before, None of the first;
    writes: the one that goes to the next, or the plan's result. tensors: of the checkpoint, that they read."""

    calls: tuple[Call, ...]
    reads: str | None
    writes: str
    tensors: tuple[str, ...]


def stages(plan: Plan) -> list[Stage]:
    """The stage in front of the layers, one for each layer, and the end.

    A call belongs to layer i if it writes a buffer named `layers.i.NAME`. Raises `PlanError` where more than one
    activation passes from a stage to the next.
    """
    parts: list[list[Call]] = [[]]
    for call in plan.calls:
        layer = _layer(call)
        if layer is None and len(parts) > 1 and _layer(parts[-1][0]) is not None:
            parts.append([])  # the end
        elif layer is not None and layer == len(parts) - 1:
            parts.append([])
        elif layer is not None and layer != len(parts) - 2:
            raise PlanError(f"{call} belongs to layer {layer}, between calls of layer {len(parts) - 2}")
        parts[-1].append(call)
    passed = _passed(plan, parts)
    return [_stage(plan, calls, passed[index], passed[index + 1]) for index, calls in enumerate(parts)]


def _layer(call: Call) -> int | None:
    matches = [_LAYER.match(name) for name in call.outputs.values()]
    return int(matches[0][1]) if matches[0] else None


def _stage(plan: Plan, calls: Sequence[Call], before: str | None, behind: str | None) -> Stage:
    """before, behind: the activations that come from the stage before and go to the next."""
    read = {name: None for call in calls for name in call.inputs.values()}
    tensors = [tensor for name in read for tensor in plan.buffers[name].tensors]
    return Stage(tuple(calls), before, behind or plan.results[-1], tuple(tensors))


def _passed(plan: Plan, parts: Sequence[Sequence[Call]]) -> list[str | None]:
    """The activation that is handed on in front of each stage: written before, and read there or later. None in front
    of the first and behind the last."""
    first_written: dict[str, int] = {}
    last_read: dict[str, int] = {}
    for index, part in enumerate(parts):
        for call in part:
            last_read |= dict.fromkeys(call.inputs.values(), index)
            for name in call.outputs.values():
                first_written.setdefault(name, index)
    passing: list[list[str]] = [[] for _ in parts]
    for name, at in first_written.items():
        if plan.buffers[name].kind == "activation":
            for index in range(at + 1, last_read.get(name, at) + 1):
                passing[index].append(name)
    for index, names in enumerate(passing[1:], 1):
        if len(names) != 1:
            found = ", ".join(sorted(names)) or "nothing"
            raise PlanError(f"{found} passes from stage {index - 1} to the next; allowed: one activation")
    return [None, *(name for [name] in passing[1:]), None]
