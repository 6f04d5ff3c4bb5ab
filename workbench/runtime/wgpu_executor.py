"""Runs a model's plans on a WebGPU device, as programs.

Weights are uploaded once, part by part, and shared by all programs; the buffers of activations are shared too, so one
step runs at a time. A plan is lowered, linked, compiled and bound once for each (head, number of tokens, kept names);
after that a step is a few writes, one compute pass and the readback of its results. Where activations are edited in
flight, the pass ends behind each of them, and goes on when Python has put the replacement there.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import wgpu

from wgsl_kernels.library import Library
from workbench.errors import OutOfMemoryError
from workbench.models.architecture import Architecture
from workbench.models.blocks import cache_type
from workbench.models.source import Source
from workbench.plan.count import plane_bytes
from workbench.plan.plan import Buffer, Ring, step_sizes

from .cache import Cache
from .copies import copy_on_device, planes_of
from .device import Device
from .device_rows import DeviceRows
from .edits import Edits, check_edits, refuse_inside, replacement, stops
from .executor import Sequential
from .link import UNIFORM, program_of
from .lowering import Choice, DevicePlan, lower
from .native import Recorder
from .pipelines import Built
from .plans import Plans
from .player import Player
from .program import Program
from .sampling import Drawn
from .step import Step, padded
from .streaming import Readbacks, greedy_rows, stream

#: Tokens a step: prompts are cut into these. Padding the last piece costs time, more steps cost time too.
CHUNKS = (256, 64, 16, 4, 1)
#: Rows a step where they are of several sequences: each generates one token in most steps.
BATCHES = (1024, 256, 64, 32, 16, 8, 4, 1)
#: Steps of one readback at most, when tokens are generated.
STEPS = 16


def chunk_sizes(
    config: Architecture, binding_bytes: int, sizes: tuple[int, ...] | None = None
) -> tuple[int, ...]:
    """Those of `sizes` (default: `CHUNKS`) whose widest activation, in f32, fits into a binding; one token always."""
    return tuple(size for size in sizes or CHUNKS if size == 1 or 4 * size * config.widest <= binding_bytes)


class WgpuCache(Cache):
    """Keys and values of some sequences and the buffers that a step reads: ids, targets, state."""

    def __init__(self, capacity: int, sequences: int = 1, rings: Sequence[Ring] = (), adapter: int = 0):
        super().__init__(capacity, sequences, rings, adapter)
        self.buffers: dict[str, wgpu.GPUBuffer] = {}
        self.seen_words = 0
        self.recorders: dict[
            tuple, tuple[int, Recorder]
        ] = {}  # with the arena's generation they were bound to


@dataclass
class _Ready:
    """A lowered plan, its program, and the program's pipelines."""

    plan: DevicePlan
    program: Program
    built: list[Built]


