"""Weights on a device: what programs say of their uploads, read from a source part by part, once for all programs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import wgpu

from workbench.models.source import Source

from .device import Device
from .program import Program, Upload
from .weights import matrix_parts


class Weights:
    """The weights of one source on one device, buffer by buffer as programs ask for them."""

    def __init__(self, device: Device, source: Source) -> None:
        self.device, self.source = device, source
        self._buffers: dict[str, wgpu.GPUBuffer] = {}

    @property
    def nbytes(self) -> int:
        return sum(buffer.size for buffer in self._buffers.values())

    def get(self, program: Program, name: str):
        """A buffer, uploaded if it is not there: together with all others that hold parts of the same tensors."""
        if name not in self._buffers:
            tensors = {each.tensor for each in program.uploads if each.buffer == name}
            uploads = [each for each in program.uploads if each.tensor in tensors]
            self._upload(program, [each for each in uploads if each.buffer not in self._buffers])
        return self._buffers[name]

    def put(self, array: np.ndarray, label: str):
        """A buffer with these bytes."""
        buffer = self.device.buffer(array.nbytes, label=label)
        try:
            self.device.write(buffer, array)
        except Exception:
            self.device.release(buffer)
            raise
        return buffer

    def _upload(self, program: Program, uploads: Sequence[Upload]) -> None:
        """All of them or, on an error, none."""
        made: dict[str, wgpu.GPUBuffer] = {}
        try:
            for name in dict.fromkeys(each.buffer for each in uploads):
                made[name] = self.device.buffer(program.buffers[name].nbytes, label=name)
            for tensor in dict.fromkeys(each.tensor for each in uploads):
                self._write(tensor, [each for each in uploads if each.tensor == tensor], made)
        except Exception:
            for buffer in made.values():
                self.device.release(buffer)
            raise
        self._buffers |= made

    def _write(self, tensor: str, uploads: Iterable[Upload], buffers: Mapping[str, wgpu.GPUBuffer]) -> None:
        vectors = [each for each in uploads if each.transform == "to f32"]
        for each in vectors:
            values = self.source.tensor(tensor).dequantize()[each.first : each.stop]
            values = values + np.float32(each.offset) if each.offset else values
            self.device.write(buffers[each.buffer], values, each.at)
        rest = [each for each in uploads if each.transform != "to f32"]
        if not rest:
            return
        gathered: dict[Upload, np.ndarray] = {}  # where rows are not whole words, they are put together first
        for first, planes in matrix_parts(self.source, tensor):
            for each in rest:
                array = planes[each.plane]
                if not each.stop:
                    self.device.write(buffers[each.buffer], array, each.at)
                    continue
                low, high = max(each.first, first), min(each.stop, first + array.shape[0])
                if low >= high:
                    continue
                piece, row_bytes = array[low - first : high - first], array.nbytes // array.shape[0]
                if row_bytes % 4:
                    if each not in gathered:
                        gathered[each] = np.empty((each.stop - each.first, *array.shape[1:]), array.dtype)
                    gathered[each][low - each.first : high - each.first] = piece
                else:
                    at = each.at + (low - each.first) * row_bytes
                    self.device.write(buffers[each.buffer], piece, at)
        for each, array in gathered.items():
            self.device.write(buffers[each.buffer], array, each.at)
