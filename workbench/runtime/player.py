"""Plays programs on a device. It knows no model: what it does is what programs say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import wgpu

from workbench.known import known
from workbench.models.source import Source

from .device import Device
from .device_rows import NUMPY
from .native import Recorder
from .pipelines import Bound, Built, Wanted, build_all
from .program import Dispatch, Program, ProgramError
from .uploads import Weights

#: Kinds of buffers that a player owns: they are the same for all caches.
OWN = ("weight", "constant", "activation")


class Player:
    """Programs of one source on one device: their pipelines, weights, constants and activations.

    `generation` counts how often buffers of activations were replaced: what was bound before is bound anew.
    """

    def __init__(self, device: Device, source: Source, weights: Weights | None = None) -> None:
        """weights: of another player of the same source and device, to be shared."""
        self.device, self.weights = device, weights or Weights(device, source)
        self.generation = 0
        self._arena: dict[str, wgpu.GPUBuffer] = {}
        self._constants: dict[tuple[str, int], wgpu.GPUBuffer] = {}  # by name and size
        self._groups: dict[tuple, wgpu.GPUBindGroup] = {}  # of buffers that are the player's own

    def pipelines(self, program: Program) -> list[Built]:
        """Compiled, in the order of the program; and room for its activations. Its weights are uploaded meanwhile."""
        wanted = [
            Wanted(program.modules[each.module], each.bindings, each.label, each.own, each.body_line)
            for each in program.pipelines
        ]
        built = build_all(self.device, wanted, lambda: self._upload(program))
        self._grow(program)
        return built

    def record(
        self, program: Program, built: Sequence[Built], buffers: Mapping[str, wgpu.GPUBuffer]
    ) -> Recorder:
        """The program's dispatches, bound. buffers: of caches, inputs and state, by name."""
        return Recorder(
            [
                (
                    built[each.pipeline].pipeline,
                    self._group(program, each, built[each.pipeline], buffers),
                    each.grid,
                )
                for each in program.dispatches
            ]
        )

    def _group(
        self,
        program: Program,
        dispatch: Dispatch,
        built: Built,
        buffers: Mapping[str, wgpu.GPUBuffer],
    ) -> wgpu.GPUBindGroup:
        """What a dispatch binds. A group takes the host about 0.1 ms, a step has hundreds, and each new cache needs its
        own; so groups that bind nothing of a cache are made once."""
        memories = [program.buffers[name] for name, _, _ in dispatch.buffers]
        own = all(memory.kind in OWN for memory in memories)
        # sizes, too: a constant of one name has one buffer for each
        key = built.pipeline, dispatch.buffers, tuple(memory.nbytes for memory in memories)
        if own and key in self._groups:
            return self._groups[key]
        bound = [self._bound(program, buffers, *part) for part in dispatch.buffers]
        group = built.bind(self.device, bound)
        if own:
            self._groups[key] = group
        return group

    def buffer_of(self, program: Program, name: str):
        """The buffer that holds an activation."""
        return self._arena[program.values[name].buffer]

    def read(self, program: Program, names: Sequence[str], valid: int) -> list[np.ndarray]:
        """Activations by name, without the rows of padding behind `valid` tokens."""
        values = [program.values[name] for name in names]
        shapes = [(min(valid, v.shape[0]), *v.shape[1:]) if v.by_token else v.shape for v in values]
        wanted = [
            (self._arena[v.buffer], NUMPY[v.dtype], int(np.prod(shape)))
            for v, shape in zip(values, shapes, strict=True)
        ]
        arrays = self.device.read_all(wanted)
        return [array.reshape(shape) for array, shape in zip(arrays, shapes, strict=True)]

    def uploaded(self) -> dict[str, int]:
        """Bytes on the device by kind."""
        activations = sum(buffer.size for buffer in self._arena.values())
        return {"weights": self.weights.nbytes, "activations": activations}

    # ---- buffers -----------------------------------------------------------------------------------------------

    def _upload(self, program: Program) -> None:
        for name in program.of_kind("weight"):
            self.weights.get(program, name)

    def _grow(self, program: Program) -> None:
        """Buffers of activations are shared by programs; a larger one replaces a smaller one.

        Everything bound to them before is then bound anew, since wgpu aborts the process when it encodes a destroyed
        buffer. For the same reason the old buffer goes only when there is a new one.
        """
        for name, memory in program.of_kind("activation").items():
            old = self._arena.get(name)
            if old is not None and old.size >= memory.nbytes:
                continue
            self._arena[name] = self.device.buffer(memory.nbytes, label=name)
            if old is not None:
                self.generation += 1
                self._groups.clear()
                self.device.release(old)

    def _bound(
        self, program: Program, given: Mapping[str, wgpu.GPUBuffer], name: str, at: int, size: int
    ) -> Bound:
        memory = program.buffers[name]
        if at % self.device.adapter.offset_alignment:
            raise ProgramError(
                f"{name} is bound from byte {at}: lowered for a finer alignment of bindings than this device's, "
                f"{self.device.adapter.offset_alignment} bytes"
            )
        if memory.kind == "weight":
            found = self.weights.get(program, name)
            return (found, at, size) if at or size < memory.nbytes else found
        if memory.kind == "constant":
            return self._constant(program, name)
        return self._arena[name] if memory.kind == "activation" else given[name]

    def _constant(self, program: Program, name: str):
        memory = program.buffers[name]
        key = name, memory.nbytes
        if key not in self._constants:
            values = known(memory.initial).values(memory.shape)
            self._constants[key] = self.weights.put(values, f"{name} of {memory.shape[0]} positions")
        return self._constants[key]
