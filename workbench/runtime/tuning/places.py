"""Where a plan can be lowered in two ways, as it says or rewritten by a rule: what is raced, and by what name it is
remembered."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

from wgsl_kernels import Adapter, Kernel
from wgsl_kernels.composition import Composition, Facts, Rule
from wgsl_kernels.fusions import RULES
from wgsl_kernels.header import write_module
from workbench.known import known
from workbench.plan.plan import Buffer, Plan

from ..lowering import Choice, DevicePlan, Pick, Step, lower
from ..rewrite import Found
from .cases import Case, rounded_capacity

#: The two sides, in place of a kernel's variants.
PLANNED, REWRITTEN = SIDES = ("as planned", "rewritten")
#: Names of the rules that are a choice, in place of a kernel's name.
CHOICES = tuple(rule.name for rule in RULES if rule.usual is not None)


@dataclass(frozen=True)
class Place:
    """The calls of a plan that a rule may rewrite, as a plan of their own. case: what it is remembered by; usual: the
    side that is taken unmeasured."""

    case: Case
    plan: Plan
    sizes: Mapping[str, int]
    usual: str

    def lowered(
        self, side: str, adapter: Adapter, binding_bytes: int, tuned: Choice | None = None
    ) -> DevicePlan:
        """The device plan of one side. tuned: of its kernels."""
        return lower(self.plan, self.sizes, adapter, binding_bytes, tuned=_Side(side == REWRITTEN, tuned))

    def steps(self, adapter: Adapter, binding_bytes: int) -> list[Step]:
        """Those of both sides, with their kernels' defaults."""
        sides = (self.lowered(side, adapter, binding_bytes) for side in SIDES)
        return [step for plan in sides for step in plan.steps]

    def digest(self, adapter: Adapter, binding_bytes: int) -> str:
        """sha256 over the WGSL of both sides, with their kernels' defaults."""
        parts = []
        for step in self.steps(adapter, binding_bytes):
            context = step.kernel.specialise(step.variant, step.sizes, step.types, adapter)
            parts.append(write_module(step.kernel, step.kernel.variants[step.variant], context).digest)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def place_of(
    rule: Rule, before: Composition, found: Found, sizes: Mapping[str, int], adapter: Adapter
) -> Place:
    """The place where a rule was found in a plan that is lowered for `sizes`; the cache's capacity is rounded up."""
    sizes = {**sizes, "capacity": rounded_capacity(sizes["capacity"])}
    calls = tuple(found.plan.calls[at] for at in sorted(found.at))
    results = tuple(dict.fromkeys(found.names[symbol] for symbol in before.results))
    buffers: dict[str, Buffer] = {}
    for call in calls:  # what is read first is given, whatever it is in the whole plan; the rest is made here
        for names, kind in ((call.inputs, "input"), (call.outputs, "activation")):
            for name in names.values():
                buffer = found.plan.buffers[name]
                keeps = kind == "input" and buffer.kind != "activation"
                buffers.setdefault(name, buffer if keeps else replace(buffer, kind=kind))
    operands = {symbol: found.plan.buffers[found.names[symbol]] for symbol in before.inputs}
    shape = {
        f"{symbol}.{axis}": n
        for symbol, buffer in operands.items()
        for axis, n in enumerate(buffer.resolved(sizes))
    }
    case = Case(
        rule.name,
        {"tokens": sizes["tokens"], "capacity": sizes["capacity"], **found.params, **shape},
        {symbol: str(buffer.type) for symbol, buffer in operands.items()},
    )
    facts = Facts(sizes["tokens"], sizes["capacity"], adapter, sizes["sequences"])
    return Place(
        case, Plan(buffers, calls, results), sizes, REWRITTEN if known(rule.usual)(facts, found) else PLANNED
    )


@dataclass(frozen=True)
class _Side:
    """One side of every choice, and what was measured of kernels."""

    applied: bool
    kernels: Choice | None

    def pick(self, kernel: Kernel, sizes: Mapping, types: Mapping[str, str], adapter: Adapter) -> Pick | None:
        return None if self.kernels is None else self.kernels.pick(kernel, sizes, types, adapter)

    def applies(self, rule: Rule, before: Composition, found: Found, **facts) -> bool:
        return self.applied


class Places:
    """A choice of nothing, which keeps all places that lowering asks about, by the names of their cases."""

    def __init__(self) -> None:
        self.found: dict[str, Place] = {}

    def pick(self, kernel: Kernel, sizes: Mapping, types: Mapping[str, str], adapter: Adapter) -> None:
        return None

    def applies(
        self,
        rule: Rule,
        before: Composition,
        found: Found,
        *,
        sizes: Mapping[str, int],
        adapter: Adapter,
        binding_bytes: int,
    ) -> None:
        place = place_of(rule, before, found, sizes, adapter)
        self.found.setdefault(place.case.name, place)
