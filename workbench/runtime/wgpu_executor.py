"""Runs device plans on a WebGPU device.

Weights are uploaded once, part by part, and shared by all plans; the arena of activations is shared too, so one step
runs at a time. A plan is lowered, compiled and bound once for each (head, number of tokens, kept names); after that a
step is a few writes, one compute pass and the readback of its results. Where activations are edited in flight, the pass
ends behind each of them, and goes on when Python has put the replacement there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np

from wgsl_kernels.library import Library
from workbench.models.architecture import Architecture
from workbench.models.blocks import cache_type
from workbench.plan.count import plane_bytes
from workbench.plan.plan import Buffer, plane_name, resolve

from .cache import Cache
from .device import Device
from .device_rows import NUMPY, DeviceRows
from .edits import Edits, check_edits, refuse_inside, replacement, stops
from .lowering import Choice, DevicePlan, by_rows, lower, row_ranges
from .native import Recorder
from .pipelines import compile_kernel
from .plans import Plans
from .sampling import Drawn
from .streaming import Readbacks, readback_bytes, stream
from .weights import matrix_parts, vector

#: Tokens a step: prompts are cut into these. Padding the last piece costs time, more steps cost time too.
CHUNKS = (256, 64, 16, 4, 1)
#: Steps of one readback at most, when tokens are generated.
STEPS = 16
#: Inputs that kernels read as uniforms.
UNIFORM = ("state", "options")


def chunk_sizes(config: Architecture, binding_bytes: int) -> tuple[int, ...]:
    """Those of `CHUNKS` whose widest activation, in f32, fits into a binding; one token always."""
    return tuple(size for size in CHUNKS if size == 1 or 4 * size * config.widest <= binding_bytes)


class WgpuCache(Cache):
    """Keys and values of one sequence and the buffers that a step reads: ids, targets, state."""

    def __init__(self, capacity: int):
        super().__init__(capacity)
        self.buffers: dict[str, object] = {}
        self.seen_words = 0
        self.recorders: dict[
            tuple, tuple[int, Recorder]
        ] = {}  # with the arena's generation they were bound to


@dataclass
class _Ready:
    """A lowered plan with its compiled steps."""

    plan: DevicePlan
    compiled: list


class WgpuExecutor:
    """Executes plans of one model on one device."""

    backend = "wgpu"

    def __init__(
        self,
        source,
        config: Architecture,
        device: Device,
        *,
        activations: str = "f32",
        cache: str | None = None,
        tuned: Choice | None = None,
        library: Library | None = None,
    ):
        self.source, self.config, self.device, self.activations = source, config, device, activations
        self.cache = cache or cache_type(activations)
        self.tuned, self.library = tuned, library
        self.chunks = chunk_sizes(config, device.binding_bytes)
        self.plan = Plans(source, config, activations, self.cache)
        self._ready: dict[tuple, _Ready] = {}
        self._weights: dict[tuple, object] = {}
        self._arena: list = []
        self._generation = 0
        self._constants: dict[tuple[str, int], object] = {}  # by name and capacity
        self.steps, self.readbacks = STEPS, Readbacks(device, readback_bytes(STEPS))

    @property
    def device_name(self) -> str:
        return self.device.name

    def new_cache(self, capacity: int) -> WgpuCache:
        """Allocate keys and values of `capacity` positions in every layer. Raises `OutOfMemoryError`."""
        cache = WgpuCache(capacity)
        try:
            for buffer in self.plan("all").of_kind("cache"):
                for plane, size in plane_bytes(buffer, {"sequences": 1, "capacity": capacity}).items():
                    cache.buffers[plane] = self.device.buffer(size, label=plane)
            sizes = {"tokens": self.chunks[0], "steps": STEPS}
            for name, buffer in self.inputs().items():
                words = int(np.prod(buffer.resolved(sizes)))
                cache.buffers[name] = self.device.buffer(4 * words, uniform=name in UNIFORM, label=name)
            cache.seen_words = self.inputs()["seen"].shape[0]
        except Exception:
            self.free_cache(cache)
            raise
        return cache

    def inputs(self) -> dict[str, Buffer]:
        """What steps read and write beside activations and the cache, by name: one set a cache."""
        plans = (self.plan("score"), self.plan("told"))
        return {b.name: b for plan in plans for kind in ("input", "state") for b in plan.of_kind(kind)}

    def free_cache(self, cache: WgpuCache) -> None:
        """Give a cache's memory back; it cannot be used afterwards."""
        cache.freed = True
        for buffer in cache.buffers.values():
            self.device.release(buffer)
        cache.buffers.clear()
        cache.recorders.clear()

    def chunk(self, remaining: int) -> int:
        """How many of the remaining tokens the next step takes; it is padded if that wastes a quarter at most."""
        size = next(size for size in self.chunks if 3 * size <= 4 * remaining)
        return min(size, remaining)

    def run(
        self,
        head: str,
        ids: np.ndarray,
        cache: WgpuCache,
        targets: np.ndarray | None = None,
        keep: Iterable[str] = (),
        edit: Edits | None = None,
        hold: Iterable[str] = (),
    ) -> dict[str, np.ndarray | DeviceRows]:
        """One step over at most `chunks[0]` ids at the cache's position, which moves on.

        Returns the plan's results and the kept activations, of the plan or of the device's, without padding rows. edit:
        functions that change activations in flight (`workbench.runtime.edits`); raises `EditError` and
        `CacheFullError`, with the position as it was. hold: activations that are handed out as rows where they are,
        until the next step (`holding`).
        """
        cache.require(len(ids))
        keep, hold = tuple(keep), self.plan(head).check_names(hold)
        edited = check_edits(self.plan(head), edit)
        untouched = tuple(dict.fromkeys((*keep, *edited, *hold)))  # neither fused away nor overwritten
        valid = len(ids)
        size = min(chunk for chunk in self.chunks if chunk >= valid)
        with self.device.lock:
            refuse_inside(self)
            recorder = self.recorder(head, size, cache, untouched)
            ready = self._ready[head, size, cache.capacity, untouched]
            self.write_inputs(cache, size, ids, targets)
            if edited:
                self._submit_edited(ready, recorder, {name: edit[name] for name in edited}, cache, valid)
            else:
                self._submit(recorder, 1, f"{head}, {size} token(s)")
            names = tuple(dict.fromkeys((*self.plan(head).results, *keep)))
            results = dict(zip(names, self._read(ready, names, valid), strict=True))
            results |= {name: self._rows(ready, name, valid) for name in hold}
        cache.position += valid
        return results

    def stream(
        self,
        head: str,
        first: int,
        count: int,
        cache: WgpuCache,
        options=None,
        seen=None,
        *,
        ahead: bool = True,
    ) -> Iterator[list[Drawn]]:
        """`workbench.runtime.streaming.stream` on this device."""
        return stream(self, head, first, count, cache, options, seen, ahead=ahead)

    # ---- preparing -------------------------------------------------------------------------------------------

    def recorder(self, head: str, size: int, cache: WgpuCache, keep: tuple[str, ...]) -> Recorder:
        """The dispatches of one step, compiled and bound to a cache; made once. Hold `device.lock` while using it."""
        key = (head, size, cache.capacity, keep)
        if key not in self._ready:
            self._ready[key] = self._compile(head, size, cache.capacity, keep)
        generation, recorder = cache.recorders.get(key, (-1, None))
        if recorder is None or generation != self._generation:
            recorder = self._bind(self._ready[key], cache)
            cache.recorders[key] = (self._generation, recorder)
        return recorder

    def device_plan(self, head: str, size: int, cache: WgpuCache, keep: tuple[str, ...]) -> DevicePlan:
        """The plan behind `recorder` of the same arguments: its steps are the recorder's dispatches."""
        self.recorder(head, size, cache, keep)
        return self._ready[head, size, cache.capacity, keep].plan

    def lowered(self, head: str, size: int, capacity: int, keep: tuple[str, ...] = ()) -> DevicePlan:
        """A plan of `size` tokens for this device, before anything of it is compiled."""
        sizes = {"tokens": size, "capacity": capacity, "sequences": 1, "steps": STEPS}
        adapter, most = self.device.adapter, self.device.binding_bytes
        return lower(self.plan(head), sizes, adapter, most, keep, self.tuned, self.library)

    def _compile(self, head: str, size: int, capacity: int, keep: tuple[str, ...]) -> _Ready:
        plan = self.lowered(head, size, capacity, keep)
        compiled = [
            compile_kernel(self.device, s.kernel, s.sizes, s.types, s.variant, s.tunables) for s in plan.steps
        ]
        self._grow_arena(plan.slot_bytes)
        return _Ready(plan, compiled)

    def _grow_arena(self, slot_bytes: tuple[int, ...]) -> None:
        """Arena buffers are shared by plans slot by slot; a larger one replaces a smaller one.

        Everything bound to the arena before is then bound anew, since wgpu aborts the process when it encodes a
        destroyed buffer. For the same reason the old buffer goes only when there is a new one.
        """
        for slot, need in enumerate(slot_bytes):
            if slot == len(self._arena):
                self._arena.append(self.device.buffer(need, label=f"activations {slot}"))
            elif self._arena[slot].size < need:
                new = self.device.buffer(need, label=f"activations {slot}")
                old, self._arena[slot] = self._arena[slot], new
                self._generation += 1
                self.device.release(old)

    def _bind(self, ready: _Ready, cache: WgpuCache) -> Recorder:
        calls = []
        for step, compiled in zip(ready.plan.steps, ready.compiled, strict=True):
            buffers = {
                port: self._buffer(
                    ready, step.ports[port], step.rows if by_rows(step.kernel, port) else None, cache
                )
                for port in step.types
            }
            calls.append((compiled.pipeline, compiled.bind(self.device, buffers), compiled.grid))
        return Recorder(calls)

    def _buffer(self, ready: _Ready, port: tuple[str, str], rows, cache: WgpuCache):
        """The buffer behind a plane, or the part of one: (buffer, offset, bytes)."""
        name, plane = port
        own, buffer = plane_name(name, plane), ready.plan.plan.buffers[name]
        if own in ready.plan.slots:
            return self._arena[ready.plan.slots[own]]
        if own in cache.buffers:
            return cache.buffers[own]
        if buffer.kind == "constant":
            return self._constant(buffer, cache.capacity)
        return (
            self._weight(ready.plan, buffer, plane, rows) if buffer.is_matrix else self._vector(buffer, rows)
        )

    def _constant(self, buffer: Buffer, capacity: int):
        key = buffer.name, capacity
        if key not in self._constants:
            values = buffer.initial.values(buffer.resolved({"capacity": capacity}))
            self._constants[key] = self._upload(values, f"{buffer.name} of {capacity} positions")
        return self._constants[key]

    def _upload(self, array: np.ndarray, label: str):
        buffer = self.device.buffer(array.nbytes, label=label)
        try:
            self.device.write(buffer, array)
        except Exception:
            self.device.release(buffer)
            raise
        return buffer

    def _vector(self, buffer: Buffer, rows):
        key = (buffer.name, rows)
        if key not in self._weights:
            values = vector(self.source, buffer)
            self._weights[key] = self._upload(
                values if rows is None else values[rows[0] : rows[1]], buffer.name
            )
        return self._weights[key]

    def _weight(self, plan: DevicePlan, matrix: Buffer, plane: str, rows):
        """The buffer of a plane, or the part of a stack's buffer: (buffer, offset, bytes)."""
        for stack in plan.stacks.values():
            if matrix.name in stack.names:
                whole = self._weight(plan, stack.buffer, plane, None)
                return whole, *stack.part(matrix.name, whole.size)
        if (matrix.name, plane, rows) not in self._weights:
            self._upload_matrix(matrix)
        return self._weights[matrix.name, plane, rows]

    def _upload_matrix(self, matrix: Buffer) -> None:
        """Upload all planes of a matrix, one buffer a plane and range of rows, reading the file part by part.

        All of them or, on an error, none.
        """
        made: dict[tuple, object] = {}
        try:
            self._upload_planes(matrix, made)
        except Exception:
            for buffer in made.values():
                self.device.release(buffer)
            raise
        self._weights |= made

    def _upload_planes(self, matrix: Buffer, made: dict[tuple, object]) -> None:
        ranges = row_ranges(matrix, self.device.binding_bytes)
        keys = [None] if len(ranges) == 1 else ranges
        gathered: dict[
            tuple, np.ndarray
        ] = {}  # planes whose rows are not whole words are put together here first
        for first, planes in self._parts(matrix):
            for plane, array in planes.items():
                one_for_all = matrix.format.granularity == "tensor" and plane in ("scales", "zeros")
                row_bytes = array.nbytes // array.shape[0]
                for key, (start, stop) in zip(keys, ranges, strict=True):
                    at = (matrix.name, plane, key)
                    if at not in made:
                        nbytes = (1 if one_for_all else stop - start) * row_bytes
                        made[at] = self.device.buffer(nbytes, label=plane_name(matrix.name, plane))
                        if row_bytes % 4 and not one_for_all:
                            gathered[at] = np.empty((stop - start, *array.shape[1:]), array.dtype)
                    low, high = max(start, first), min(stop, first + array.shape[0])
                    if one_for_all:
                        self.device.write(made[at], array)
                    elif low < high and at in gathered:
                        gathered[at][low - start : high - start] = array[low - first : high - first]
                    elif low < high:
                        piece = array[low - first : high - first]
                        self.device.write(made[at], piece, (low - start) * row_bytes)
        for at, array in gathered.items():
            self.device.write(made[at], array)

    def _parts(self, matrix: Buffer) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """(first row, planes) of each part of a matrix, tensor by tensor, row under row."""
        above = 0
        for tensor in matrix.tensors:
            for first, planes in matrix_parts(self.source, tensor):
                yield above + first, planes
            above += self.source.describe(tensor)[0][0]

    # ---- running ---------------------------------------------------------------------------------------------

    def write_inputs(self, cache: WgpuCache, size: int, ids, targets) -> None:
        """Token ids (and targets) of the next step, padded to `size`, and the state that goes with them."""
        padded = np.zeros(size, dtype=np.uint32)
        padded[: len(ids)] = ids
        self.device.write(cache.buffers["ids"], padded)
        if targets is not None:
            padded[: len(targets)] = targets
            self.device.write(cache.buffers["targets"], padded)
        state = np.array([cache.position, len(ids), 0, 0], dtype=np.uint32)
        self.device.write(cache.buffers["state"], state)

    def _submit(self, recorder: Recorder, times: int, label: str) -> None:
        """One submit a step, so that the device executes one while the next is being recorded. label: of the pass."""
        with self.device.errors():
            for _ in range(times):
                encoder = self.device.wgpu.create_command_encoder()
                compute = encoder.begin_compute_pass(label=label)
                recorder.encode(compute)
                compute.end()
                self.device.wgpu.queue.submit([encoder.finish()])

    def _submit_edited(
        self, ready: _Ready, recorder: Recorder, edits: Edits, cache: WgpuCache, valid: int
    ) -> None:
        """The step up to each edited activation, which is read, replaced and written back; then the rest."""
        start = 0
        for stop, name in stops([step.call for step in ready.plan.steps], edits):
            self._submit(recorder.between(start, stop), 1, f"up to the edit of {name}")
            [x] = self._read(ready, [name], valid)
            new = replacement(self, name, edits, x, cache.position + valid - len(x), x.dtype)
            self.device.write(self._arena[ready.plan.slots[name]], new)
            start = stop
        self._submit(recorder.between(start, len(recorder)), 1, "after the last edit")

    def _read(self, ready: _Ready, names: Sequence[str], valid: int) -> list[np.ndarray]:
        """Activations by name, without padding rows."""
        shapes, wanted = [], []
        for name in names:
            _, shape, dtype = ready.plan.plan.arrays[name]
            rows, *rest = resolve(shape, ready.plan.sizes)
            shapes.append((min(valid, rows) if shape[0] == "tokens" else rows, *rest))
            source = self._arena[ready.plan.slots[name]]
            wanted.append((source, NUMPY[dtype], int(np.prod(shapes[-1]))))
        arrays = self.device.read_all(wanted)
        return [array.reshape(shape) for array, shape in zip(arrays, shapes, strict=True)]

    def _rows(self, ready: _Ready, name: str, valid: int) -> DeviceRows:
        """An activation as rows where it is."""
        buffer = ready.plan.plan.buffers[name]
        shape = buffer.resolved(ready.plan.sizes)
        return DeviceRows(
            self.device, self._arena[ready.plan.slots[name]], shape, buffer.dtype, min(valid, shape[0])
        )

    def holding(self) -> AbstractContextManager:
        """While this is held, no other thread's step overwrites what `run` handed out."""
        return self.device.lock

    def uploaded(self) -> dict[str, int]:
        """Bytes on the device by kind."""
        weights = sum(b.size for b in self._weights.values())
        return {"weights": weights, "activations": sum(b.size for b in self._arena)}
