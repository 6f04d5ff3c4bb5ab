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
    return [_stage(plan, parts, index) for index in range(len(parts))]


def _layer(call: Call) -> int | None:
    matches = [_LAYER.match(name) for name in call.outputs.values()]
    return int(matches[0][1]) if matches[0] else None


def _stage(plan: Plan, parts: Sequence[Sequence[Call]], index: int) -> Stage:
    calls = parts[index]
    read = {name: None for call in calls for name in call.inputs.values()}
    tensors = [tensor for name in read for tensor in plan.buffers[name].tensors]
    before, behind = _passed(plan, parts, index), _passed(plan, parts, index + 1)
    return Stage(tuple(calls), before, behind or plan.results[-1], tuple(tensors))


def _passed(plan: Plan, parts: Sequence[Sequence[Call]], index: int) -> str | None:
    """The activation that the stage before `index` hands on."""
    if index == 0 or index == len(parts):
        return None
    written = {name for part in parts[:index] for call in part for name in call.outputs.values()}
    read = {name for part in parts[index:] for call in part for name in call.inputs.values()}
    passed = [name for name in written & read if plan.buffers[name].kind == "activation"]
    if len(passed) != 1:
        found = ", ".join(sorted(passed)) or "nothing"
        raise PlanError(f"{found} passes from stage {index - 1} to the next; allowed: one activation")
    return passed[0]
