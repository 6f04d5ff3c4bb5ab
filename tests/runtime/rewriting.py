"""Plans rewritten by the rules, without a device, and the names of the kernels that they come to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import wgsl_kernels
from wgsl_kernels import Adapter
from wgsl_kernels.composition import Facts, Rule
from wgsl_kernels.fusions import RULES
from workbench.plan.bind import kernel_of
from workbench.plan.plan import Plan
from workbench.runtime.lowering import row_ranges
from workbench.runtime.rewrite import rewrite, stacked_together
from workbench.runtime.stacks import Stack, stackable

GPU = Adapter(subgroups=True, subgroup_size=32)
BINDING = 128 << 20


def stacks_of(plan: Plan, binding: int = BINDING, alignment: int = 256) -> list[Stack]:
    return stackable(stacked_together(plan, wgsl_kernels.library()), binding, alignment)


def rewritten(
    plan: Plan,
    keep: Iterable[str] = (),
    *,
    adapter: Adapter = GPU,
    tokens: int = 1,
    capacity: int = 64,
    sequences: int = 1,
    rules: Sequence[Rule] = RULES,
    ranges: Callable | None = None,
) -> Plan:
    """A checked plan."""
    found = rewrite(
        plan,
        Facts(tokens, capacity, adapter, sequences),
        keep=keep,
        stacks=stacks_of(plan),
        ranges=ranges or (lambda name: row_ranges(plan.buffers[name], BINDING)),
        library=wgsl_kernels.library(),
        rules=rules,
    )
    found.check()
    return found


def with_gelu(plan: Plan) -> Plan:
    """The plan with the gated units of Gemma."""
    calls = [replace(call, op="gelu_mul") if call.op == "silu_mul" else call for call in plan.calls]
    return replace(plan, calls=tuple(calls))


def kernels(plan: Plan) -> list[str]:
    """Names of the kernels of a plan's calls."""
    return [kernel_of(plan, call).name for call in plan.calls]