class WgpuExecutor(Sequential):
    """Executes plans of one model on one device."""

    backend = "wgpu"

    def __init__(
        self,
        source: Source,
        config: Architecture,
        device: Device,
        *,
        activations: str = "f32",
        cache: str | None = None,
        ring: Ring | None = None,
        tuned: Choice | None = None,
        library: Library | None = None,
    ):
        self.source, self.config, self.device, self.activations = source, config, device, activations
        self.cache = cache or cache_type(activations)
        self.tuned, self.library = tuned, library
        self.chunks = chunk_sizes(config, device.binding_bytes)
        self.batches = chunk_sizes(config, device.binding_bytes, BATCHES)
        self.plan = Plans(source, config, activations, self.cache, ring)
        self._ready: dict[tuple, _Ready] = {}
        self.player = Player(device, source)
        self.steps, self.readbacks = STEPS, Readbacks(device)
        #: Steps of a group of the last stream, by head and rows.
        self.paces: dict[tuple[str, int], int] = {}

    @property
    def device_name(self) -> str:
        return self.device.name

    def with_ring(self, ring: Ring | None) -> WgpuExecutor:
        """See `Executor.with_ring`."""
        return self.with_plans(Plans(self.source, self.config, self.activations, self.cache, ring))

    def with_plans(self, plans: Plans) -> WgpuExecutor:
        """The same weights, held once, in other plans of theirs."""
        other = copy.copy(self)
        other.plan = plans
        other.player, other._ready = Player(self.device, self.source, self.player.weights), {}
        other.readbacks, other.paces = Readbacks(self.device), {}
        return other

    def new_cache(self, capacity: int, sequences: int = 1) -> WgpuCache:
        """Allocate keys and values of `capacity` positions of each sequence in every layer, or those that its ring has
        slots for. Raises `OutOfMemoryError`, also where those of a layer are more than a binding holds."""
        cache = WgpuCache(capacity, sequences, self.plan("all").rings, self.config.adapter())
        most = self._sizes(cache)[0]
        sizes = step_sizes(most, capacity, sequences=sequences, results=sequences, steps=STEPS)
        try:
            for buffer in self.plan("all").of_kind("cache"):
                for plane, size in plane_bytes(buffer, sizes).items():
                    self._require_binding(plane, size, cache)
                    cache.buffers[plane] = self.device.buffer(size, label=plane)
            for name, buffer in self.inputs().items():
                words = int(np.prod(buffer.resolved(sizes)))
                cache.buffers[name] = self.device.buffer(4 * words, uniform=name in UNIFORM, label=name)
            cache.seen_words = self.inputs()["seen"].columns
        except Exception:
            self.free_cache(cache)
            raise
        return cache

    def _require_binding(self, plane: str, size: int, cache: WgpuCache) -> None:
        if size > self.device.binding_bytes:
            raise OutOfMemoryError(
                f"{plane} of {cache.sequences} sequence(s) of {cache.capacity} positions takes {size} bytes, "
                f"{size // (cache.sequences * cache.capacity)} a position, and a binding of {self.device.name} holds "
                f"{self.device.binding_bytes}; ask for fewer sequences or a smaller max_tokens"
            )

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

    def copy_sequence(self, cache: WgpuCache, source: int, target: int, count: int) -> None:
        """See `Executor.copy_sequence`."""
        planes = planes_of(self.plan("all"), cache)
        copy_on_device(self.device, cache.buffers, planes, source, target, count)

    def chunk(self, remaining: int, cache: WgpuCache | None = None) -> int:
        """How many of the remaining tokens the next step takes; it is padded if that wastes a quarter at most."""
        size = next(size for size in self._sizes(cache) if 3 * size <= 4 * remaining)
        return min(size, remaining)

    def _sizes(self, cache: WgpuCache | None) -> tuple[int, ...]:
        """Rows that programs for a cache have."""
        return self.chunks if cache is None or cache.sequences == 1 else self.batches

    def run_step(
        self,
        head: str,
        step: Step,
        cache: WgpuCache,
        targets: np.ndarray | None = None,
        keep: Iterable[str] = (),
        edit: Edits | None = None,
        hold: Iterable[str] = (),
    ) -> dict[str, np.ndarray | DeviceRows]:
        """One step over at most `chunks[0]` rows.

        Returns the plan's results and the kept activations, of the plan or of the device's, without padding rows. edit:
        functions that change activations in flight (`workbench.runtime.edits`); raises `EditError` and
        `CacheFullError`. hold: activations that are handed out as rows where they are, until the next step
        (`holding`).
        """
        keep, hold = tuple(keep), self.plan(head).check_names(hold)
        edited = check_edits(self.plan(head), edit)
        untouched = tuple(dict.fromkeys((*keep, *edited, *hold)))  # neither fused away nor overwritten
        valid, size = len(step), self.size_of(step, cache)
        with self.device.lock:
            refuse_inside(self)
            cache.take(step)
            recorder = self.recorder(head, size, cache, untouched)
            ready = self._ready[self._key(head, size, cache, untouched)]
            self.write_inputs(cache, size, step, targets)
            if edited:
                self._submit_edited(ready, recorder, edited, cache, step)
            else:
                self._submit(recorder, f"{head}, {size} token(s)")
            names = tuple(dict.fromkeys((*self.plan(head).results, *keep)))
            results = dict(zip(names, self._read(ready, names, step), strict=True))
            results |= {name: self._rows(ready, name, valid) for name in hold}
        return results

    def size_of(self, step: Step, cache: WgpuCache) -> int:
        """How many rows the program has that runs a step: padding makes up for the difference."""
        return min(size for size in self._sizes(cache) if size >= len(step))

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

    def greedy_rows(self, step: Step, count: int, cache: WgpuCache) -> np.ndarray:
        """See `Executor.greedy_rows`."""
        return greedy_rows(self, step, count, cache)

    # ---- preparing -------------------------------------------------------------------------------------------

    def recorder(self, head: str, size: int, cache: WgpuCache, keep: tuple[str, ...]) -> Recorder:
        """The dispatches of one step, compiled and bound to a cache; made once. Hold `device.lock` while using it."""
        key = self._key(head, size, cache, keep)
        if key not in self._ready:
            self._ready[key] = self._compile(head, size, cache, keep)
        generation, recorder = cache.recorders.get(key, (-1, None))
        if recorder is None or generation != self.player.generation:
            ready = self._ready[key]
            recorder = self.player.record(ready.program, ready.built, cache.buffers)
            cache.recorders[key] = (self.player.generation, recorder)
        return recorder

    def device_plan(self, head: str, size: int, cache: WgpuCache, keep: tuple[str, ...]) -> DevicePlan:
        """The plan behind `recorder` of the same arguments: its steps are the recorder's dispatches."""
        self.recorder(head, size, cache, keep)
        return self._ready[self._key(head, size, cache, keep)].plan

    def lowered(
        self, head: str, size: int, capacity: int, keep: tuple[str, ...] = (), sequences: int = 1
    ) -> DevicePlan:
        """A plan of `size` tokens for this device, before anything of it is compiled."""
        results = min(size, sequences)
        sizes = step_sizes(size, capacity, sequences=sequences, results=results, steps=STEPS)
        adapter, most = self.device.adapter, self.device.binding_bytes
        return lower(self.plan(head), sizes, adapter, most, keep, self.tuned, self.library)

    def program(self, head: str, size: int, cache: WgpuCache, keep: tuple[str, ...] = ()) -> Program:
        """What `recorder` of the same arguments plays."""
        self.recorder(head, size, cache, keep)
        return self._ready[self._key(head, size, cache, keep)].program

    @staticmethod
    def _key(head: str, size: int, cache: WgpuCache, keep: tuple[str, ...]) -> tuple:
        return head, size, cache.capacity, cache.sequences, keep

    def _compile(self, head: str, size: int, cache: WgpuCache, keep: tuple[str, ...]) -> _Ready:
        plan = self.lowered(head, size, cache.capacity, keep, cache.sequences)
        program = program_of(plan, head, self.device.adapter, self.device.binding_bytes)
        return _Ready(plan, program, self.player.pipelines(program))

    # ---- running ---------------------------------------------------------------------------------------------

    def write_inputs(
        self, cache: WgpuCache, size: int, step: Step, targets: np.ndarray | None = None
    ) -> None:
        """What the next step, padded to `size` rows, reads beside the cache."""
        self.device.write(cache.buffers["ids"], padded(step.ids, size))
        self.write_state(cache, size, step)
        self.device.write(cache.buffers["result_rows"], padded(step.results, min(size, cache.sequences)))
        if targets is not None:
            self.device.write(cache.buffers["targets"], padded(targets, size))

    def write_state(self, cache: WgpuCache, size: int, step: Step) -> None:
        """Where the rows of the next step, padded to `size`, stand."""
        self.device.write(cache.buffers["state"], step.state(size, cache.adapters))

    def _submit(self, recorder: Recorder, label: str) -> None:
        """One pass in a submit of its own. label: of the pass."""
        with self.device.errors():
            encoder = self.device.wgpu.create_command_encoder()
            compute = encoder.begin_compute_pass(label=label)
            recorder.encode(compute)
            compute.end()
            self.device.wgpu.queue.submit([encoder.finish()])

    def _submit_edited(
        self, ready: _Ready, recorder: Recorder, edits: Edits, cache: WgpuCache, step: Step
    ) -> None:
        """The step up to each edited activation, which is read, replaced and written back; then the rest."""
        start = 0
        for stop, name in stops([each.writes for each in ready.program.dispatches], edits):
            self._submit(recorder.between(start, stop), f"up to the edit of {name}")
            [x] = self._read(ready, [name], step)
            rows = step.results if self._by_result(ready, name) else slice(None)
            new = replacement(self, name, edits, x, step.places(rows), x.dtype)
            self.device.write(self.player.buffer_of(ready.program, name), new)
            start = stop
        self._submit(recorder.between(start, len(recorder)), "after the last edit")

    def _by_result(self, ready: _Ready, name: str) -> bool:
        return ready.plan.plan.arrays[name][1][0] == "results"

    def _read(self, ready: _Ready, names: Sequence[str], step: Step) -> list[np.ndarray]:
        """Activations by name, without rows of padding."""
        found = self.player.read(ready.program, names, len(step))
        wanted = len(step.results)
        return [
            array[:wanted] if self._by_result(ready, name) else array
            for name, array in zip(names, found, strict=True)
        ]

    def _rows(self, ready: _Ready, name: str, valid: int) -> DeviceRows:
        """An activation as rows where it is."""
        value = ready.program.values[name]
        buffer = self.player.buffer_of(ready.program, name)
        return DeviceRows(self.device, buffer, value.shape, value.dtype, min(valid, value.shape[0]))

    def holding(self) -> AbstractContextManager:
        """While this is held, no other thread's step overwrites what `run` handed out."""
        return self.device.lock

    def uploaded(self) -> dict[str, int]:
        """Bytes on the device by kind."""
        return self.player.uploaded()
