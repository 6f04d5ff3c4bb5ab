"""Matrices that lie row under row on the device, because fused calls read them together."""

from __future__ import annotations

from dataclasses import dataclass

import wgsl_kernels
from workbench.plan.count import buffer_bytes
from workbench.plan.plan import Buffer, Call, Plan, Weight

from .rewriter import Rewriter

#: Offsets of bindings are multiples of this (WebGPU's minStorageBufferOffsetAlignment, its largest default).
ALIGNMENT = 256
#: Planes of a weight, by port.
PLANES = ("quants", "scales", "zeros", "values")


@dataclass(frozen=True)
class Stack(Weight):
    """Matrices that share columns and format, row under row in one set of planes; `tensor` joins their names."""

    members: tuple[Weight, ...] = ()


def weight_name(call: Call) -> str | None:
    """Name of the matrix that a call reads, if any."""
    for port in ("quants", "values"):
        if port in call.inputs:
            return call.inputs[port].rsplit(".", 1)[0]
    return None


def product_format(call: Call, kernel: str = "linear") -> str | None:
    """Weight format of a linear layer (`kernel`: "linear", or "linear_a8" with INT8 activations) to which nothing is
    added, None for anything else."""
    name = call.kernel.removeprefix(f"{kernel}_")
    plain = name != call.kernel and name in wgsl_kernels.weights.WEIGHT_FORMATS
    return name if plain and not {"bias", "residual"} & set(call.inputs) else None


def products_of(plan: Plan, norm: Call) -> tuple[list[Call], str]:
    """The calls that read a norm's output, or what it was quantized to; and the kernel that they should be."""
    readers = [c for c in plan.calls if c.inputs.get("x") == norm.outputs["y"]]
    if [c.kernel for c in readers] != ["quantize_activations"]:
        return readers, "linear"
    return [c for c in plan.calls if c.inputs.get("x") == readers[0].outputs["quants"]], "linear_a8"


def find_stacks(plan: Plan, binding_bytes: int) -> dict[str, Stack]:
    """Matrices that fused calls want row under row: those that read the same normalised activations.

    It depends on the semantic plan alone, so that plans of all phases agree about it. A group is left out where its
    planes could not be bound one by one too (256-byte offsets), or together (the size of a binding).
    """
    stacks = {}
    for norm in plan.calls:
        if norm.kernel != "rms_norm":
            continue
        readers, kernel = products_of(plan, norm)
        weights = [plan.weights[w] for c in readers if (w := weight_name(c)) is not None]
        same = len({(c.kernel, tuple(sorted(c.params.items()))) for c in readers}) == 1
        same = same and len({w.format for w in weights}) == 1
        same = same and all(product_format(c, kernel) for c in readers)
        if len(weights) < 2 or len(weights) != len(readers) or not same:
            continue
        if weights[0].format.granularity == "tensor" and weights[0].format.is_quantized:
            continue  # one scale each
        planes = [port for port in PLANES if port in readers[0].inputs]
        sizes = [[buffer_bytes(plan.buffers[f"{w.name}.{p}"], {}) for w in weights] for p in planes]
        aligned = all(size % ALIGNMENT == 0 for plane in sizes for size in plane)
        if aligned and max(sum(plane) for plane in sizes) <= binding_bytes:
            name = "+".join(w.name for w in weights)
            shape = (sum(w.shape[0] for w in weights), weights[0].shape[1])
            joined = "+".join(w.tensor for w in weights)
            stacks[name] = Stack(name, joined, shape, weights[0].format, tuple(weights))
    return stacks


def declare(work: Rewriter, stack: Stack) -> dict[str, str]:
    """Put a stack and its planes in the place of its members; port -> buffer."""
    work.weights[stack.name] = stack
    for member in stack.members:
        work.weights.pop(member.name)
    bound = {}
    for port in PLANES:
        first, *_ = (work.buffers.pop(f"{member.name}.{port}", None) for member in stack.members)
        if first is not None:
            bound[port] = f"{stack.name}.{port}"
            shape = (stack.shape[0], *first.shape[1:])
            work.buffers[bound[port]] = Buffer(bound[port], shape, first.dtype, "weight")
    return bound
