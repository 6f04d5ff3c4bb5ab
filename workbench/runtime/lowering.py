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
from wgsl_kernels import Adapter, Context, Kernel, Library
from wgsl_kernels.composition import Composition, Facts, Rule
from wgsl_kernels.shapes import sizes_of
from workbench.errors import OutOfMemoryError
from workbench.plan.bind import bind, kernel_of
from workbench.plan.count import plane_bytes
from workbench.plan.plan import Buffer, Call, Plan

from .rewrite import Found, rewrite, stacked_together
from .stacks import Stack, stackable


@dataclass(frozen=True)
class Step:
    """One dispatch: the call it came from, its kernel with a variant, sizes and types; rows is the range of its weight.

    ports: port -> (buffer, plane of it), all that the kernel reads and writes. tunables: those that measurement chose;
    the variant's defaults are used for the others.
    """

    call: Call
    kernel: Kernel
    ports: Mapping[str, tuple[str, str]]
    variant: str
    reason: str
    sizes: Mapping[str, int]
    types: Mapping[str, str]
    rows: tuple[int, int] | None = None
    tunables: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Pick:
    """What to run instead of the default, or the default with the reason that it was measured."""

    variant: str
    tunables: Mapping[str, int]
    reason: str


class Choice(Protocol):
    """Measured choices: `workbench.runtime.tuning.tuned.Tuned`."""

    def pick(self, kernel: Kernel, sizes: Mapping, types: Mapping[str, str], adapter: Adapter) -> Pick | None:
        """For a call; None for the default."""
        ...

    def applies(
        self,
        rule: Rule,
        before: Composition,
        found: Found,
        *,
        sizes: Mapping[str, int],
        adapter: Adapter,
        binding_bytes: int,
    ) -> bool | None:
        """Whether a rule that is a choice pays where it was found, None where nothing was measured."""
        ...


@dataclass(frozen=True)
class DevicePlan:
    """steps in order; slots: plane of an activation -> arena buffer; slot_bytes: size of each arena buffer.

    stacks: matrices that lie row under row on the device, whether or not this plan's calls read them together.
    """

    plan: Plan
    steps: tuple[Step, ...]
    slots: Mapping[str, int]
    slot_bytes: tuple[int, ...]
    sizes: Mapping[str, int]
    stacks: Mapping[str, Stack] = field(default_factory=dict)


def row_ranges(matrix: Buffer, binding_bytes: int) -> list[tuple[int, int]]:
    """Ranges of rows such that no plane of a range exceeds a binding; multiples of 4 rows, for packed planes.

    Raises `OutOfMemoryError` if four rows do not fit.
    """
    rows = matrix.rows
    widest = max(
        size // rows
        for size, (_, shape, _) in zip(
            plane_bytes(matrix, {}).values(), matrix.planes().values(), strict=True
        )
        if shape[0] == rows
    )
    most = binding_bytes // widest
    if most >= rows:
        return [(0, rows)]
    most -= most % 4
    if most == 0:
        raise OutOfMemoryError(
            f"four rows of {matrix.name} ({widest} bytes each) exceed a binding of {binding_bytes} bytes"
        )
    return [(first, min(first + most, rows)) for first in range(0, rows, most)]


def matrix_of(plan: Plan, call: Call) -> Buffer | None:
    """The matrix that a call reads, if any."""
    name = call.inputs.get("weight")
    return plan.buffers[name] if name is not None and plan.buffers[name].is_matrix else None


def _step(
    plan: Plan,
    call: Call,
    sizes: Mapping[str, int],
    adapter: Adapter,
    rows: tuple[int, int] | None,
    tuned: Choice | None,
    library: Library,
) -> Step:
    bound = bind(plan, call, sizes, library)
    kernel, shapes, params = bound.kernel, dict(bound.shapes), dict(bound.params)
    if rows is not None:
        first, stop = rows
        whole = plan.buffers[call.inputs["weight"]].rows
        for port in shapes:
            if by_rows(kernel, port) and shapes[port][0] == whole:
                shapes[port] = (stop - first, *shapes[port][1:])
        params["row_offset"] = first
    local = {**sizes_of(kernel, shapes), **params}
    picked = tuned.pick(kernel, local, bound.types, adapter) if tuned is not None else None
    if picked is not None:
        variant, reason, tunables = picked.variant, picked.reason, picked.tunables
    else:
        variant, why = kernel.choose(Context(kernel.complete(local), bound.types, adapter))
        reason, tunables = f"default: {why}", {}
    return Step(call, kernel, bound.ports, variant, reason, local, bound.types, rows, tunables)


