"""Opening a WebGPU device, and buffers on it.

A `Device` carries the facts that kernels are chosen by (`Device.adapter`), and turns what wgpu raises into the
workbench's own errors. `promised=True` asks for no more than what every browser grants, so that a kernel that
passes its tests natively also fits a page.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import wgpu

from wgsl_kernels import Adapter

from ..errors import DeviceLostError, NoAdapterError, OutOfMemoryError
from .adapters import OPTIONAL_FEATURES, describe_adapter, find_adapter, wanted_adapter

#: The limits that WebGPU promises everywhere.
PROMISED_LIMITS = {
    "max-storage-buffers-per-shader-stage": 8,
    "max-compute-workgroup-storage-size": 16384,
    "max-compute-invocations-per-workgroup": 256,
    "max-compute-workgroup-size-x": 256,
    "max-compute-workgroup-size-y": 256,
    "max-storage-buffer-binding-size": 128 << 20,
    "max-buffer-size": 256 << 20,
    "min-storage-buffer-offset-alignment": 256,
}
#: Native limits worth having: larger bindings mean fewer pieces of large tensors; where bindings may begin at finer
#: steps, small matrices lie in one buffer with those that are read together with them; a product and what an adapter of
#: low rank adds to it are one kernel where it may bind more than eight buffers.
WANTED_LIMITS = (
    "max-storage-buffer-binding-size",
    "max-buffer-size",
    "min-storage-buffer-offset-alignment",
)

#: Storage buffers of a kernel that are asked for natively, at most: some drivers name limits in the millions.
MOST_BUFFERS = 16

STORAGE = wgpu.BufferUsage.STORAGE | wgpu.BufferUsage.COPY_SRC | wgpu.BufferUsage.COPY_DST
UNIFORM = wgpu.BufferUsage.UNIFORM
STAGING = wgpu.BufferUsage.COPY_DST | wgpu.BufferUsage.MAP_READ
#: Up to so many bytes of several buffers are read back at once.
READ_TOGETHER = 64 << 10

#: Vendors (PCI ids) whose subgroups have the same number of lanes in every pipeline: NVIDIA, Apple.
ONE_SUBGROUP_SIZE = (0x10DE, 0x106B)

PROBE = """
@group(0) @binding(0) var<storage, read_write> size: array<u32>;
@compute @workgroup_size(64) fn main(@builtin(subgroup_size) lanes: u32) { size[0] = lanes; }
"""


def aligned(nbytes: int) -> int:
    """What a buffer of `nbytes` really takes: at least 16 bytes, in steps of 16."""
    return max(16, -(-nbytes // 16) * 16)


class Device:
    """An open device: wgpu's object, the facts about its adapter, and buffers that raise the workbench's errors."""

    def __init__(self, gpu_adapter: wgpu.GPUAdapter, *, promised=False, subgroups=True, f16=True):
        self.info = dict(gpu_adapter.info)
        self.wanted: str | None = None  # the name or place that it was asked for by
        features = {f for f in OPTIONAL_FEATURES if f in gpu_adapter.features}
        if not subgroups:
            features.discard("subgroup")
        if not f16:
            features.discard("shader-f16")
        limits = dict(PROMISED_LIMITS)
        if not promised:
            limits |= {name: gpu_adapter.limits[name] for name in WANTED_LIMITS}
            there = gpu_adapter.limits["max-storage-buffers-per-shader-stage"]
            limits["max-storage-buffers-per-shader-stage"] = min(there, MOST_BUFFERS)
        try:
            self.wgpu = gpu_adapter.request_device_sync(
                required_features=sorted(features), required_limits={**limits}
            )
        except (wgpu.GPUError, RuntimeError) as error:
            raise NoAdapterError(f"{describe_adapter(self.info)} cannot be opened: {error}") from error
        self.features = features
        self.binding_bytes = int(limits["max-storage-buffer-binding-size"])
        self.buffer_bytes = int(limits["max-buffer-size"])
        self._live: dict[int, int] = {}  # bytes of each living buffer, by the id of the Python object
        self.peak = 0
        self.lost: str | None = None
        self.lock = threading.RLock()
        is_cpu = self.info["adapter_type"] == "CPU"
        self.adapter = Adapter(
            subgroups="subgroup" in features,
            subgroup_size=self._constant_subgroup_size(is_cpu) if "subgroup" in features else 0,
            f16="shader-f16" in features,
            is_cpu=is_cpu,
            offset_alignment=int(limits["min-storage-buffer-offset-alignment"]),
            storage_buffers=int(limits["max-storage-buffers-per-shader-stage"]),
        )

    def _constant_subgroup_size(self, is_cpu: bool) -> int:
        """Lanes a subgroup, or 0 where a driver may choose a size for each pipeline.

        wgpu does not pass on the range of sizes of the adapter, so it is known only where a vendor has one size.
        """
        if not is_cpu and self.info["vendor_id"] not in ONE_SUBGROUP_SIZE:
            return 0
        module = self.wgpu.create_shader_module(code=PROBE)
        pipeline = self.wgpu.create_compute_pipeline(
            layout="auto", compute={"module": module, "entry_point": "main"}
        )
        buffer = self.buffer(4)
        group = self.wgpu.create_bind_group(
            layout=pipeline.get_bind_group_layout(0), entries=[{"binding": 0, "resource": {"buffer": buffer}}]
        )
        encoder = self.wgpu.create_command_encoder()
        compute = encoder.begin_compute_pass()
        compute.set_pipeline(pipeline)
        compute.set_bind_group(0, group)
        compute.dispatch_workgroups(1)
        compute.end()
        self.wgpu.queue.submit([encoder.finish()])
        lanes = int(self.read(buffer, np.uint32)[0])
        self.release(buffer)
        return lanes

    @property
    def name(self) -> str:
        return describe_adapter(self.info)

    @property
    def allocated(self) -> int:
        """Bytes of the buffers that have neither been released nor forgotten. peak: the most that this has been."""
        return sum(list(self._live.values()))

    def reset_peak(self) -> None:
        """Begin a new `peak`."""
        self.peak = self.allocated

    def buffer(self, nbytes: int, *, uniform: bool = False, label: str = "") -> wgpu.GPUBuffer:
        """A zeroed buffer of at least `nbytes`, rounded up to 16. label: what it holds, for profilers and messages.
        Raises `OutOfMemoryError`."""
        size = aligned(nbytes)
        limit = min(self.buffer_bytes, self.binding_bytes)  # kernels bind whole buffers
        if size > limit:
            what = f"a buffer of {size} bytes{label and f' ({label})'}"
            raise OutOfMemoryError(f"{what} exceeds the device's limit of {limit}")
        with self.lock, self.errors():
            try:
                usage = STORAGE | (UNIFORM if uniform else 0)
                buffer = self.wgpu.create_buffer(label=label, size=size, usage=usage)
            except wgpu.GPUOutOfMemoryError as error:
                raise OutOfMemoryError(
                    f"the device could not allocate {size} bytes beside {self.allocated} in use: {error}"
                ) from error
            self._live[id(buffer)] = size
            # The memory of a buffer that is forgotten goes as well. No lock: this may run in the middle of anything.
            weakref.finalize(buffer, self._live.pop, id(buffer), None).atexit = False
            self.peak = max(self.peak, self.allocated)
        return buffer

    def release(self, buffer: wgpu.GPUBuffer) -> None:
        """Give a buffer's memory back at once."""
        with self.lock:
            self._live.pop(id(buffer), None)
            buffer.destroy()

    def write(self, buffer: wgpu.GPUBuffer, array: np.ndarray, offset: int = 0) -> None:
        """Copy an array to a buffer, padded to whole words. Raises `DeviceLostError`."""
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        rest = -data.size % 4
        if rest:
            whole = data.size - data.size % 4
            if whole:
                self.write(buffer, data[:whole], offset)
            data, offset = np.pad(data[whole:], (0, rest)), offset + whole
        if data.size:
            with self.errors():
                self.wgpu.queue.write_buffer(buffer, offset, data)

    def read(self, buffer: wgpu.GPUBuffer, dtype, count: int | None = None) -> np.ndarray:
        """Copy a buffer's first `count` elements back; waits for the device. Raises `DeviceLostError`."""
        dtype = np.dtype(dtype)
        nbytes = buffer.size if count is None else -(-count * dtype.itemsize // 4) * 4
        if nbytes == 0:
            return np.empty(0, dtype)
        with self.errors():
            data: Any = self.wgpu.queue.read_buffer(buffer, 0, nbytes)
        array = np.frombuffer(data, dtype)
        return array if count is None else array[:count]

    def read_all(self, wanted: Sequence[tuple[wgpu.GPUBuffer, np.dtype, int]]) -> list[np.ndarray]:
        """The first `count` elements of several (buffer, dtype, count). Small ones come back together, since a wait for
        the device costs more than they do. Raises `DeviceLostError`."""
        sizes = [-(-count * np.dtype(dtype).itemsize // 4) * 4 for _, dtype, count in wanted]
        total = sum(sizes)
        if len(wanted) < 2 or total > READ_TOGETHER or 0 in sizes:
            return [self.read(*each) for each in wanted]
        offsets = np.cumsum([0, *sizes])
        with self.errors():
            staging = self.wgpu.create_buffer(size=total, usage=STAGING)
            try:
                encoder = self.wgpu.create_command_encoder()
                for (buffer, _, _), offset, size in zip(wanted, offsets, sizes, strict=False):
                    encoder.copy_buffer_to_buffer(buffer, 0, staging, int(offset), size)
                self.wgpu.queue.submit([encoder.finish()])
                staging.map_async("READ_NOSYNC").sync_wait()  # as `read_buffer` has it: one wait, not two
                data: Any = staging.read_mapped()
            finally:
                staging.destroy()
        return [
            np.frombuffer(data, dtype, count, int(offset))
            for (_, dtype, count), offset in zip(wanted, offsets, strict=False)
        ]

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Around calls into wgpu: what they raise becomes the workbench's own error where there is one."""
        try:
            yield
        except (wgpu.GPUError, RuntimeError) as error:
            translated = self.translate(error)
            if translated is error:
                raise
            raise translated from error

    def translate(self, error: Exception) -> Exception:
        """The workbench's error for something that wgpu raised; remembers that the device is lost."""
        text = str(error)
        if isinstance(error, wgpu.GPUOutOfMemoryError) or "out of memory" in text.lower():
            return OutOfMemoryError(text)
        if "lost" in text.lower() or "destroyed" in text.lower():
            self.lost = text
            return DeviceLostError(f"the device {self.name} was lost: {text}")
        return error


_shared: dict[tuple, Device] = {}
_shared_lock = threading.Lock()


def open_device(adapter: str | int | None = None, *, promised=False, subgroups=True, f16=True) -> Device:
    """The device of this process for these wishes; a lost one is replaced. Raises `NoAdapterError`.

    adapter: a part of its name, or its place in the list of adapters; by default what `WORKBENCH_ADAPTER` says, else
    the most powerful.
    """
    wanted = wanted_adapter(adapter)
    key = (promised, subgroups, f16, wanted and wanted[0])
    with _shared_lock:
        device = _shared.get(key)
        if device is None or device.lost:
            device = Device(find_adapter(adapter), promised=promised, subgroups=subgroups, f16=f16)
            device.wanted = wanted and wanted[0]
            _shared[key] = device
        return device


def adapter_missing() -> str | None:
    """Why no device can be opened, or None if one can. Raises `NoAdapterError` where `WORKBENCH_ADAPTER` asks for one
    that is not there: another, or the references, would not be what was asked for."""
    if wanted_adapter() is not None:
        open_device()
        return None
    return _default_missing()


@functools.cache
def _default_missing() -> str | None:
    try:
        open_device()
    except NoAdapterError as error:
        return str(error)
    return None
