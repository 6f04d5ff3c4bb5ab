"""The few calls into wgpu-native that go past wgpu-py's wrappers, written for the version that pyproject.toml pins.

- `shader_module`: modules without injected bounds checks and loop counters, for kernels that are tested against
  their references. Loop counters keep drivers from unrolling; sources that users edit keep every check.
- `Recorder`: dispatches recorded through cffi handles, without the per-call bookkeeping of the wrappers.
"""

from __future__ import annotations

from collections.abc import Sequence

import wgpu
from wgpu.backends.wgpu_native import _api
from wgpu.backends.wgpu_native._ffi import ffi, lib

NO_RUNTIME_CHECKS = 0


def shader_module(
    device: wgpu.GPUDevice, code: str, *, trusted: bool, label: str = ""
) -> wgpu.GPUShaderModule:
    """Compile WGSL; raises `wgpu.GPUError` with the compiler's message."""
    create = getattr(_api.libf, "wgpuDeviceCreateShaderModuleTrusted", None)
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
