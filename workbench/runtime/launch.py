"""Running one kernel by hand: torch tensors in, torch tensors out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import wgpu

from wgsl_kernels import Adapter, Context, Kernel, KernelUsageError, get
from wgsl_kernels.numerics import TORCH_TYPES, type_name
from wgsl_kernels.pair import FLOAT_TYPES
from wgsl_kernels.shapes import sizes_of

from .device import Device, open_device
from .pipelines import Compiled, compile_kernel


def tensor_bytes(tensor: torch.Tensor) -> np.ndarray:
    """A tensor's elements as they lie in a buffer."""
    tensor = tensor.detach().contiguous().cpu()
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.view(torch.int16)
    return tensor.numpy()


def resolve(kernel: Kernel | str) -> Kernel:
    """A kernel, given itself or its name; raises `KernelUsageError` listing the names there are."""
    return get(kernel) if isinstance(kernel, str) else kernel


@dataclass(frozen=True, eq=False)
class Workload:
    """A kernel on these inputs: tensors and parameters by name. y_dtype: element type of float outputs.

    Inputs that the kernel does not take raise `KernelUsageError` once their sizes or types are asked for.
    """

    kernel: Kernel
    arguments: Mapping[str, Any]
    y_dtype: str = "f32"

    @classmethod
    def random(cls, kernel: Kernel, seed: int = 0, y_dtype: str = "f32", **options: Any) -> Workload:
        """Inputs that the kernel's own maker draws, the same for the same options (`Kernel.inputs`)."""
        return cls(kernel, kernel.inputs(seed=seed, **options), y_dtype)

    @cached_property
    def tensors(self) -> dict[str, torch.Tensor]:
        return {name: value for name, value in self.arguments.items() if isinstance(value, torch.Tensor)}

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """The tensors as they lie in buffers."""
        return {name: tensor_bytes(value) for name, value in self.tensors.items()}

    @cached_property
    def sizes(self) -> dict[str, Any]:
        """Shape names from the tensors, and the parameters."""
        params = {name: value for name, value in self.arguments.items() if name not in self.tensors}
        if unknown := set(params) - set(self.kernel.params):
            allowed = ", ".join(self.kernel.params) or "none"
            raise KernelUsageError(f"{self.kernel.name} has no parameter {sorted(unknown)}; it has {allowed}")
        shapes = {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}
        return {**sizes_of(self.kernel, shapes), **params}

    @cached_property
    def types(self) -> dict[str, str]:
        """Element type by bound port, in the order of the bindings."""
        types = {}
        for name, port in self.kernel.ports.items():
            if name in self.tensors:
                given = type_name(self.tensors[name])
                allowed = FLOAT_TYPES if port.dtype in ("float", "scale") else (port.dtype,)
                if given not in allowed:
                    raise KernelUsageError(
                        f"{self.kernel.name}.{name} takes {' or '.join(allowed)}, not {given}"
                    )
                types[name] = given
            elif name in self.kernel.writes:
                types[name] = self.y_dtype if port.dtype == "float" else port.dtype
        return types

    def context(self, variant: str, adapter: Adapter, tunables: Mapping[str, int] = {}) -> Context:
        """What a variant is specialised for."""
        return self.kernel.specialise(variant, self.sizes, self.types, adapter, tunables)

    def compile(
        self, device: Device, variant: str | None = None, tunables: Mapping[str, int] | None = None
    ) -> Compiled:
        return compile_kernel(device, self.kernel, self.sizes, self.types, variant, tunables)

    def run(
        self, device: Device, variant: str | None = None, tunables: Mapping[str, int] | None = None
    ) -> dict[str, torch.Tensor]:
        """Outputs by name of one dispatch; see `run_kernel`."""
        kernel, compiled = self.kernel, self.compile(device, variant, tunables)
        buffers = output_buffers(device, compiled, self.arguments)
        try:
            for port in compiled.context.types:
                if port in self.arguments:
                    _put(device, compiled, port, self.arrays[port], buffers)
            with device.lock, device.errors():
                group = compiled.bind(device, buffers)
                encoder = device.wgpu.create_command_encoder()
                compute = encoder.begin_compute_pass(label=compiled.label)
                compute.set_pipeline(compiled.pipeline)
                compute.set_bind_group(0, group)
                compute.dispatch_workgroups(*compiled.grid)
                compute.end()
                device.wgpu.queue.submit([encoder.finish()])
            results = {}
            for name in kernel.writes:
                kind = compiled.context.types[name]
                shape = kernel.output_shape(name, compiled.context.sizes)
                dtype = TORCH_TYPES[kind]
                array = device.read(
                    buffers[name], torch.empty(0, dtype=dtype).numpy().dtype, int(np.prod(shape))
                )
                results[name] = torch.from_numpy(array.copy()).view(shape)
        finally:
            for buffer in buffers.values():
                device.release(buffer)
        return results


def output_buffers(device: Device, compiled: Compiled, given: Mapping) -> dict[str, wgpu.GPUBuffer]:
    """Buffers of the ports that are not `given`, poisoned with NaN (or 0xcdcdcdcd)."""
    buffers: dict[str, wgpu.GPUBuffer] = {}
    try:
        for port, kind in compiled.context.types.items():
            if port not in given:
                shape = compiled.kernel.output_shape(port, compiled.context.sizes)
                dtype = TORCH_TYPES[kind]
                poison = float("nan") if dtype.is_floating_point else -0x32323233
                _put(device, compiled, port, tensor_bytes(torch.full(shape, poison, dtype=dtype)), buffers)
    except BaseException:
        for buffer in buffers.values():
            device.release(buffer)
        raise
    return buffers


def _put(device: Device, compiled: Compiled, port: str, array: np.ndarray, buffers: dict) -> None:
    """A buffer of a port with the array in it, among `buffers` before anything can go wrong with it."""
    kernel = compiled.kernel
    label = f"{kernel.name}.{port}"
    buffers[port] = device.buffer(array.nbytes, uniform=kernel.ports[port].uniform, label=label)
    device.write(buffers[port], array)


def run_kernel(
    kernel: Kernel | str,
    arguments: Mapping,
    *,
    variant: str | None = None,
    tunables: Mapping[str, int] | None = None,
    device: Device | None = None,
    y_dtype: str = "f32",
) -> dict[str, torch.Tensor]:
    """Run the WGSL of a pair (or of that name) on tensors and parameters by name; returns its outputs by name.

        kernel = wgsl_kernels.get("silu_mul")
        workbench.run_kernel(kernel, kernel.inputs(seed=0, width=100))

    y_dtype: element type of float outputs. Outputs are poisoned with NaN (or 0xcdcdcdcd) first, so that an element
    the kernel does not write shows. Raises `KernelUsageError` and `KernelError`.
    """
    workload = Workload(resolve(kernel), arguments, y_dtype)
    return workload.run(device or open_device(), variant, tunables)
