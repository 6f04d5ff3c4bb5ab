"""Running candidates of one case on random data: checking them against the reference, and recording them for timing.

Inputs are made and uploaded once for all candidates. Weights are random, of the case's shapes: no model is read. They
take turns (see `workbench.runtime.rotation`).
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import wgpu

import wgsl_kernels
from wgsl_kernels import Kernel, KernelUsageError
from wgsl_kernels.judge import Expectation, comparable, judge, widen
from wgsl_kernels.numerics import TORCH_TYPES
from workbench.errors import DeviceLostError, OutOfMemoryError, WorkbenchError

from ..device import Device
from ..launch import Workload, output_buffers
from ..native import Recorder
from ..pipelines import Compiled, compile_kernel
from ..rotation import Rotation
from .candidates import Candidate
from .cases import PLACES, Case, case_of
from .sampling import sample


class CannotMakeError(WorkbenchError):
    """A kernel's input maker does not give inputs of a case's sizes and types."""


def workload_of(kernel: Kernel, case: Case, seed: int = 0) -> Workload:
    """Random inputs of exactly the case's sizes and types, by the kernel's own maker. Raises `CannotMakeError`.

    Sizes that it does not take (`Kernel.takes`) must follow from the rest.
    """
    taken = kernel.takes
    options = {name: value for name, value in _options(kernel, case).items() if name in taken}
    arguments = kernel.inputs(seed=seed, **options)
    for name, port in kernel.reads.items():  # a maker has one float type, a plan may have several
        if port.dtype == "float" and name in arguments and name in case.types:
            arguments[name] = arguments[name].to(TORCH_TYPES[case.types[name]])
    params = {n: case.sizes[n] for n in kernel.params if n in case.sizes}
    arguments = {n: v for n, v in arguments.items() if n not in PLACES} | params
    workload = Workload(kernel, arguments, _y_type(kernel, case))
    made = case_of(kernel, workload.sizes, workload.types)
    wanted, given = kernel.complete(case.sizes), kernel.complete(made.sizes)
    different = [n for n in wanted if n not in PLACES and wanted[n] != given.get(n)]
    if different or dict(made.types) != dict(case.types):
        raise CannotMakeError(
            f"{kernel.name}: no random inputs can be made with {different or dict(case.types)}"
        )
    return workload


def _options(kernel: Kernel, case: Case) -> dict:
    """What an input maker may be asked for: sizes and parameters, types, and which optional ports are bound."""
    sizes, types = case.sizes, case.types
    options: dict[str, Any] = {name: value for name, value in sizes.items() if name not in PLACES}
    floats = [port for port, each in kernel.reads.items() if each.dtype == "float" and port in types]
    if floats:
        options["x_dtype"] = types[floats[0]]
    options["y_dtype"] = _y_type(kernel, case)
    options |= {name: name in types for name, port in kernel.reads.items() if port.optional}
    if "scales" in types:
        options["scale_dtype"] = types["scales"]
        options["offset"] = "offsets" in types
        options["symmetric"] = not {"zeros", "offsets"} & set(types)
        options["granularity"] = "block" if sizes.get("scale_stride", 1) else "tensor"
        options["zero_frac_bits"] = round(-math.log2(sizes.get("zero_unit", 1.0)))
    if most := sizes.get("capacity", sizes.get("positions", 0)):  # half full, one sequence
        options["position"] = max(0, min(most // 2, most - case.tokens))
        options["sequence"] = 0
    complete = kernel.complete(sizes)
    if "width" in complete and "head_dim" in complete:
        options["head_dim"] = complete["head_dim"]
        options["heads"] = complete["width"] // complete["head_dim"]
    return options


def _y_type(kernel: Kernel, case: Case) -> str:
    return next((case.types[n] for n, port in kernel.writes.items() if port.dtype == "float"), "f32")


@dataclass(frozen=True)
class Checked:
    """compiled: of a candidate that gave the reference's numbers, else None and `wrong` says why. seconds: of one
    dispatch and the wait for it, by the wall clock."""

    compiled: Compiled | None
    wrong: str = ""
    seconds: float = 0.0


class Trial:
    """Buffers of one case on one device; use as a context manager. Raises `CannotMakeError`, `OutOfMemoryError`."""

    def __init__(self, device: Device, case: Case, seed: int = 0, kernel: Kernel | None = None):
        self.device, self.case = device, case
        self.kernel = kernel or wgsl_kernels.get(case.kernel)
        workload = workload_of(self.kernel, case, seed)
        arguments, self._arrays = workload.arguments, workload.arrays
        self._sample = sample(self.kernel, arguments, seed)
        few = arguments if self._sample is None else self._sample.arguments(self.kernel, arguments)
        self._expected = Expectation(self.kernel, few)
        self.rotation = Rotation(device, self.kernel, self._arrays)

    def __enter__(self) -> Trial:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        self.rotation.close()

    def check(self, candidate: Candidate) -> Checked:
        """Compile, run and compare one candidate; run it once more for a first idea of its time.

        Raises `DeviceLostError`, `OutOfMemoryError`.
        """
        try:
            compiled = compile_kernel(
                self.device,
                self.kernel,
                self.case.sizes,
                self.case.types,
                candidate.variant,
                candidate.tunables,
            )
            results, seconds = self._run(compiled)
        except (DeviceLostError, OutOfMemoryError):
            raise
        except (WorkbenchError, KernelUsageError, wgpu.GPUError, RuntimeError) as error:
            return Checked(None, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
        for output, (wanted, bound) in self._expected.of(candidate.variant).items():
            got = comparable(self.kernel, output, results[output])
            if self._sample is not None:
                got = self._sample.output(self.kernel, output, got)
            bound = widen(wanted, bound.broadcast_to(wanted.shape), results[output].dtype)
            errors = judge(output, got, wanted, bound)
            if errors.off:
                off = f"{errors.off} of {errors.elements} of {output}, {errors.first[0]}"
                return Checked(None, f"wrong numbers: {off}")
        return Checked(compiled, "", seconds)

    def _run(self, compiled: Compiled) -> tuple[dict[str, torch.Tensor], float]:
        """Outputs of one dispatch on fresh inputs into poisoned buffers, and the seconds of another one."""
        device, kernel = self.device, self.kernel
        inputs = self.rotation.bound()
        for name in kernel.updates.values():
            device.write(inputs[name], self._arrays[name])
        outputs = output_buffers(device, compiled, self._arrays)
        try:
            bound = inputs | outputs
            recorder = Recorder([(compiled.pipeline, compiled.bind(device, bound), compiled.grid)])
            self._submit(recorder)
            results = {}
            for name in kernel.writes:
                shape = kernel.output_shape(name, compiled.context.sizes)
                dtype = TORCH_TYPES[compiled.context.types[name]]
                plain = torch.empty(0, dtype=dtype).numpy().dtype
                array = device.read(bound[name], plain, int(np.prod(shape)))
                results[name] = torch.from_numpy(array.copy()).view(shape)
            began = time.perf_counter()
            self._submit(recorder)
            device.read(bound[name], np.uint32, 1)
            return results, time.perf_counter() - began
        finally:
            for buffer in outputs.values():
                device.release(buffer)

    def _submit(self, recorder: Recorder) -> None:
        with self.device.lock, self.device.errors():
            encoder = self.device.wgpu.create_command_encoder()
            compute = encoder.begin_compute_pass(label=f"tuning {self.kernel.name}")
            recorder.encode(compute)
            compute.end()
            self.device.wgpu.queue.submit([encoder.finish()])

    def recorders(self, compiled: list[Compiled]) -> list[Recorder]:
        """One sequence of dispatches each, over all copies of the inputs. The buffers live until `close`."""
        return self.rotation.recorders(compiled)
