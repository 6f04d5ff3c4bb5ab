"""From a call of an op to a kernel and the planes that its ports bind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import wgsl_kernels
from wgsl_kernels.library import Library
from wgsl_kernels.pair import Kernel
from wgsl_kernels.shapes import sizes_of

from .plan import Call, Plan, PlanError, resolve


@dataclass(frozen=True)
class Bound:
    """A call as a kernel sees it. ports: port -> (buffer, plane of it); shapes (numbers) and types (elements) of these,
    types in the order of the bindings; params: the call's, and those that follow from the types of its operands."""

    kernel: Kernel
    ports: Mapping[str, tuple[str, str]]
    shapes: Mapping[str, tuple[int, ...]]
    types: Mapping[str, str]
    params: Mapping[str, int | float | bool]

    def sizes(self) -> dict:
        """Shape names and parameters; raises `KernelUsageError` where shapes contradict each other."""
        return {**sizes_of(self.kernel, self.shapes), **self.params}


def kernel_of(plan: Plan, call: Call, library: Library | None = None) -> Kernel:
    """The kernel of a call, in a library or in what is registered.

    Raises `KernelUsageError` where there is none for these types.
    """
    form = {}
    for operand, name in {**call.inputs, **call.outputs}.items():
        label = plan.buffers[name].type.label
        if label is not None:
            form[operand] = label
    return (library or wgsl_kernels.library()).kernel(call.op, form)


def bind(plan: Plan, call: Call, sizes: Mapping[str, int], library: Library | None = None) -> Bound:
    """The call with numbers for `tokens`, `capacity` and so on. Raises `KernelUsageError`, `PlanError`."""
    kernel = kernel_of(plan, call, library)
    operands = kernel.operands()
    found, params = {}, {}
    for operand, name in {**call.inputs, **call.outputs}.items():
        buffer = plan.buffers[name]
        if operand not in operands:
            raise PlanError(f"{call.op} has no operand {operand!r}; it has {', '.join(operands)}")
        for plane, (_, shape, dtype) in buffer.planes().items():
            found[operands[operand][plane]] = ((name, plane), resolve(shape, sizes), dtype)
        params |= kernel.params_of(operand, buffer.type.params(buffer.resolved(sizes)))
    ports = [port for port in (*kernel.reads, *kernel.writes) if port in found]
    return Bound(
        kernel,
        {port: found[port][0] for port in ports},
        {port: found[port][1] for port in ports},
        {port: found[port][2] for port in kernel.ports if port in found},
        {**params, **call.params},
    )
