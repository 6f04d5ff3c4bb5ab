"""Kernels compared on the adapter of the page that shows a widget: the results of `workbench.kernel_bench.compare`.

Modules are written here for the page's adapter; they go there with the inputs in binary messages, each of which is
answered, and outputs come back and are judged here by the reference in f64.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from wgsl_kernels import Adapter, Kernel, KernelUsageError
from wgsl_kernels.judge import Expectation
from wgsl_kernels.numerics import TORCH_TYPES
from workbench.errors import DeviceLostError, NoAdapterError, WorkbenchError
from workbench.kernel_bench.compare import BUDGET, ROUNDS, reference_source
from workbench.kernel_bench.comparison import (
    COMPILE_ERROR,
    PASSED,
    RUNTIME_ERROR,
    TIMED_OUT,
    Comparison,
    VariantResult,
)
from workbench.kernel_bench.judging import compared, prepare
from workbench.runtime.export import PROMISED, SUBGROUPS
from workbench.runtime.launch import Workload, resolve
from workbench.runtime.link import Linked
from workbench.runtime.messages import Place
from workbench.runtime.provenance import surroundings
from workbench.runtime.timing import WALL, Timing

from .certificate import initial
from .connection import Host
from .executor import PageDevice

#: What browsers call adapters without a GPU.
SOFTWARE = ("swiftshader", "llvmpipe", "microsoft basic render")


class PageKernels:
    """The page's adapter, as `workbench.studies.lab.Lab` takes a device. adapter: what it offers, known from the first
    comparison on; a CPU's until then, so that inputs stay small enough for messages."""

    def __init__(self, host: Host):
        self._host = host
        self._device: PageDevice | None = None
        self._lock = threading.Lock()
        self.adapter = Adapter(is_cpu=True)

    def compare(
        self,
        kernel: Kernel | str,
        seed: int = 0,
        variants: Sequence[str] | None = None,
        *,
        y_dtype: str = "f32",
        rounds: int = ROUNDS,
        budget: float | None = BUDGET,
        **sizes: Any,
    ) -> Comparison:
        """As `workbench.kernel_bench.compare.compare`, in the page.

        Times are those of its clock, of passes with as many dispatches as that needs; weights stay where they are.
        budget: seconds that one call may take, compiling included, after which the page's worker is ended. Raises
        `KernelUsageError` for names and sizes that the kernel does not have, `NoAdapterError` where the page has no
        WebGPU, `DeviceLostError` where it goes away, and `WorkbenchError` where no page shows the widget.
        """
        kernel = resolve(kernel)
        names = list(kernel.variants if variants is None else variants)
        if unknown := [name for name in names if name not in kernel.variants]:
            raise KernelUsageError(
                f"{kernel.name} has no variant {unknown[0]!r}; it has {', '.join(kernel.variants)}"
            )
        workload = Workload.random(kernel, seed, y_dtype, **sizes)
        sizes, types = workload.sizes, workload.types  # of wrong inputs before anything runs
        expected = Expectation(kernel, workload.arguments)
        with self._lock:
            run = _Run(self, workload, budget)
            results = [run.judged(name, expected.of(name)) for name in names]
            timings = run.timed([each.variant for each in results if each.status == PASSED], rounds)
            device = self.device()
        return Comparison(
            kernel=kernel.name,
            seed=seed,
            sizes=sizes,
            types=types,
            device=device.name,
            label="CPU" if self.adapter.is_cpu else "GPU",
            results=tuple(dataclasses.replace(each, timing=timings.get(each.variant)) for each in results),
            reference_source=reference_source(kernel),
            copies=1,
            rotated_bytes=sum(array.nbytes for array in workload.arrays.values()),
            provenance=surroundings(device),
        )

    def device(self) -> PageDevice:
        """The page's device, open: that of before, where it is still there."""
        if self._device is None or self._device.lost:
            connection = self._host.connect(_no_file)
            needs = {"bindings": [PROMISED.to_json()], "subgroupSizes": SUBGROUPS, "f16": True}
            found, _ = connection.call("open", needs)
            lanes, software = found["lanes"], any(each in found["adapter"].lower() for each in SOFTWARE)
            self.adapter = Adapter(bool(lanes), lanes, f16=found["f16"], is_cpu=software)
            self._device = PageDevice(connection)
            self._device.name, self._device.lanes = f"{found['adapter']} (page)", lanes
        return self._device


