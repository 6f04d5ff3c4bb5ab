"""Timing one decode step, undivided and dispatch by dispatch, on a GPU whose clock is awake.

An idle GPU runs at a fraction of its frequency, and a step of two milliseconds is over before it has noticed. So both
ways of running the step take turns as the candidates of `workbench.runtime.rounds` do: before each sample the same
step keeps the device busy for a while, and before the first one until the frequency has settled.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import wgpu

from workbench.runtime import native
from workbench.runtime.frequency import Frequency
from workbench.runtime.native import Recorder
from workbench.runtime.rounds import Candidate, interleave
from workbench.runtime.timing import CPU_WARM, GPU_PASS, GPU_WARM, TIMESTAMPS, WALL, Stopwatch


@dataclass(frozen=True)
class StepTimes:
    """whole_s: median of the undivided step. starts, seconds: of each dispatch, medians, from the step's begin; f64
    [dispatches]. mhz: the GPU's frequency right after each sample, empty where nothing tells it."""

    whole_s: float
    starts: np.ndarray
    seconds: np.ndarray
    repetitions: int
    mhz: tuple[float, ...]


class Divided(Candidate, Protocol):
    """A step whose `sample` adds (start, seconds) of each dispatch to `spans`, f64 [dispatches, 2]."""

    spans: list[np.ndarray]


def time_step(whole: Candidate, divided: Divided, repetitions: int, frequency: Frequency | None) -> StepTimes:
    """Both in turns. A step that is slow is repeated less often, three times at least (see `rounds`)."""
    divided.spans.clear()
    wholes, parts = interleave([whole, divided], repetitions, frequency)
    starts, seconds = np.median(np.array(divided.spans), axis=0).T
    return StepTimes(
        statistics.median(each for each, _ in wholes),
        starts,
        seconds,
        len(parts),
        tuple(mhz for _, mhz in (*wholes, *parts) if mhz is not None),
    )


class Whole:
    """The step as it runs in earnest: all dispatches in one pass."""

    def __init__(self, watch: Stopwatch, recorder: Recorder):
        self._watch, self._recorder, self._repeats = watch, recorder, 1
        self.warm = CPU_WARM if watch.device.adapter.is_cpu else GPU_WARM
        self.busy(self.warm)
        self.span = watch.seconds(recorder, 1)
        if self.span <= 0 and watch.clock == TIMESTAMPS:  # some drivers have queries that never tick
            watch.clock = WALL
            self.span = watch.seconds(recorder, 1)
        # As many steps between two waits as last long enough for the device to have no pause.
        self._repeats = max(1, min(100, round(GPU_PASS / max(self.span, 1e-9))))

    def busy(self, seconds: float) -> None:
        self._watch.busy(self._recorder, self._repeats, seconds)

    def sample(self) -> float:
        return self._watch.seconds(self._recorder, 1)


class Apart:
    """The same dispatches, each for itself: a pass a dispatch stamped at both ends, or without timestamp queries a
    submit a dispatch and the wait for it."""

    def __init__(self, watch: Stopwatch, whole: Whole, recorder: Recorder, labels: list[str]):
        self._watch, self._whole, self._recorder = watch, whole, recorder
        self._parts, self._labels = recorder.apart(), labels
        self.span, self.warm, self.busy = whole.span, whole.warm, whole.busy
        self.spans: list[np.ndarray] = []
        self._read = self._stamps if watch.clock == TIMESTAMPS else self._walls
        if watch.clock == TIMESTAMPS:
            device, count = watch.device.wgpu, 2 * len(self._parts)
            self._queries = device.create_query_set(type=wgpu.QueryType.timestamp, count=count)
            usage = wgpu.BufferUsage.QUERY_RESOLVE | wgpu.BufferUsage.COPY_SRC
            self._resolved = device.create_buffer(label="timestamps", size=8 * count, usage=usage)
            self._period = native.timestamp_period(device) * 1e-9

    def sample(self) -> float:
        self.spans.append(self._read())
        return float(self.spans[-1][:, 1].sum())

    def _stamps(self) -> np.ndarray:
        watch, count = self._watch, len(self._parts)
        encoder = watch.device.wgpu.create_command_encoder(label="profiled step")
        for at, (part, label) in enumerate(zip(self._parts, self._labels, strict=True)):
            writes = {
                "query_set": self._queries,
                "beginning_of_pass_write_index": 2 * at,
                "end_of_pass_write_index": 2 * at + 1,
            }
            compute = encoder.begin_compute_pass(label=label, timestamp_writes=writes)
            part.encode(compute)
            compute.end()
        encoder.resolve_query_set(self._queries, 0, 2 * count, self._resolved, 0)
        watch.submit(watch.encode(self._recorder, 1))
        watch.submit(encoder.finish())
        data: Any = watch.device.wgpu.queue.read_buffer(self._resolved, 0, 16 * count)
        ticks = np.frombuffer(data, np.uint64).reshape(-1, 2).astype(np.int64)
        return np.stack([ticks[:, 0] - ticks[0, 0], ticks[:, 1] - ticks[:, 0]], 1) * self._period

    def _walls(self) -> np.ndarray:
        now: Callable[[], float] = time.perf_counter
        began, spans = now(), []
        for part in self._parts:
            start = now() - began
            spans.append((start, self._watch.seconds(part, 1)))
        return np.array(spans)