def by_rows(kernel: Kernel, port: str) -> bool:
    """Whether a port's array is cut where a step computes a range of its weight's rows."""
    return port == "bias" or kernel.ports[port].of == "weight"


def assign(
    plan: Plan, sizes: Mapping[str, int], keep: Iterable[str]
) -> tuple[dict[str, int], tuple[int, ...]]:
    """Arena buffers for the planes of activations: a buffer is free again after its last reader. Whole buffers are
    reused, since two ranges of one cannot be read and written in one dispatch."""
    protected = {*keep, *plan.results}
    last = {}
    for index, call in enumerate(plan.calls):
        for name in (*call.inputs.values(), *call.outputs.values()):
            last[name] = index
    slots: dict[str, int] = {}
    sizes_of: list[int] = []
    free: list[int] = []
    held: dict[str, list[int]] = {}
    for index, call in enumerate(plan.calls):
        for name in call.outputs.values():
            buffer = plan.buffers[name]
            if buffer.kind != "activation" or name in held:
                continue
            held[name] = []
            for plane, need in plane_bytes(buffer, sizes).items():
                candidates = [] if name in protected else sorted(free, key=lambda s: abs(sizes_of[s] - need))
                if candidates:
                    slot = candidates[0]
                    free.remove(slot)
                    sizes_of[slot] = max(sizes_of[slot], need)
                else:
                    slot = len(sizes_of)
                    sizes_of.append(need)
                slots[plane] = slot
                held[name].append(slot)
        for name in dict.fromkeys((*call.inputs.values(), *call.outputs.values())):
            if name in held and last[name] == index and name not in protected:
                free += held[name]
    return slots, tuple(sizes_of)


def lower(
    plan: Plan,
    sizes: Mapping[str, int],
    adapter: Adapter,
    binding_bytes: int,
    keep: Iterable[str] = (),
    tuned: Choice | None = None,
    library: Library | None = None,
) -> DevicePlan:
    """The device plan for given `tokens`, `capacity`, `sequences` and `steps`.

    keep: also names that only the device plan has. Raises `PlanError` for what neither has.
    tuned: measured choices of variants, tunables and rules; without them what kernels and rules prefer holds. library:
    of kernels, by default all that are registered.
    """
    library = library or wgsl_kernels.library()
    keep, planned = tuple(keep), plan
    stacks = stackable(stacked_together(plan, library), binding_bytes, adapter.offset_alignment)
    plan = rewrite(
        plan,
        Facts(sizes["tokens"], sizes["capacity"], adapter, sizes["sequences"]),
        keep=[plan.arrays[name][0].name for name in keep if name in plan.arrays],
        stacks=stacks,
        ranges=lambda name: row_ranges(plan.buffers[name], binding_bytes),
        library=library,
        measured=None
        if tuned is None
        else partial(tuned.applies, sizes=sizes, adapter=adapter, binding_bytes=binding_bytes),
    )
    planned.check_names(name for name in keep if name not in plan.arrays)
    keep = [plan.arrays[name][0].name for name in keep]
    steps = []
    for call in plan.calls:
        matrix = matrix_of(plan, call)
        ranges = row_ranges(matrix, binding_bytes) if matrix else [None]
        if len(ranges) == 1:
            ranges = [None]
        elif "row_offset" not in kernel_of(plan, call, library).params:
            raise OutOfMemoryError(
                f"{call.inputs['weight']} exceeds a binding of {binding_bytes} bytes, and {call.op} reads it "
                "whole; load fewer adapters"
            )
        steps += [_step(plan, call, sizes, adapter, rows, tuned, library) for rows in ranges]
    slots, slot_bytes = assign(plan, sizes, keep)
    return DevicePlan(plan, tuple(steps), slots, slot_bytes, dict(sizes), {s.name: s for s in stacks})
