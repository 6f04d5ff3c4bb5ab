"""Copies of weights that take turns, so that no cache holds them: a model reads each weight once a token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import wgpu

from wgsl_kernels import Kernel

from .device import Device
from .launch import output_buffers
from .native import Recorder
from .pipelines import Compiled

#: Copies that take turns on a GPU are larger than this together: four times the largest cache known of.
ROTATED_BYTES, MOST_COPIES = 256 << 20, 256


def turns(nbytes: int, software: bool) -> int:
    """Copies of so many bytes that take turns; one where software computes, or where there is nothing to copy."""
    return 1 if software or not nbytes else ROTATED_BYTES // nbytes + 2


class Rotation:
    """A kernel's inputs on a device; its weights, or all that it does not update where it has none, in `copies`.

    arrays: by port, as bytes. copies: by default as many as `turns` says, `MOST_COPIES` at most. nbytes: of all copies
    together. The buffers live until `close`; use as a context manager. Raises `OutOfMemoryError`.
    """

    def __init__(
        self, device: Device, kernel: Kernel, arrays: Mapping[str, np.ndarray], copies: int | None = None
    ) -> None:
        self._device, self._arrays = device, arrays
        turning = set(kernel.prepared_ports or kernel.reads) & set(arrays) - set(kernel.updates.values())
        size = sum(arrays[name].nbytes for name in turning)
        self.copies = min(MOST_COPIES, turns(size, device.adapter.is_cpu)) if copies is None else copies
        self.nbytes = self.copies * size
        self._buffers: dict[str, list[wgpu.GPUBuffer]] = {}
        try:
            for name, array in arrays.items():
                made = self._buffers[name] = []
                for _ in range(self.copies if name in turning else 1):
                    label, uniform = f"{kernel.name}.{name}", kernel.ports[name].uniform
                    made.append(device.buffer(array.nbytes, uniform=uniform, label=label))
                    device.write(made[-1], array)
        except Exception:
            self.close()
            raise

    def __enter__(self) -> Rotation:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        for made in self._buffers.values():
            for buffer in made:
                self._device.release(buffer)
        self._buffers.clear()

    def bound(self, copy: int = 0) -> dict[str, wgpu.GPUBuffer]:
        """Buffers by port, the weights' of one copy."""
        return {name: made[copy % len(made)] for name, made in self._buffers.items()}

    def recorders(self, compiled: Sequence[Compiled]) -> list[Recorder]:
        """One sequence of dispatches each, over all copies; all write the same output, so each dispatch waits for the
        one before, as in a model."""
        for name, buffer in output_buffers(self._device, compiled[0], self._arrays).items():
            self._buffers[name] = [buffer]
        return [
            Recorder(
                [
                    (each.pipeline, each.bind(self._device, self.bound(copy)), each.grid)
                    for copy in range(self.copies)
                ]
            )
            for each in compiled
        ]
