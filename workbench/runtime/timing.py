"""Seconds a dispatch takes: several recorded sequences timed in turns, each warm.

A pass repeats one sequence until it lasts long enough for the clock. Rounds are interleaved, so that a clock that
drifts or other load meets all sequences alike. An idle GPU runs at a fraction of its frequency, so the sequence that
is about to be timed first keeps it busy, and its last warm pass is submitted together with the timed one.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import wgpu

from . import native
from .device import Device
from .native import Recorder

TIMESTAMPS = "timestamp query"
WALL = "wall"
#: How long the timed sequence runs before each sample.
GPU_WARM, CPU_WARM = 0.15, 0.005
#: About how long a timed pass lasts.
GPU_PASS, CPU_PASS = 0.01, 0.02
MOST_DISPATCHES = 3000
#: What is slow gets fewer rounds: about so many seconds of timed passes, but three rounds at least.
ENOUGH, FEWEST = 1.0, 3


@dataclass(frozen=True)
class Timing:
    """samples: seconds of one dispatch, one a round. dispatches: of a timed pass, whose time was divided by it.

    clock: `TIMESTAMPS` (the device's own, ticks times period, at the ends of the pass) or `WALL` (from the submit until
    a readback behind it has returned). warm: seconds of the same work before each sample.
    """

    samples: tuple[float, ...]
    dispatches: int
    clock: str
    warm: float

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def spread(self) -> tuple[float, float]:
        """The least and the greatest sample."""
        return min(self.samples), max(self.samples)


class Stopwatch:
    """Times passes on one device, by timestamp queries where it has them; use as a context manager."""

    def __init__(self, device: Device, *, timestamps: bool | None = None):
        self.device = device
        self._witness = device.buffer(16)
        self._queries = self._resolved = None
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

    def _encode(self, recorder: Recorder, repeats: int, *, stamped: bool = False) -> wgpu.GPUCommandBuffer:
        encoder = self.device.wgpu.create_command_encoder()
        writes = None
        if stamped:
            # Both slots are written by the pass: resolving one that was never written hangs the queue.
            writes = {
                "query_set": self._queries,
                "beginning_of_pass_write_index": 0,
                "end_of_pass_write_index": 1,
            }
        compute = encoder.begin_compute_pass(timestamp_writes=writes)
        for _ in range(repeats):
            recorder.encode(compute)
        compute.end()
        if stamped:
            encoder.resolve_query_set(self._queries, 0, 2, self._resolved, 0)
        return encoder.finish()

    def _wait(self) -> None:
        self.device.read(self._witness, np.uint32, 1)

    def busy(self, recorder: Recorder, repeats: int, seconds: float) -> None:
        """Run the sequence for at least so many seconds, once at least."""
        until = time.perf_counter() + seconds
        while True:
            self.device.wgpu.queue.submit([self._encode(recorder, repeats)])
            self._wait()
            if time.perf_counter() >= until:
                return

    def seconds(self, recorder: Recorder, repeats: int) -> float:
        """Of one pass with the sequence repeated so often."""
        lead = self._encode(recorder, 1)
        if self.clock == TIMESTAMPS:
            self.device.wgpu.queue.submit([lead, self._encode(recorder, repeats, stamped=True)])
            ticks = np.frombuffer(self.device.wgpu.queue.read_buffer(self._resolved, 0, 16), np.uint64)
            return (int(ticks[1]) - int(ticks[0])) * self._period
        timed = self._encode(recorder, repeats)
        self.device.wgpu.queue.submit([lead])
        self._wait()
        began = time.perf_counter()
        self.device.wgpu.queue.submit([timed])
        self._wait()
        return time.perf_counter() - began


def measure(
    device: Device, recorders: Sequence[Recorder], *, rounds: int, timestamps: bool | None = None
) -> list[Timing]:
    """Time each sequence of dispatches in `rounds` interleaved rounds; seconds of one dispatch of it.

    A sequence that is slow takes part in fewer rounds, three at least.
    timestamps: False forces the wall clock; otherwise timestamp queries are used where the device has them and they
    tick. Raises `DeviceLostError`.
    """
    warm, wanted = (CPU_WARM, CPU_PASS) if device.adapter.is_cpu else (GPU_WARM, GPU_PASS)
    with device.errors(), Stopwatch(device, timestamps=timestamps) as watch:
        repeats, taken, alone = [], [], []
        for recorder in recorders:
            watch.busy(recorder, 1, warm)
            once = watch.seconds(recorder, 1)
            if once <= 0 and watch.clock == TIMESTAMPS:
                watch.clock = WALL
                once = watch.seconds(recorder, 1)
            most = max(1, MOST_DISPATCHES // len(recorder))
            repeats.append(min(most, max(1, round(wanted / max(once, 1e-9)))))
            alone.append(once)
            taken.append(min(rounds, max(FEWEST, int(ENOUGH / max(once, 1e-9)))))
        samples: list[list[float]] = [[] for _ in recorders]
        for at in range(rounds):
            for index, (recorder, count) in enumerate(zip(recorders, repeats, strict=True)):
                if at >= taken[index]:
                    continue
                if alone[index] < warm:  # else the run in front of the timed one warms enough
                    watch.busy(recorder, count, warm)
                samples[index].append(watch.seconds(recorder, count) / (count * len(recorder)))
    return [
        Timing(tuple(each), count * len(recorder), watch.clock, warm)
        for each, count, recorder in zip(samples, repeats, recorders, strict=True)
    ]