class _Run:
    """Variants on the same inputs, which go to the page once, and again where its worker had to be ended."""

    def __init__(self, page: PageKernels, workload: Workload, budget: float | None):
        self.page, self.workload, self.budget = page, workload, budget
        self._linked: dict[str, Linked] = {}
        #: The device that has the inputs, and the variants that have run on it.
        self._there: PageDevice | None = None
        self._bound: set[str] = set()

    def judged(self, name: str, expected: Mapping[str, tuple[torch.Tensor, torch.Tensor]]) -> VariantResult:
        """One variant, once; whatever goes wrong with it becomes its status."""
        self.page.device()  # says what it offers
        linked, result = prepare(self.workload, name, self.page.adapter, "tint")
        if linked is None:
            return result
        self._linked[name] = linked
        try:
            done, buffers = self._once(name)
        except TimeoutError:
            detail = f"one call did not end within {self.budget:g} s"
            return dataclasses.replace(result, status=TIMED_OUT, detail=detail)
        except (DeviceLostError, NoAdapterError):
            raise
        except WorkbenchError as error:
            self._end()
            return dataclasses.replace(result, status=RUNTIME_ERROR, detail=str(error))
        if problem := done.get("problem"):
            found = tuple(_place(each, result.body_line) for each in done["places"])
            detail = f"{linked.label}: {'; '.join(map(str, found)) or 'it does not compile'}\n{problem}"
            return dataclasses.replace(result, status=COMPILE_ERROR, detail=detail, places=found)
        arrays = dict(zip(linked.kernel.writes, buffers, strict=True))
        results = {output: _tensor(linked, output, data) for output, data in arrays.items()}
        return compared(linked.kernel, result, results, expected)

    def timed(self, names: Sequence[str], rounds: int) -> dict[str, Timing]:
        """Samples of variants that have passed, in the same rounds."""
        if not names or rounds < 1:
            return {}
        for name in names:
            if self.page.device() is not self._there or name not in self._bound:
                self._once(name)
        found, _ = self.page.device().connection.call("timed", {"names": list(names), "rounds": rounds})
        return {
            name: Timing(tuple(samples), repeats, WALL, warm)
            for name, samples, repeats, warm in zip(
                names, found["samples"], found["repeats"], found["warm"], strict=True
            )
        }

    def _once(self, name: str) -> tuple[dict[str, Any], list]:
        """What a call of a variant leaves. Raises TimeoutError, after which the worker is gone."""
        linked, device = self._linked[name], self.page.device()
        if device is not self._there:
            self._there, self._bound = device, set()
            contents = {port: initial(linked, self.workload.arguments, port) for port in self.workload.types}
            device.connection.call("inputs", {"ports": list(contents)}, list(contents.values()))
        asked = {
            "name": name,
            "label": linked.label,
            "code": linked.module.code,
            "bindings": linked.bindings,
            "ports": list(linked.context.types),
            "grid": linked.grid,
            "outputs": [linked.kernel.updates.get(output, output) for output in linked.kernel.writes],
        }
        try:
            answer = device.connection.ask("once", asked).wait(self.budget)
        except TimeoutError:
            self._end()
            raise
        self._bound.add(name)
        return answer

    def _end(self) -> None:
        """A call that does not end keeps its worker busy, and one that failed may have cost it the device."""
        if self._there is not None:
            self._there.connection.lose()
        self._there = None


def _place(found: Mapping[str, Any], body_line: int) -> Place:
    """A place in a module as one in the variant's own file, or in the header in front of it."""
    line, in_header = int(found["line"]), int(found["line"]) <= body_line
    return Place(line - (0 if in_header else body_line), int(found["column"]), found["message"], in_header)


def _tensor(linked: Linked, output: str, data: Any) -> torch.Tensor:
    """An output from its bytes."""
    port = linked.kernel.updates.get(output, output)
    dtype = TORCH_TYPES[linked.context.types[port]]
    shape = linked.kernel.output_shape(port, linked.context.sizes)
    array = np.frombuffer(bytes(data), torch.empty(0, dtype=dtype).numpy().dtype)
    return torch.from_numpy(array.copy()).view(shape)


def _no_file(file: str, offset: int, length: int) -> bytes:
    raise WorkbenchError(f"{file}: kernels read no files")
