"""Rows of logits on a device, and kernels over them; see `workbench.runtime.rows`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack

import numpy as np
import wgpu

import wgsl_kernels
from wgsl_kernels.shapes import sizes_of
from workbench.dtypes import NUMPY

from .device import Device
from .pipelines import Compiled, compile_kernel


class DeviceRows:
    """Rows in a buffer of a device, the first `valid` of shape[0]; those behind them are padding."""

    def __init__(
        self, device: Device, buffer: wgpu.GPUBuffer, shape: tuple[int, ...], dtype: str, valid: int
    ):
        self.device, self.buffer, self.dtype = device, buffer, dtype
        self._padded, self._valid = tuple(shape), valid

    @property
    def shape(self) -> tuple[int, int]:
        return self._valid, self._padded[1]

    def apply(self, kernel: str, *, stay: Iterable[str] = (), **arguments) -> dict:
        """As `HostRows.apply`, through the WGSL; sums are in f32, and as exact as the pair says. Rows that stay are the
        caller's to `release`. Raises `OutOfMemoryError` and `DeviceLostError`."""
        pair = wgsl_kernels.get(kernel)
        params = {name: value for name, value in arguments.items() if name in pair.params}
        given = {"x": self, **{name: value for name, value in arguments.items() if name not in params}}
        with self.device.lock, ExitStack() as undo, ExitStack() as kept:
            buffers, shapes, types = {}, {}, {}
            for name, value in given.items():
                bound = self._bound(pair.reads[name], value, undo, f"{kernel}.{name}")
                buffers[name], shapes[name], types[name] = bound
            types |= {name: port.dtype for name, port in pair.writes.items()}
            types = {name: types[name] for name in pair.ports}
            compiled = compile_kernel(self.device, pair, {**sizes_of(pair, shapes), **params}, types)
            made = {name: pair.output_shape(name, compiled.context.sizes) for name in pair.writes}
            for name, shape in made.items():
                buffers[name] = self.device.buffer(4 * int(np.prod(shape)), label=f"{kernel}.{name}")
                (kept if name in stay else undo).callback(self.device.release, buffers[name])
            self._dispatch(compiled, buffers)
            read = [name for name in made if name not in stay]
            arrays = self.device.read_all(
                [(buffers[name], NUMPY[types[name]], int(np.prod(made[name]))) for name in read]
            )
            kept.pop_all()
        found = dict(zip(read, arrays, strict=True))
        return {
            name: DeviceRows(self.device, buffers[name], shape, types[name], self._valid)
            if name in stay
            else found[name].reshape(shape)[: self._valid]
            for name, shape in made.items()
        }

    def split(self, parts: int) -> DeviceRows:
        """Each row as so many rows of equal width, in the same buffer."""
        rows, width = self._padded
        return DeviceRows(
            self.device, self.buffer, (rows * parts, width // parts), self.dtype, self._valid * parts
        )

    def release(self) -> None:
        """Give the buffer of rows that stayed back."""
        self.device.release(self.buffer)

    def _bound(self, port, value, undo: ExitStack, label: str) -> tuple:
        """Buffer, shape and type of an input; what is uploaded is given back by `undo`."""
        if isinstance(value, DeviceRows):
            return value.buffer, value._padded, value.dtype
        padded = np.zeros((self._padded[0], *value.shape[1:]), NUMPY[port.dtype])
        padded[: len(value)] = value
        buffer = self.device.buffer(padded.nbytes, label=label)
        undo.callback(self.device.release, buffer)
        self.device.write(buffer, padded)
        return buffer, padded.shape, port.dtype

    def _dispatch(self, compiled: Compiled, buffers: Mapping) -> None:
        with self.device.errors():
            group = compiled.bind(self.device, buffers)
            encoder = self.device.wgpu.create_command_encoder()
            compute = encoder.begin_compute_pass(label=compiled.label)
            compute.set_pipeline(compiled.pipeline)
            compute.set_bind_group(0, group)
            compute.dispatch_workgroups(*compiled.grid)
            compute.end()
            self.device.wgpu.queue.submit([encoder.finish()])
