"""From a kernel and sizes to a compiled pipeline; compiled once a device for the same source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import wgpu

from wgsl_kernels import Context, Kernel, KernelUsageError
from wgsl_kernels.header import Module, write_module

from ..errors import KernelError
from . import native
from .device import Device
from .messages import places


@dataclass(frozen=True)
class Compiled:
    """A pipeline with what is needed to dispatch it."""

    kernel: Kernel
    variant: str
    context: Context
    module: Module
    pipeline: wgpu.GPUComputePipeline
    layout: wgpu.GPUBindGroupLayout
    grid: tuple[int, int, int]

    @property
    def label(self) -> str:
        """What profilers and debuggers call it."""
        return f"{self.kernel.name}/{self.variant}"

    def bind(self, device: Device, buffers: Mapping[str, wgpu.GPUBuffer | tuple]) -> wgpu.GPUBindGroup:
        """A bind group of buffers by port name: whole ones, or (buffer, offset, bytes)."""
        numbers = self.kernel.bindings()
        entries = []
        for port in self.context.types:
            bound = buffers[port]
            buffer, offset, size = bound if isinstance(bound, tuple) else (bound, 0, bound.size)
            entries.append(
                {"binding": numbers[port], "resource": {"buffer": buffer, "offset": offset, "size": size}}
            )
        with device.errors():
            return device.wgpu.create_bind_group(label=self.label, layout=self.layout, entries=entries)


_cache: WeakKeyDictionary[Device, dict] = WeakKeyDictionary()


def compile_kernel(
    device: Device,
    kernel: Kernel,
    sizes: Mapping,
    types: Mapping[str, str],
    variant: str | None = None,
    tunables: Mapping[str, int] | None = None,
) -> Compiled:
    """Specialise, compile and cache. types: element type by bound port.

    Raises `KernelUsageError` for tunables that the variant refuses, `KernelError` with the compiler's message, whose
    line numbers are mapped to the variant's own file, and `DeviceLostError`.
    """
    plain = Context(kernel.complete(sizes), types, device.adapter)
    name, _ = kernel.choose(plain, variant)
    context = kernel.specialise(name, sizes, types, device.adapter, tunables or {})
    chosen = kernel.variants[name]
    if reason := chosen.refuse(context):
        raise KernelUsageError(f"{kernel.name}/{name} cannot run here: {reason}")
    module = write_module(kernel, chosen, context)
    cache = _cache.setdefault(device, {})
    grid = chosen.grid(context)
    key = (module.digest, tuple(types))
    if key not in cache:
        cache[key] = _build(device, kernel, name, context, module)
    pipeline, layout = cache[key]
    return Compiled(kernel, name, context, module, pipeline, layout, grid)


def _build(device: Device, kernel: Kernel, variant: str, context: Context, module: Module):
    numbers, ports, label = kernel.bindings(), kernel.ports, f"{kernel.name}/{variant}"
    entries = []
    for port in context.types:
        kind = "read-only-storage"
        if ports[port].uniform:
            kind = "uniform"
        elif kernel.writable(port):
            kind = "storage"
        entries.append(
            {"binding": numbers[port], "visibility": wgpu.ShaderStage.COMPUTE, "buffer": {"type": kind}}
        )
    with device.errors():
        layout = device.wgpu.create_bind_group_layout(label=label, entries=entries)
        pipeline_layout = device.wgpu.create_pipeline_layout(label=label, bind_group_layouts=[layout])
    # Without checks drivers unroll loops: worth up to 8% on a GPU, but on lavapipe the larger code compiles three
    # times as long and runs slower (GEMV of 768x256: 0.24 against 0.17 ms).
    trusted = kernel.variants[variant].text is None and not device.adapter.is_cpu
    try:
        compiled = native.shader_module(device.wgpu, module.code, trusted=trusted, label=label)
        pipeline = device.wgpu.create_compute_pipeline(
            label=label, layout=pipeline_layout, compute={"module": compiled, "entry_point": "main"}
        )
    except wgpu.GPUError as error:
        translated = device.translate(error)
        if translated is not error:
            raise translated from error
        found = places(str(error), module.body_line)
        says = "; ".join(map(str, found)) or "it does not compile"
        where = f"its own file begins after line {module.body_line} of the module"
        raise KernelError(f"{kernel.name}/{variant}: {says} ({where})\n{error}", found) from error
    return pipeline, layout
