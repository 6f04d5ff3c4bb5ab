"""From a semantic plan to a device plan: fuse, split large tensors, choose variants, assign buffers.

Lowering is pure: it needs the facts about an adapter, not a device, so that a forecast costs nothing. Activations
named in `keep` are never fused away, and their buffers never reused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import wgsl_kernels
from wgsl_kernels import Adapter, Context, Kernel
from workbench.errors import OutOfMemoryError
from workbench.plan.count import buffer_bytes
from workbench.plan.plan import Call, Plan

from .fusion import fuse
from .head_fusion import drop_last_row, fuse_argmax, fuse_top_k
from .sampling_parts import split_sampling
from .stacks import PLANES, Stack, find_stacks, weight_name

#: Ports whose arrays are cut where a step computes a range of its weight's rows.
BY_ROWS = (*PLANES, "bias")


@dataclass(frozen=True)
class Step:
    """One dispatch: the call it came from, with a variant, sizes and types; rows is the range of its weight.

    tunables: those that measurement chose; the variant's defaults are used for the others.
    """

    call: Call
    variant: str
    reason: str
    sizes: Mapping[str, int]
    types: Mapping[str, str]
    rows: tuple[int, int] | None = None
    tunables: Mapping[str, int] = field(default_factory=dict)


class Choice(Protocol):
    """Measured choices: `workbench.runtime.tuning.tuned.Tuned`."""

    def pick(self, kernel: Kernel, sizes: Mapping, types: Mapping[str, str], adapter: Adapter):
        """Something with `variant`, `tunables` and `reason`, or None for the default."""

    def used(self) -> list[dict]:
        """What was picked so far, JSON values."""


@dataclass(frozen=True)
class DevicePlan:
    """steps in order; slots: activation -> arena buffer; slot_bytes: size of each arena buffer.

    stacks: matrices that lie row under row on the device, whether or not this plan's calls read them together.
    """

    plan: Plan
    steps: tuple[Step, ...]
    slots: Mapping[str, int]
    slot_bytes: tuple[int, ...]
    sizes: Mapping[str, int]
    stacks: Mapping[str, Stack] = field(default_factory=dict)


def row_ranges(plan: Plan, weight: str, binding_bytes: int) -> list[tuple[int, int]]:
    """Ranges of rows such that no plane of a range exceeds a binding; multiples of 4 rows, for packed planes.

    Raises `OutOfMemoryError` if four rows do not fit.
    """
    rows = plan.weights[weight].shape[0]
    widest = 0
    for name, buffer in plan.buffers.items():
        if name.rsplit(".", 1)[0] == weight and buffer.kind == "weight" and buffer.shape[0] == rows:
            widest = max(widest, buffer_bytes(buffer, {}) // rows)
    most = binding_bytes // widest
    if most >= rows:
        return [(0, rows)]
    most -= most % 4
    if most == 0:
        raise OutOfMemoryError(
            f"four rows of {weight} ({widest} bytes each) exceed a binding of {binding_bytes} bytes"
        )
    return [(first, min(first + most, rows)) for first in range(0, rows, most)]


def _step(
    plan: Plan, call: Call, sizes: Mapping[str, int], adapter: Adapter, rows, tuned: Choice | None
) -> Step:
    kernel = wgsl_kernels.get(call.kernel)
    bound = {**call.inputs, **call.outputs}
    params = dict(call.params)
    shapes = {port: plan.buffers[name].resolved(sizes) for port, name in bound.items()}
    if rows is not None:
        first, stop = rows
        whole = plan.weights[weight_name(call)].shape[0]
        for port in BY_ROWS:
            if port in shapes and shapes[port][0] == whole:
                shapes[port] = (stop - first, *shapes[port][1:])
        params["row_offset"] = first
    local = {**kernel.bind_sizes(shapes), **params}
    types = {}
    for port in kernel.ports:
        if port in bound:
            types[port] = plan.buffers[bound[port]].dtype
    picked = tuned.pick(kernel, local, types, adapter) if tuned is not None else None
    if picked is not None:
        return Step(call, picked.variant, picked.reason, local, types, rows, picked.tunables)
    variant, reason = kernel.choose(Context(kernel.complete(local), types, adapter))
    return Step(call, variant, f"default: {reason}", local, types, rows)


def assign(
    plan: Plan, sizes: Mapping[str, int], keep: Iterable[str]
) -> tuple[dict[str, int], tuple[int, ...]]:
    """Arena buffers for activations: a buffer is free again after its last reader. Whole buffers are reused, since
    two ranges of one cannot be read and written in one dispatch."""
    protected = {*keep, *plan.results}
    last = {}
    for index, call in enumerate(plan.calls):
        for name in (*call.inputs.values(), *call.outputs.values()):
            last[name] = index
    slots: dict[str, int] = {}
    sizes_of: list[int] = []
    free: list[int] = []
    for index, call in enumerate(plan.calls):
        for name in call.outputs.values():
            buffer = plan.buffers[name]
            if buffer.kind != "activation" or name in slots:
                continue
            need = buffer_bytes(buffer, sizes)
            candidates = [] if name in protected else sorted(free, key=lambda s: abs(sizes_of[s] - need))
            if candidates:
                slot = candidates[0]
                free.remove(slot)
                sizes_of[slot] = max(sizes_of[slot], need)
            else:
                slot = len(sizes_of)
                sizes_of.append(need)
            slots[name] = slot
        for name in {*call.inputs.values(), *call.outputs.values()}:
            if name in slots and last[name] == index and name not in protected:
                free.append(slots[name])
    return slots, tuple(sizes_of)


def lower(
    plan: Plan,
    sizes: Mapping[str, int],
    adapter: Adapter,
    binding_bytes: int,
    keep: Iterable[str] = (),
    tuned: Choice | None = None,
) -> DevicePlan:
    """The device plan for given `tokens`, `capacity`, `sequences` and `steps`. Raises `PlanError` for unknown names.

    tuned: measured choices of variants and tunables; without them every kernel's own preference holds.
    """
    keep = plan.check_names(keep)
    stacks = find_stacks(plan, binding_bytes)
    tokens, capacity = sizes["tokens"], sizes["capacity"]
    if tokens == 1:
        plan = drop_last_row(plan, keep)
    plan = fuse(plan, keep, tokens=tokens, capacity=capacity, adapter=adapter, stacks=stacks)
    for rule in (fuse_argmax, fuse_top_k):
        plan = rule(
            plan, keep, adapter=adapter, ranges=partial(row_ranges, plan, binding_bytes=binding_bytes)
        )
    plan = split_sampling(plan, keep)
    steps = []
    for call in plan.calls:
        weight = weight_name(call)
        ranges = row_ranges(plan, weight, binding_bytes) if weight else [None]
        if len(ranges) == 1:
            ranges = [None]
        steps += [_step(plan, call, sizes, adapter, rows, tuned) for rows in ranges]
    slots, slot_bytes = assign(plan, sizes, keep)
    return DevicePlan(plan, tuple(steps), slots, slot_bytes, dict(sizes), stacks)
