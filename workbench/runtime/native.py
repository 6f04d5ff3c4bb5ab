"""The few calls into wgpu-native that go past wgpu-py's wrappers, written for the version that pyproject.toml pins.

- `shader_module`: modules without injected bounds checks and loop counters, for kernels that are tested against
  their references. Loop counters keep drivers from unrolling; sources that users edit keep every check.
- `Recorder`: dispatches recorded through cffi handles, without the per-call bookkeeping of the wrappers.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Sequence
from typing import Any

import wgpu
from wgpu.backends.wgpu_native import _api, _ffi
from wgpu.backends.wgpu_native._ffi import ffi

#: The C functions and constants, which have no Python types; those of `checked` raise wgpu-py's errors.
lib: Any = _ffi.lib
checked: Any = _api.libf

NO_RUNTIME_CHECKS = 0
#: Seconds until a device that has done its work and gives no answer counts as lost.
ANSWER_S = 30


def shader_module(
    device: wgpu.GPUDevice, code: str, *, trusted: bool, label: str = ""
) -> wgpu.GPUShaderModule:
    """Compile WGSL; raises `wgpu.GPUError` with the compiler's message."""
    create = getattr(checked, "wgpuDeviceCreateShaderModuleTrusted", None)
    if not trusted or create is None:
        return device.create_shader_module(label=label, code=code)
    source = _api.new_struct_p("WGPUShaderSourceWGSL *", code=_api.to_c_string_view(code))
    source[0].chain.next = ffi.NULL
    source[0].chain.sType = lib.WGPUSType_ShaderSourceWGSL
    descriptor = _api.new_struct_p(
        "WGPUShaderModuleDescriptor *",
        nextInChain=ffi.cast("WGPUChainedStruct *", source),
        label=_api.to_c_string_view(label),
    )
    handle = create(device._internal, descriptor, NO_RUNTIME_CHECKS)
    return _api.GPUShaderModule(label, handle, device)


class Recorder:
    """A fixed list of dispatches that can be encoded into any compute pass at little cost.

    calls: (pipeline, bind group, workgroups in x, y, z). The objects are kept alive by this recorder. A pipeline
    that is set already is not set again.
    """

    def __init__(
        self, calls: Sequence[tuple[wgpu.GPUComputePipeline, wgpu.GPUBindGroup, tuple[int, int, int]]]
    ):
        self._keep = list(calls)
        self._calls = []
        last = None
        for pipeline, group, (x, y, z) in calls:
            self._calls.append((None if pipeline is last else pipeline._internal, group._internal, x, y, z))
            last = pipeline

    def __len__(self) -> int:
        return len(self._calls)

    @property
    def groups(self) -> list[wgpu.GPUBindGroup]:
        """What each dispatch binds."""
        return [group for _, group, _ in self._keep]

    def apart(self) -> list[Recorder]:
        """A recorder for each dispatch, in order."""
        return [Recorder([call]) for call in self._keep]

    def between(self, start: int, stop: int) -> Recorder:
        """A recorder of the dispatches from `start` up to `stop`."""
        return Recorder(self._keep[start:stop])

    def encode(self, compute_pass: wgpu.GPUComputePassEncoder) -> None:
        """Append the dispatches to an open pass. Errors surface when the pass ends."""
        handle = compute_pass._internal
        set_pipeline = lib.wgpuComputePassEncoderSetPipeline
        set_group = lib.wgpuComputePassEncoderSetBindGroup
        dispatch = lib.wgpuComputePassEncoderDispatchWorkgroups
        null = ffi.NULL
        for pipeline, group, x, y, z in self._calls:
            if pipeline is not None:
                set_pipeline(handle, pipeline)
            set_group(handle, 0, group, 0, null)
            dispatch(handle, x, y, z)


def timestamp_period(device: wgpu.GPUDevice) -> float:
    """Nanoseconds of one tick of a timestamp query; wgpu-py hands out raw ticks."""
    return float(lib.wgpuQueueGetTimestampPeriod(device.queue._internal))


