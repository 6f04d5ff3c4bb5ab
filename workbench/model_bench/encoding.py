"""What it costs the CPU to record a step: a dispatch, the end of the pass, the command buffer, the submit.

The recorded work is greedy decoding of a real model, repeated in one pass until it has as many dispatches as asked
for. Recording is timed without executing anything; submitting and executing are timed apart. Cost is CPU time of
the recording thread, which other work on the machine does not inflate as it does wall time.

Overlap: a pass is submitted, passes are recorded for about half as long as it executes, then it is waited for. If
recording overlaps with execution, both together take hardly longer than execution alone.
"""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from workbench.errors import WorkbenchError
from workbench.runtime.step import Step

from .speed import load_average

PHASES = ("encode", "end_pass", "finish", "submit")


@dataclass(frozen=True)
class Encoding:
    """dispatches: of one pass, of `steps` decode steps. Samples in seconds, one a repetition: CPU time of the
    recording thread by phase, and wall times: of one pass from its submit until it is done (`execute`), until the
    submit alone returned (`returned`), of recording alone (`record`, as often as in `both`), and of execution and
    recording at once (`both`)."""

    dispatches: int
    steps: int
    cpu: dict[str, tuple[float, ...]]
    execute: tuple[float, ...]
    returned: tuple[float, ...]
    record: tuple[float, ...]
    both: tuple[float, ...]
    device: str
    load_average: float | None

    def microseconds(self, phase: str) -> float:
        """Median CPU time of a phase in microseconds a dispatch."""
        return 1e6 * statistics.median(self.cpu[phase]) / self.dispatches

    @property
    def recorded(self) -> tuple[float, float]:
        """Encoding, ending the pass and finishing the command buffer together: (median, least) microseconds of CPU
        time a dispatch. Other load, which shares caches and cores, touches the least least."""
        sums = [sum(parts) for parts in zip(*(self.cpu[p] for p in PHASES[:3]), strict=True)]
        return 1e6 * statistics.median(sums) / self.dispatches, 1e6 * min(sums) / self.dispatches

    @property
    def hidden(self) -> float:
        """Share of the recording time that disappears behind execution: 1 overlaps fully, 0 not at all.

        From the least times of each kind. A software adapter executes on the cores that record, so there the
        share falls with the load of the machine.
        """
        execute, record, both = map(min, (self.execute, self.record, self.both))
        return min(1.0, max(0.0, (execute + record - both) / record))

    def to_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "microseconds_a_dispatch": {phase: self.microseconds(phase) for phase in PHASES},
            "microseconds_recorded": {"median": self.recorded[0], "least": self.recorded[1]},
            "hidden": self.hidden,
        }

    def summary(self) -> str:
        """A few lines to print."""
        samples = (self.execute, self.returned, self.record, self.both)
        execute, returned, record, both = (1e3 * min(x) for x in samples)
        median, least = self.recorded
        phases = ", ".join(f"{phase.replace('_', ' ')} {self.microseconds(phase):.2f}" for phase in PHASES)
        return (
            f"{self.dispatches} dispatches ({self.steps} decode steps) on {self.device}\n"
            f"recorded: {median:.2f} us of CPU time a dispatch (least {least:.2f}; {phases})\n"
            f"overlap: execution {execute:.2f} ms (the submit returns after {returned:.2f} ms), "
            f"recording {record:.2f} ms, both at once {both:.2f} ms: {self.hidden:.0%} of the recording is hidden"
        )


def measure_encoding(model: Any, dispatches: int = 300, repetitions: int = 100) -> Encoding:
    """Cost of recording decode steps of a model loaded through WGSL, in passes of about `dispatches`.

    Raises WorkbenchError if the model runs through the references, which record nothing.
    """
    if model.backend != "wgpu":
        raise WorkbenchError("encoding: the references record nothing; this needs a WebGPU adapter")
    from workbench.runtime.wgpu_executor import STEPS

    executor = model.executor
    cache = executor.new_cache(model.max_tokens)
    try:
        device = executor.device
        recorder = executor.recorder("greedy", 1, cache, ())
        steps = max(1, min(round(dispatches / len(recorder)), STEPS, cache.capacity))
        bench = _Bench(executor, cache, recorder, steps)
        load = load_average()
        for _ in range(3):
            bench.execute(bench.record())
        cpu: dict[str, list[float]] = {phase: [] for phase in PHASES}
        for _ in range(repetitions):
            for phase, seconds in bench.recording_times().items():
                cpu[phase].append(seconds)
        few = max(5, repetitions // 10)
        returned = []
        for _ in range(few):
            buffer = bench.record()
            began, thread = time.perf_counter(), time.thread_time()
            device.wgpu.queue.submit([buffer])
            cpu["submit"].append(time.thread_time() - thread)
            returned.append(time.perf_counter() - began)
            bench.wait()
        execute, record, both = [], [], []
        one = min(_seconds(bench.record) for _ in range(few))
        alone = min(_seconds(bench.execute, bench.record()) for _ in range(few))
        times = max(1, math.ceil(alone / 2 / one))
        for _ in range(2 * few):  # in turns, so that other load meets all three alike
            execute.append(_seconds(bench.execute, bench.record()))
            record.append(_seconds(bench.record, times))
            both.append(_seconds(bench.execute, bench.record(), times))
    finally:
        executor.free_cache(cache)
    return Encoding(
        len(recorder) * steps,
        steps,
        {phase: tuple(samples) for phase, samples in cpu.items()},
        tuple(execute),
        tuple(returned),
        tuple(record),
        tuple(both),
        model.device_name,
        load,
    )


class _Bench:
    """Passes of `steps` decode steps from the first position."""

    def __init__(self, executor: Any, cache: Any, recorder: Any, steps: int):
        self.executor, self.cache, self.recorder, self.steps = executor, cache, recorder, steps
        self.device = executor.device

    def recording_times(self) -> dict[str, float]:
        """CPU seconds by phase of one pass that is thrown away."""
        marks = [time.thread_time()]
        encoder = self.device.wgpu.create_command_encoder()
        compute = encoder.begin_compute_pass()
        for _ in range(self.steps):
            self.recorder.encode(compute)
        marks.append(time.thread_time())
        compute.end()
        marks.append(time.thread_time())
        encoder.finish()
        marks.append(time.thread_time())
        return {phase: b - a for phase, a, b in zip(PHASES, marks[:-1], marks[1:], strict=False)}

    def record(self, times: int = 1) -> Any:
        """Record a pass so many times; the last command buffer."""
        for _ in range(times):
            encoder = self.device.wgpu.create_command_encoder()
            compute = encoder.begin_compute_pass()
            for _ in range(self.steps):
                self.recorder.encode(compute)
            compute.end()
            buffer = encoder.finish()
        return buffer

    def execute(self, buffer: Any, record_meanwhile: int = 0) -> None:
        """Submit, record further passes meanwhile, and wait until the submitted one is done."""
        self.cache.position = 0
        self.executor.write_inputs(self.cache, 1, Step.following(np.array([0]), 0))
        self.device.wgpu.queue.submit([buffer])
        if record_meanwhile:
            self.record(record_meanwhile)
        self.wait()

    def wait(self) -> None:
        self.device.read(self.cache.buffers["history"], np.uint32, 1)


def _seconds(function: Any, *arguments: Any) -> float:
    began = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - began
