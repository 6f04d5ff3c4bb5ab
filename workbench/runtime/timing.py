"""Seconds a dispatch takes: several recorded sequences timed in turns, each warm.

A pass repeats one sequence until it lasts long enough for the clock; its last warm pass is submitted together with
the timed one (see rounds.py for the rest of it).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import wgpu

from workbench.known import known

from . import native
from .device import Device
from .frequency import frequency_of
from .native import Recorder
from .rounds import Candidate, interleave

TIMESTAMPS = "timestamp query"
WALL = "wall"
#: How long the timed sequence runs before each sample.
GPU_WARM, CPU_WARM = 0.15, 0.005
#: About how long a timed pass lasts.
GPU_PASS, CPU_PASS = 0.01, 0.02
MOST_DISPATCHES = 3000


@dataclass(frozen=True)
class Timing:
    """samples: seconds of one dispatch, one a round. dispatches: of a timed pass, whose time was divided by it.

    clock: `TIMESTAMPS` (the device's own, ticks times period, at the ends of the pass) or `WALL` (from the submit until
    a readback behind it has returned). warm: seconds of the same work before each sample. mhz: the GPU's frequency
    right after each sample, empty where nothing tells it.
    """

    samples: tuple[float, ...]
    dispatches: int
    clock: str
    warm: float
    mhz: tuple[float, ...] = ()

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def spread(self) -> tuple[float, float]:
        """The least and the greatest sample."""
        return min(self.samples), max(self.samples)


class Stopwatch:
    """Times passes on one device, by timestamp queries where it has them; use as a context manager.

    prepare: called before each run of a sequence that changes its own inputs, to write them anew. A sequence is then a
    submit of its own each time it runs.
    """

    def __init__(
        self, device: Device, *, timestamps: bool | None = None, prepare: Callable[[], None] | None = None
    ):
        self.device, self._prepare = device, prepare
        self._witness = device.buffer(16, label="witness")
        self._queries: wgpu.GPUQuerySet | None = None
        self._resolved: wgpu.GPUBuffer | None = None
        self.clock = WALL
        if timestamps is not False and "timestamp-query" in device.features:
            self._queries = device.wgpu.create_query_set(type=wgpu.QueryType.timestamp, count=2)
            usage = wgpu.BufferUsage.QUERY_RESOLVE | wgpu.BufferUsage.COPY_SRC
            self._resolved = device.wgpu.create_buffer(size=16, usage=usage)
            self._period = native.timestamp_period(device.wgpu) * 1e-9
            self.clock = TIMESTAMPS

    def __enter__(self) -> Stopwatch:
        return self

    def __exit__(self, *_) -> None:
        self.device.release(self._witness)
        if self._resolved is not None:
            self._resolved.destroy()

    def encode(self, recorder: Recorder, repeats: int, *, stamped: bool = False) -> wgpu.GPUCommandBuffer:
        """The sequence, repeated in one pass."""
        encoder = self.device.wgpu.create_command_encoder()
        writes = None
        if stamped:
            # Both slots are written by the pass: resolving one that was never written hangs the queue.
            writes = {
                "query_set": self._queries,
                "beginning_of_pass_write_index": 0,
                "end_of_pass_write_index": 1,
            }
        compute = encoder.begin_compute_pass(label="timed", timestamp_writes=writes)
        for _ in range(repeats):
            recorder.encode(compute)
        compute.end()
        if stamped:
            encoder.resolve_query_set(known(self._queries), 0, 2, known(self._resolved), 0)
        return encoder.finish()

    def submit(self, commands: wgpu.GPUCommandBuffer) -> None:
        """Let the device run what `prepare` belongs in front of."""
        if self._prepare is not None:
            self._prepare()
        self.device.wgpu.queue.submit([commands])

    def _wait(self) -> None:
        self.device.read(self._witness, np.uint32, 1)

    def busy(self, recorder: Recorder, repeats: int, seconds: float) -> None:
        """Run the sequence for at least so many seconds, once at least."""
        until = time.perf_counter() + seconds
        while True:
            if self._prepare is None:
                self.device.wgpu.queue.submit([self.encode(recorder, repeats)])
            else:
                for _ in range(repeats):
                    self.submit(self.encode(recorder, 1))
            self._wait()
            if time.perf_counter() >= until:
                return

    def seconds(self, recorder: Recorder, repeats: int) -> float:
        """Of one pass with the sequence repeated so often."""
        lead = self.encode(recorder, 1)
        if self.clock == TIMESTAMPS:
            timed = self.encode(recorder, repeats, stamped=True)
            if self._prepare is None:
                self.device.wgpu.queue.submit([lead, timed])
            else:
                self.submit(lead)
                self.submit(timed)
            data: Any = self.device.wgpu.queue.read_buffer(known(self._resolved), 0, 16)
            ticks = np.frombuffer(data, np.uint64)
            return (int(ticks[1]) - int(ticks[0])) * self._period
        timed = self.encode(recorder, repeats)
        self.submit(lead)
        self._wait()
        began = time.perf_counter()
        self.submit(timed)
        self._wait()
        return time.perf_counter() - began


class Repeated:
    """A candidate: one recorded sequence, repeated in a pass until that lasts long enough for the clock."""

    def __init__(self, watch: Stopwatch, recorder: Recorder):
        is_cpu = watch.device.adapter.is_cpu
        self.warm, wanted = (CPU_WARM, CPU_PASS) if is_cpu else (GPU_WARM, GPU_PASS)
        self._watch, self._recorder = watch, recorder
        watch.busy(recorder, 1, self.warm)
        once = watch.seconds(recorder, 1)
        if once <= 0 and watch.clock == TIMESTAMPS:
            watch.clock = WALL
            once = watch.seconds(recorder, 1)
        most = max(1, MOST_DISPATCHES // len(recorder))
        self._repeats = min(most, max(1, round(wanted / max(once, 1e-9))))
        self.span = once
        self.calls = self._repeats * len(recorder)

    @property
    def clock(self) -> str:
        return self._watch.clock

    def busy(self, seconds: float) -> None:
        self._watch.busy(self._recorder, self._repeats, seconds)

    def sample(self) -> float:
        return self._watch.seconds(self._recorder, self._repeats) / self.calls


class Timed(Candidate, Protocol):
    """A candidate that says how its samples were made."""

    calls: int

    @property
    def clock(self) -> str:
        """The name of the clock. calls: in one sample."""
        ...


def measure(
    device: Device,
    recorders: Sequence[Recorder],
    *,
    rounds: int,
    timestamps: bool | None = None,
    beside: Sequence[Timed] = (),
) -> list[Timing]:
    """Time each sequence of dispatches in `rounds` interleaved rounds; seconds of one dispatch of it.

    A sequence that is slow takes part in fewer rounds, three at least. beside: others that take their turns in the
    same rounds; their timings follow.
    timestamps: False forces the wall clock; otherwise timestamp queries are used where the device has them and they
    tick. Raises `DeviceLostError`.
    """
    with device.errors(), Stopwatch(device, timestamps=timestamps) as watch:
        candidates: list[Timed] = [*(Repeated(watch, each) for each in recorders), *beside]
        samples = interleave(candidates, rounds, frequency_of(device.info["device"]))
    return [
        Timing(
            tuple(seconds for seconds, _ in found),
            each.calls,
            each.clock,
            each.warm,
            tuple(mhz for _, mhz in found if mhz is not None),
        )
        for each, found in zip(candidates, samples, strict=True)
    ]