#: Of buffers that are being mapped: handle -> what is to be told. Kept until the device has answered.
_waiting: dict = {}


@ffi.callback("void(WGPUMapAsyncStatus, WGPUStringView, void *, void *)")
def _answered(
    status, message, handle, _unused, waiting=_waiting, cast=ffi.cast, text=_api.from_c_string_view
):
    # The device may answer when the interpreter has taken this module apart: all that is needed comes as a default.
    readback = waiting.pop(int(cast("intptr_t", handle)))
    readback.status, readback.message = int(status), text(message)
    readback.answered.set()


@atexit.register
def _finish() -> None:
    """Let devices end what nobody waits for any more: drivers crash in a process that ends under their work."""
    for readback in list(_waiting.values()):
        if not readback.arrived:
            lib.wgpuDevicePoll(readback._device._internal, True, ffi.NULL)


class Readback:
    """A buffer that a submit leaves small results in, to be waited for while later submits are already on the device.

    wgpu-py's own `map_async` wakes a thread that waits for everything that was submitted; this waits for one submit by
    its index. Fill it with `copy`, hand the encoder to `submit`, then `wait` for the bytes; after that it may be used
    again. One that is no longer wanted is kept until it has `arrived`, and then cleared.
    """

    def __init__(self, device: wgpu.GPUDevice, size: int):
        self._device, self.size = device, size
        usage = wgpu.BufferUsage.COPY_DST | wgpu.BufferUsage.MAP_READ
        self.buffer = device.create_buffer(label="results read back", size=size, usage=usage)
        self.status: int | None = None
        self.message = ""
        self.answered = threading.Event()
        self._index = ffi.new("WGPUSubmissionIndex *")
        self._filled = 0

    def copy(self, encoder: wgpu.GPUCommandEncoder, source: wgpu.GPUBuffer, offset: int, nbytes: int) -> None:
        """Append bytes of a buffer, whole words, to what is read back."""
        encoder.copy_buffer_to_buffer(source, offset, self.buffer, self._filled, nbytes)
        self._filled += nbytes

    def submit(self, encoder: wgpu.GPUCommandEncoder) -> None:
        """Submit the encoder's commands and ask for the copied bytes."""
        finished = encoder.finish()  # its handle lives as long as it does
        commands = ffi.new("WGPUCommandBuffer[]", [finished._internal])
        queue = self._device.queue._internal
        self._index[0] = checked.wgpuQueueSubmitForIndex(queue, 1, commands)
        self.status = None
        self.answered.clear()
        handle = id(self)
        _waiting[handle] = self
        info = _api.new_struct(
            "WGPUBufferMapCallbackInfo",
            mode=lib.WGPUCallbackMode_AllowProcessEvents,
            callback=_answered,
            userdata1=ffi.cast("void *", handle),
        )
        checked.wgpuBufferMapAsync(self.buffer._internal, lib.WGPUMapMode_Read, 0, self._filled, info)

    @property
    def arrived(self) -> bool:
        """Whether the device has answered."""
        return self.answered.is_set()

    def wait(self) -> bytes:
        """The copied bytes, as soon as their submit is done. Raises `RuntimeError` where the device is lost."""
        poll = checked.wgpuDevicePoll
        poll(self._device._internal, True, self._index)
        if not self.arrived:  # an answer may come with a later poll, or be on its way in another thread's
            poll(self._device._internal, True, ffi.NULL)
            self.answered.wait(ANSWER_S)
        if self.status != lib.WGPUMapAsyncStatus_Success:
            raise RuntimeError(f"a readback failed: {self.message or 'the device does not answer'}")
        start = lib.wgpuBufferGetConstMappedRange(self.buffer._internal, 0, self._filled)
        data = bytes(ffi.buffer(start, self._filled))
        self.clear()
        return data

    def clear(self) -> None:
        """Make ready to be used again; what has arrived is forgotten."""
        if self.status == lib.WGPUMapAsyncStatus_Success:
            lib.wgpuBufferUnmap(self.buffer._internal)
        self.status, self._filled = None, 0
        self.answered.clear()
