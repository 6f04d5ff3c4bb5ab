"""Counting a plan: bytes of weights, cache and activations, and the work of one step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import wgsl_kernels
from wgsl_kernels.pair import ELEMENT_BYTES

from .plan import Buffer, Call, Plan


def buffer_bytes(buffer: Buffer, sizes: Mapping[str, int]) -> int:
    """Bytes of a buffer for given `tokens` and `capacity`."""
    return math.prod(buffer.resolved(sizes)) * ELEMENT_BYTES[buffer.dtype]


def kind_bytes(plan: Plan, kind: str, sizes: Mapping[str, int]) -> int:
    """Bytes of all buffers of a kind, without reuse."""
    return sum(buffer_bytes(b, sizes) for b in plan.of_kind(kind))


def call_sizes(plan: Plan, call: Call, sizes: Mapping[str, int]) -> dict[str, int]:
    """Shape names of the call's kernel, and its parameters."""
    kernel = wgsl_kernels.get(call.kernel)
    bound = {**call.inputs, **call.outputs}
    shapes = {port: plan.buffers[name].resolved(sizes) for port, name in bound.items()}
    return kernel.complete({**kernel.bind_sizes(shapes), **call.params})


@dataclass(frozen=True)
class StepCost:
    """Work of one step. bytes: read and written at least, weights once; weight_bytes: the weights' part of it."""

    dispatches: int
    bytes: float
    weight_bytes: float
    flops: float


def step_cost(plan: Plan, sizes: Mapping[str, int]) -> StepCost:
    """The cost models of all calls together; attention over a cache that holds `sizes["capacity"]` positions."""
    costs = [wgsl_kernels.get(c.kernel).cost(call_sizes(plan, c, sizes)) for c in plan.calls]
    read = {
        name
        for call in plan.calls
        for name in call.inputs.values()
        if plan.buffers[name].kind == "weight" and not call.kernel.startswith("embedding")
    }
    weights = sum(buffer_bytes(plan.buffers[name], sizes) for name in read)
    return StepCost(len(plan.calls), sum(c.bytes for c in costs), weights, sum(c.flops for c in costs))
