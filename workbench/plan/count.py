"""Counting a plan: bytes of weights, cache and activations, and the work of one step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import wgsl_kernels
from workbench.dtypes import ELEMENT_BYTES

from .bind import bind
from .plan import Buffer, Call, Plan, resolve


def plane_bytes(buffer: Buffer, sizes: Mapping[str, int]) -> dict[str, int]:
    """Bytes of each plane of a buffer, by the plane's name, for given `tokens` and `capacity`."""
    return {
        own: math.prod(resolve(shape, sizes)) * ELEMENT_BYTES[dtype]
        for own, shape, dtype in buffer.planes().values()
    }


def buffer_bytes(buffer: Buffer, sizes: Mapping[str, int]) -> int:
    """Bytes of a buffer, all its planes together, for given `tokens` and `capacity`."""
    return sum(plane_bytes(buffer, sizes).values())


def kind_bytes(plan: Plan, kind: str, sizes: Mapping[str, int]) -> int:
    """Bytes of all buffers of a kind, without reuse."""
    return sum(buffer_bytes(b, sizes) for b in plan.of_kind(kind))


@dataclass(frozen=True)
class StepCost:
    """Work of one step. bytes: read and written at least, weights once; weight_bytes: the weights' part of it. Of
    experts those count that tokens go to, as if no two went to one."""

    dispatches: int
    bytes: float
    weight_bytes: float
    flops: float


def _read_share(plan: Plan, call: Call, sizes: Mapping[str, int]) -> float:
    """What a step reads of the matrix of a call."""
    if "expert_rows" not in call.params:
        return 1.0
    pairs = math.prod(plan.buffers[call.inputs["experts"]].resolved(sizes))
    return min(1.0, pairs * int(call.params["expert_rows"]) / plan.buffers[call.inputs["weight"]].rows)


def step_cost(plan: Plan, sizes: Mapping[str, int]) -> StepCost:
    """The cost models of all calls together; attention over a cache that holds `sizes["capacity"]` positions."""
    library, costs = wgsl_kernels.library(), []
    for call in plan.calls:
        bound = bind(plan, call, sizes, library)
        costs.append(bound.kernel.cost(bound.kernel.complete(bound.sizes())))
    read = {
        name: _read_share(plan, call, sizes) if name == call.inputs.get("weight") else 1.0
        for call in plan.calls
        for name in call.inputs.values()
        if plan.buffers[name].kind == "weight" and call.op != "embedding"
    }
    weights = sum(share * buffer_bytes(plan.buffers[name], sizes) for name, share in read.items())
    return StepCost(len(plan.calls), sum(c.bytes for c in costs), weights, sum(c.flops for c in costs))
