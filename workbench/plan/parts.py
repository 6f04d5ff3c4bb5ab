"""A plan in parts, some of its layers in each, so that somebody can look, stop or go on elsewhere in between.

Parts are made of stages (`stages`), and meet at the one activation that a layer hands to the next. That is a buffer of
another kind there, which outlives a step: "state" where the same device goes on, "input" where somebody hands it over.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from .plan import Buffer, Call, Plan, PlanError
from .stages import Stage, stages


def outputs(plan: Plan) -> list[str]:
    """What each layer hands on, by name, in order. Raises `PlanError` as `stages` does."""
    return [stage.writes for stage in stages(plan)[1:-1]]


def part(plan: Plan, start: int = 0, stop: int | None = None, kind: str = "state") -> Plan:
    """The layers from `start` up to `stop`; with what is in front of them for 0, and what is behind them for None.

    kind: of what comes from the layer before and goes to the next. Results are the plan's where it goes to the end,
    else none. Raises `PlanError` for layers that there are not.
    """
    cut = _checked(plan, start, stop)
    first, last = start + 1 if start else 0, None if stop is None else stop + 1
    calls = [call for stage in cut[first:last] for call in stage.calls]
    met = [cut[start].writes] if start else []
    met += [] if stop is None else [cut[stop].writes]
    return _made(plan, calls, plan.results if stop is None else (), met, kind)


def ending(plan: Plan, depth: int, kind: str = "state") -> Plan:
    """What is behind the layers, on what layer number `depth` hands on (from 1): what a model says that ends there (the
    logit lens, nostalgebraist 2020)."""
    cut = _checked(plan, 0, depth)
    given = cut[depth].writes
    calls = [_renamed(call, {cut[-2].writes: given}) for call in cut[-1].calls]
    return _made(plan, calls, plan.results, [given], kind)


def filling(plan: Plan, depth: int, kind: str = "state") -> Plan:
    """What writes the caches of the layers behind layer number `depth` (from 1) as if each was handed what that one
    hands on: the state that a token propagates which leaves early (Elbayad et al. 2020, "depth-adaptive transformer";
    Schuster et al. 2022, CALM)."""
    cut = _checked(plan, 0, depth)
    given = cut[depth].writes
    renamed = {stage.writes: given for stage in cut[depth:-1]}
    wanted = {buffer.name for buffer in plan.of_kind("cache")}
    kept: list[Call] = []
    for call in reversed([call for stage in cut[depth + 1 : -1] for call in stage.calls]):
        if wanted & set(call.outputs.values()):
            kept.append(_renamed(call, renamed))
            wanted |= set(kept[-1].inputs.values())
    return _made(plan, kept[::-1], (), [given], kind)


def joined(first: Plan, second: Plan) -> Plan:
    """One part behind another, with the results of both."""
    buffers = {**first.buffers, **second.buffers}
    made = Plan(buffers, (*first.calls, *second.calls), (*first.results, *second.results))
    made.check()
    return made


def _checked(plan: Plan, start: int, stop: int | None) -> list[Stage]:
    cut = stages(plan)
    layers = len(cut) - 2
    if not 0 <= start < layers or (stop is not None and not start < stop <= layers):
        raise PlanError(
            f"there are no layers {start} to {stop}; allowed: a part of the {layers}, one at least"
        )
    return cut


def _renamed(call: Call, names: dict[str, str]) -> Call:
    return replace(call, inputs={operand: names.get(name, name) for operand, name in call.inputs.items()})


def _made(plan: Plan, calls: Sequence[Call], results: Sequence[str], met: Iterable[str], kind: str) -> Plan:
    """A checked plan of these calls, with the buffers that they use. met: those that become buffers of `kind`."""
    met = set(met)
    used = {name for call in calls for name in (*call.inputs.values(), *call.outputs.values())}

    def buffer_of(name: str) -> Buffer:
        return replace(plan.buffers[name], kind=kind) if name in met else plan.buffers[name]

    buffers = {name: buffer_of(name) for name in plan.buffers if name in used | met}
    made = Plan(buffers, tuple(calls), tuple(results))
    made.check()
    return made
