"""Running one kernel by hand: torch tensors in, torch tensors out."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import wgpu

from wgsl_kernels import Kernel, KernelUsageError, get
from wgsl_kernels.numerics import TORCH_TYPES, type_name

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


def port_types(kernel: Kernel, arguments: Mapping, y_dtype: str = "f32") -> dict[str, str]:
    """Element type by bound port, in the order of the bindings; raises `KernelUsageError` for one not taken."""
    types = {}
    for name, port in kernel.ports.items():
        if isinstance(arguments.get(name), torch.Tensor):
            given = type_name(arguments[name])
            allowed = ("f32", "f16") if port.dtype in ("float", "scale") else (port.dtype,)
            if given not in allowed:
                raise KernelUsageError(f"{kernel.name}.{name} takes {' or '.join(allowed)}, not {given}")
            types[name] = given
        elif name in kernel.writes:
            types[name] = y_dtype if port.dtype == "float" else port.dtype
    return types


def sizes_of(kernel: Kernel, arguments: Mapping) -> dict:
    """Shape names from the tensors among `arguments`, and the parameters; raises `KernelUsageError`."""
    tensors = {n: v for n, v in arguments.items() if isinstance(v, torch.Tensor)}
    params = {n: v for n, v in arguments.items() if n not in tensors}
    unknown = set(params) - set(kernel.params)
    if unknown:
        allowed = ", ".join(kernel.params) or "none"
        raise KernelUsageError(f"{kernel.name} has no parameter {sorted(unknown)}; it has {allowed}")
    return {**kernel.bind_sizes({n: tuple(t.shape) for n, t in tensors.items()}), **params}


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


def prepare(
    kernel: Kernel,
    arguments: Mapping,
    *,
    device: Device,
    variant: str | None = None,
    tunables: Mapping[str, int] | None = None,
    y_dtype: str = "f32",
) -> Compiled:
    """Compile a kernel for the shapes and types of `arguments` (tensors and parameters by name)."""
    sizes, types = sizes_of(kernel, arguments), port_types(kernel, arguments, y_dtype)
    return compile_kernel(device, kernel, sizes, types, variant, tunables)


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

    y_dtype: element type of float outputs. Outputs are poisoned with NaN (or 0xcdcdcdcd) first, so that an element
    the kernel does not write shows. Raises `KernelUsageError` and `KernelError`.
    """
    kernel, device = resolve(kernel), device or open_device()
    compiled = prepare(kernel, arguments, device=device, variant=variant, tunables=tunables, y_dtype=y_dtype)
    buffers = output_buffers(device, compiled, arguments)
    try:
        for port in compiled.context.types:
            if port in arguments:
                _put(device, compiled, port, tensor_bytes(arguments[port]), buffers)
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
            array = device.read(buffers[name], torch.empty(0, dtype=dtype).numpy().dtype, int(np.prod(shape)))
            results[name] = torch.from_numpy(array.copy()).view(shape)
    finally:
        for buffer in buffers.values():
            device.release(buffer)
    return results
