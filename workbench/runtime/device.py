"""Opening a WebGPU device, and buffers on it.

A `Device` carries the facts that kernels are chosen by (`Device.adapter`), and turns what wgpu raises into the
workbench's own errors. `promised=True` asks for no more than what every browser grants, so that a kernel that
passes its tests natively also fits a page.
"""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
import threading
from collections.abc import Iterator, Sequence

import numpy as np
import wgpu

from wgsl_kernels import Adapter

from ..errors import DeviceLostError, NoAdapterError, OutOfMemoryError

#: The limits that WebGPU promises everywhere.
PROMISED_LIMITS = {
    "max-storage-buffers-per-shader-stage": 8,
    "max-compute-workgroup-storage-size": 16384,
    "max-compute-invocations-per-workgroup": 256,
    "max-compute-workgroup-size-x": 256,
    "max-compute-workgroup-size-y": 256,
    "max-storage-buffer-binding-size": 128 << 20,
    "max-buffer-size": 256 << 20,
}
#: Native limits worth having: larger bindings mean fewer pieces of large tensors.
WANTED_LIMITS = ("max-storage-buffer-binding-size", "max-buffer-size")
OPTIONAL_FEATURES = ("subgroup", "shader-f16", "timestamp-query", "timestamp-query-inside-passes")

#: OpenGL adapters lack what the kernels need.
BACKENDS = ("Vulkan", "Metal", "D3D12")

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


def describe_adapter(info) -> str:
    """One line: device, driver, backend."""
    return f"{info['device']} ({info['description'] or info['vendor']}, {info['backend_type']}, {info['adapter_type']})"


def find_adapter() -> wgpu.GPUAdapter:
    """The most powerful adapter; `WORKBENCH_ADAPTER` picks one by a part of its name. Raises `NoAdapterError`."""
    wanted = os.environ.get("WORKBENCH_ADAPTER", "")
    # Mesa's driver looks for a Wayland display, and complains on stderr where this is not set.
    os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.gettempdir())
    try:
        if wanted:
            adapters = wgpu.gpu.enumerate_adapters_sync()
            found = [a for a in adapters if wanted.lower() in a.summary.lower()]
            if not found:
                have = "; ".join(a.summary for a in adapters) or "none"
                raise NoAdapterError(f"WORKBENCH_ADAPTER={wanted!r} matches no adapter; there are: {have}")
            return found[0]
        adapter = wgpu.gpu.request_adapter_sync(power_preference="high-performance")
        if adapter is not None and adapter.info["backend_type"] not in BACKENDS:
            raise NoAdapterError(
                f"the only adapter is {describe_adapter(adapter.info)}; kernels need one of {', '.join(BACKENDS)}"
            )
    except NoAdapterError:
        raise
    except Exception as error:  # wgpu raises RuntimeError where there is no Vulkan loader or driver
        raise NoAdapterError(f"no WebGPU adapter was found ({error}); install a Vulkan driver") from error
    if adapter is None:
        raise NoAdapterError(
            "no WebGPU adapter was found; install a Vulkan driver (mesa-vulkan-drivers has one)"
        )
    return adapter


class Device:
    """An open device: wgpu's object, the facts about its adapter, and buffers that raise the workbench's errors."""

    def __init__(self, gpu_adapter: wgpu.GPUAdapter, *, promised=False, subgroups=True, f16=True):
        self.info = dict(gpu_adapter.info)
        features = {f for f in OPTIONAL_FEATURES if f in gpu_adapter.features}
        if not subgroups:
            features.discard("subgroup")
        if not f16:
            features.discard("shader-f16")
        limits = dict(PROMISED_LIMITS)
        if not promised:
            limits |= {name: gpu_adapter.limits[name] for name in WANTED_LIMITS}
        try:
            self.wgpu = gpu_adapter.request_device_sync(
                required_features=sorted(features), required_limits=limits
            )
        except (wgpu.GPUError, RuntimeError) as error:
            raise NoAdapterError(f"{describe_adapter(self.info)} cannot be opened: {error}") from error
        self.features = features
        self.binding_bytes = int(limits["max-storage-buffer-binding-size"])
        self.buffer_bytes = int(limits["max-buffer-size"])
        self.allocated = 0
        self.lost: str | None = None
        self.lock = threading.RLock()
        is_cpu = self.info["adapter_type"] == "CPU"
        self.adapter = Adapter(
            subgroups="subgroup" in features,
            subgroup_size=self._constant_subgroup_size(is_cpu) if "subgroup" in features else 0,
            f16="shader-f16" in features,
            is_cpu=is_cpu,
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

    def buffer(self, nbytes: int, *, uniform: bool = False) -> wgpu.GPUBuffer:
        """A zeroed buffer of at least `nbytes`, rounded up to 16. Raises `OutOfMemoryError`."""
        size = aligned(nbytes)
        limit = min(self.buffer_bytes, self.binding_bytes)  # kernels bind whole buffers
        if size > limit:
            raise OutOfMemoryError(f"a buffer of {size} bytes exceeds the device's limit of {limit}")
        with self.lock, self.errors():
            try:
                buffer = self.wgpu.create_buffer(size=size, usage=STORAGE | (UNIFORM if uniform else 0))
            except wgpu.GPUOutOfMemoryError as error:
                raise OutOfMemoryError(
                    f"the device could not allocate {size} bytes beside {self.allocated} in use: {error}"
                ) from error
            self.allocated += size
        return buffer

    def release(self, buffer: wgpu.GPUBuffer) -> None:
        """Give a buffer's memory back at once."""
        with self.lock:
            self.allocated -= buffer.size
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
            data = self.wgpu.queue.read_buffer(buffer, 0, nbytes)
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
                data = staging.read_mapped()
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


def open_device(*, promised=False, subgroups=True, f16=True) -> Device:
    """The device of this process for these wishes; a lost one is replaced. Raises `NoAdapterError`."""
    key = (promised, subgroups, f16, os.environ.get("WORKBENCH_ADAPTER", ""))
    with _shared_lock:
        device = _shared.get(key)
        if device is None or device.lost:
            device = Device(find_adapter(), promised=promised, subgroups=subgroups, f16=f16)
            _shared[key] = device
        return device


@functools.cache
def adapter_missing() -> str | None:
    """Why no device can be opened, or None if one can."""
    try:
        open_device()
    except NoAdapterError as error:
        return str(error)
    return None
