"""From a kernel and sizes to a compiled pipeline; compiled once a device for the same source."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import wgpu

from wgsl_kernels import Kernel

from ..errors import KernelError
from . import native
from .device import Device
from .link import Linked, link_kernel
from .messages import places

#: A buffer, whole, or (buffer, offset, bytes).
Bound = wgpu.GPUBuffer | tuple
#: Pipelines that are compiled at a time, where cores suffice.
THREADS = 8


@dataclass(frozen=True)
class Built:
    """A pipeline and the layout of its bind group."""

    pipeline: wgpu.GPUComputePipeline
    layout: wgpu.GPUBindGroupLayout
    bindings: tuple[tuple[int, str], ...]
    label: str

    def bind(self, device: Device, buffers: Sequence[Bound]) -> wgpu.GPUBindGroup:
        """A bind group of buffers in the order of the bindings."""
        entries = []
        for (number, _), bound in zip(self.bindings, buffers, strict=True):
            buffer, offset, size = bound if isinstance(bound, tuple) else (bound, 0, bound.size)
            entries.append(
                {"binding": number, "resource": {"buffer": buffer, "offset": offset, "size": size}}
            )
        with device.errors():
            return device.wgpu.create_bind_group(label=self.label, layout=self.layout, entries=entries)


@dataclass(frozen=True)
class Compiled(Linked):
    """A kernel with its pipeline: what is needed to dispatch it."""

    built: Built

    @property
    def pipeline(self) -> wgpu.GPUComputePipeline:
        return self.built.pipeline

    def bind(self, device: Device, buffers: Mapping[str, Bound]) -> wgpu.GPUBindGroup:
        """A bind group of buffers by port name."""
        return self.built.bind(device, [buffers[port] for port in self.context.types])


_cache: WeakKeyDictionary[Device, dict] = WeakKeyDictionary()


@dataclass(frozen=True)
class Wanted:
    """A pipeline that is to be built: the arguments of `build`."""

    code: str
    bindings: tuple[tuple[int, str], ...]
    label: str
    own: bool = False
    body_line: int = 0


def build_all(
    device: Device, wanted: Sequence[Wanted], meanwhile: Callable[[], None] = lambda: None
) -> list[Built]:
    """The pipelines in order. A GPU's driver compiles when it is asked to, and in as many threads as ask; a software
    adapter waits for the first dispatch. meanwhile: what the calling thread does as long as they compile. Raises as
    `build` does, and what `meanwhile` raises."""
    cache = _cache.setdefault(device, {})
    missing = [each for each in dict.fromkeys(wanted) if (each.code, each.bindings, each.label) not in cache]
    if len(missing) > 1 and not device.adapter.is_cpu:
        with ThreadPoolExecutor(min(THREADS, len(missing), os.cpu_count() or 1)) as threads:
            building = threads.map(lambda each: build(device, **vars(each)), missing)
            meanwhile()
            list(building)
    else:
        meanwhile()
    return [build(device, **vars(each)) for each in wanted]


def compile_kernel(
    device: Device,
    kernel: Kernel,
    sizes: Mapping,
    types: Mapping[str, str],
    variant: str | None = None,
    tunables: Mapping[str, int] | None = None,
) -> Compiled:
    """Specialise, compile and cache. types: element type by bound port.

    Raises `KernelUsageError` for tunables that the variant refuses, and as `build` does.
    """
    linked = link_kernel(kernel, sizes, types, device.adapter, variant, tunables)
    built = build(
        device,
        linked.module.code,
        linked.bindings,
        linked.label,
        own=linked.own,
        body_line=linked.module.body_line,
    )
    return Compiled(**vars(linked), built=built)


def build(
    device: Device,
    code: str,
    bindings: tuple[tuple[int, str], ...],
    label: str,
    *,
    own: bool = False,
    body_line: int = 0,
) -> Built:
    """The pipeline of a module, from the cache where it was built before. own: the source is a user's, and keeps every
    check.

    Raises `KernelError` with the compiler's message, whose line numbers are mapped to the file that begins after
    `body_line`, and `DeviceLostError`.
    """
    cache = _cache.setdefault(device, {})
    key = code, bindings, label
    if key not in cache:
        cache[key] = _build(device, code, bindings, label, own, body_line)
    return cache[key]


def _build(device: Device, code: str, bindings, label: str, own: bool, body_line: int) -> Built:
    entries = [
        {"binding": number, "visibility": wgpu.ShaderStage.COMPUTE, "buffer": {"type": kind}}
        for number, kind in bindings
    ]
    with device.errors():
        layout = device.wgpu.create_bind_group_layout(label=label, entries=entries)
        pipeline_layout = device.wgpu.create_pipeline_layout(label=label, bind_group_layouts=[layout])
    # Without checks drivers unroll loops: worth up to 8% on a GPU, but on lavapipe the larger code compiles three
    # times as long and runs slower (GEMV of 768x256: 0.24 against 0.17 ms).
    trusted = not own and not device.adapter.is_cpu
    try:
        compiled = native.shader_module(device.wgpu, code, trusted=trusted, label=label)
        pipeline = device.wgpu.create_compute_pipeline(
            label=label, layout=pipeline_layout, compute={"module": compiled, "entry_point": "main"}
        )
    except wgpu.GPUError as error:
        translated = device.translate(error)
        if translated is not error:
            raise translated from error
        found = places(str(error), body_line)
        says = "; ".join(map(str, found)) or "it does not compile"
        where = f"its own file begins after line {body_line} of the module"
        raise KernelError(f"{label}: {says} ({where})\n{error}", found) from error
    return Built(pipeline, layout, bindings, label)
