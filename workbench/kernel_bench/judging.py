"""One variant of a kernel against the reference: it compiles, ends, and gives the numbers, or has a status."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import torch
import wgpu

from wgsl_kernels import Adapter, Kernel, KernelUsageError
from wgsl_kernels.header import write_module
from wgsl_kernels.judge import comparable, judge, widen
from workbench.errors import KernelError, WorkbenchError
from workbench.runtime.device import Device
from workbench.runtime.launch import Workload
from workbench.runtime.link import Linked
from workbench.runtime.pipelines import Compiled

from .child import ChildTimeoutError
from .comparison import (
    COMPILE_ERROR,
    PASSED,
    RUNTIME_ERROR,
    TIMED_OUT,
    UNSUPPORTED,
    WRONG_NUMBERS,
    WRONG_SHAPE,
    VariantResult,
)
from .trial import trial


def prepare(
    workload: Workload, name: str, adapter: Adapter, dialect: str = "naga"
) -> tuple[Linked | None, VariantResult]:
    """A variant written for an adapter, and what is known of it before it runs; None where it cannot run there.

    dialect: of the compiler that it is written for.
    """
    result = VariantResult(name, UNSUPPORTED)
    kernel = workload.kernel
    variant = kernel.variants[name]
    try:
        context = workload.context(name, adapter)
        cost = kernel.cost(context.sizes)
        result = dataclasses.replace(
            result,
            chosen=_chosen(kernel, context) == name,
            tunables={each: context[each] for each in variant.tunables},
            bytes=float(cost.bytes),
            flops=float(cost.flops),
        )
        if reason := variant.refuse(context):
            return None, dataclasses.replace(result, detail=reason)
        module = write_module(kernel, variant, context, dialect)
    except KernelUsageError as error:
        return None, dataclasses.replace(result, detail=str(error))
    result = dataclasses.replace(
        result, wgsl=module.code, wgsl_sha256=module.digest, body_line=module.body_line
    )
    for used, has, feature in (
        (module.uses_subgroups, adapter.subgroups, "subgroup"),
        (module.uses_f16, adapter.f16, "shader-f16"),
    ):
        if used and not has:
            return None, dataclasses.replace(
                result, detail=f"it needs {feature}, which this device does not have"
            )
    return Linked(kernel, name, context, module, variant.grid(context)), result


def judge_variant(
    workload: Workload,
    name: str,
    expected: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
    device: Device,
    budget: float | None,
) -> tuple[Compiled | None, VariantResult]:
    """Compile, run and compare one variant; whatever goes wrong becomes its status.

    expected: output -> (numbers, bounds), f64. budget: seconds that one call may take; a source that is no file of the
    library's runs in another process first. None: no limit, and everything in this process.
    """
    linked, result = prepare(workload, name, device.adapter)
    if linked is None:
        return None, result
    try:
        compiled = workload.compile(device, name)
    except KernelError as error:
        return None, dataclasses.replace(result, status=COMPILE_ERROR, detail=str(error), places=error.places)
    limit = budget if linked.own else None
    if limit is not None and (problem := trial(compiled, workload.arrays, device, limit)):
        timed_out = isinstance(problem, ChildTimeoutError)
        detail = f"one call did not end within {budget:g} s" if timed_out else str(problem)
        status = TIMED_OUT if timed_out else RUNTIME_ERROR
        return None, dataclasses.replace(result, status=status, detail=detail)
    began = time.perf_counter()
    try:
        results = workload.run(device, name)
    except (WorkbenchError, wgpu.GPUError, RuntimeError) as error:
        detail = f"{type(error).__name__}: {error}"
        return None, dataclasses.replace(result, status=RUNTIME_ERROR, detail=detail)
    took = time.perf_counter() - began
    result = compared(workload.kernel, result, results, expected)
    if result.status != PASSED:
        return None, result
    if budget is not None and took > budget:
        detail = f"one call took {took:.1f} s, more than {budget:g} s"
        return None, dataclasses.replace(result, status=TIMED_OUT, detail=detail)
    return compiled, result


def compared(
    kernel: Kernel,
    result: VariantResult,
    results: Mapping[str, torch.Tensor],
    expected: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
) -> VariantResult:
    """With the errors of what a variant gave, and a status: whether all outputs lie within their bounds."""
    errors = []
    for output, (wanted, bound) in expected.items():
        got = comparable(kernel, output, results[output])
        if got.shape != wanted.shape:
            detail = f"{output} is {tuple(got.shape)} where the reference gives {tuple(wanted.shape)}"
            return dataclasses.replace(result, status=WRONG_SHAPE, detail=detail)
        bound = widen(wanted, bound.broadcast_to(wanted.shape), results[output].dtype)
        errors.append(judge(output, got, wanted, bound))
    off = [
        "\n".join([f"{e.output}: {e.off} of {e.elements} are off; first:", *(f"    {m}" for m in e.first)])
        for e in errors
        if e.off
    ]
    status = WRONG_NUMBERS if off else PASSED
    return dataclasses.replace(result, errors=tuple(errors), status=status, detail="\n".join(off))


def _chosen(kernel: Kernel, context: Any) -> str | None:
    """The variant that an executor takes in a context, None where there is none."""
    try:
        return kernel.choose(context)[0]
    except KernelUsageError:
        return None
