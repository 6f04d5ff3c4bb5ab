"""Where the time of one decode step goes: every dispatch with its place on the device's own clock.

With timestamp queries each dispatch is a compute pass of its own that stamps its two ends. This keeps neighbours from
overlapping, so the sum is compared with `whole_s`, the step as it is normally run, in one pass. Without them each
dispatch is submitted and waited for alone, which measures the way to the device and back as well. The GPU's clock is
woken before each sample (see `step_timing`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from workbench.errors import WorkbenchError
from workbench.runtime.frequency import frequency_of
from workbench.runtime.step import Step
from workbench.runtime.timing import TIMESTAMPS, Stopwatch
from workbench.show.table import Table

from .step_timing import Apart, Whole, time_step

#: Frequencies count as one if they differ by less.
STEADY = 1.05


@dataclass(frozen=True)
class Dispatch:
    """One dispatch of a step. start_s, seconds: medians over the repetitions, from the step's begin. bytes: that must
    move at least, by the kernel's cost model; None where that depends on how full the cache is."""

    output: str
    kernel: str
    variant: str
    reason: str
    start_s: float
    seconds: float
    bytes: float | None


@dataclass(frozen=True)
class StepProfile:
    """One decode step of a model with `position` tokens in the cache. whole_s: the same step undivided, as it runs in
    earnest; `sum_s`: all dispatches apart. mhz: the GPU's frequency beside the samples, empty where nothing tells."""

    dispatches: tuple[Dispatch, ...] = field(repr=False)
    whole_s: float
    position: int
    clock: str
    repetitions: int
    device: str
    on_cpu: bool
    mhz: tuple[float, ...] = ()

    @property
    def sum_s(self) -> float:
        return sum(each.seconds for each in self.dispatches)

    def by_kernel(self) -> list[dict[str, Any]]:
        """kernel, variant, count, seconds, share and GB/s of all dispatches of a kernel and variant, longest first."""
        groups: dict[tuple[str, str], list[Dispatch]] = {}
        for each in self.dispatches:
            groups.setdefault((each.kernel, each.variant), []).append(each)
        rows = []
        for (kernel, variant), found in groups.items():
            seconds = sum(each.seconds for each in found)
            counted = [each.bytes for each in found if each.bytes is not None]
            moved = sum(counted) if len(counted) == len(found) else None
            rows.append(
                {
                    "kernel": kernel,
                    "variant": variant,
                    "count": len(found),
                    "seconds": seconds,
                    "share": seconds / self.sum_s,
                    "gb_per_s": moved / seconds / 1e9 if moved is not None and seconds > 0 else None,
                }
            )
        return sorted(rows, key=lambda row: -row["seconds"])

    def notes(self) -> str:
        """How it was measured, in a sentence."""
        label = "CPU" if self.on_cpu else "GPU"
        how = (
            "device timestamps at the ends of every dispatch"
            if self.clock == TIMESTAMPS
            else "wall clock, each dispatch submitted and waited for alone, the way to the device included"
        )
        return (
            f"{len(self.dispatches)} dispatches, {1e3 * self.sum_s:.3f} ms in all apart, {1e3 * self.whole_s:.3f} ms "
            f"undivided; {self.position} tokens in the cache; median of {self.repetitions}; {how} ({label}"
            f"{self._clock()})"
        )

    def _clock(self) -> str:
        """What the GPU ran at, where something tells."""
        if not self.mhz:
            return ""
        low, high = min(self.mhz), max(self.mhz)
        return (
            f" at {high:.0f} MHz" if high <= low * STEADY else f" at {low:.0f} to {high:.0f} MHz: not steady"
        )

    def trace(self, process: int = 1, name: str = "") -> list[dict[str, Any]]:
        """The step as events of a trace; see `workbench.model_bench.trace`."""
        from .trace import step_events

        return step_events(self, process, name)

    def plot(self) -> Any:
        """A `Picture`: the dispatches in order, as long as they last."""
        from workbench.show.figures import COLOURS, Picture

        picture = Picture(8.6, 2.6)
        axes = picture.axes[0]
        rows = self.by_kernel()
        for index, row in enumerate(rows):
            own = [d for d in self.dispatches if (d.kernel, d.variant) == (row["kernel"], row["variant"])]
            bars = [(1e3 * d.start_s, 1e3 * d.seconds) for d in own]
            axes.broken_barh(bars, (len(rows) - index - 0.9, 0.8), color=COLOURS[index % len(COLOURS)])
        axes.set_yticks(
            [len(rows) - i - 0.5 for i in range(len(rows))], [row["kernel"] for row in rows], fontsize=7.5
        )
        axes.set(xlabel=f"ms; {self.device}")
        axes.xaxis.label.set_size(8)
        return picture

    def _repr_html_(self) -> str:
        head = ("kernel", "variant", "dispatches", "ms", "share", "GB/s")
        body = [
            [
                row["kernel"],
                row["variant"],
                str(row["count"]),
                f"{1e3 * row['seconds']:.3f}",
                f"{row['share']:.1%}",
                "–" if row["gb_per_s"] is None else f"{row['gb_per_s']:.1f}",
            ]
            for row in self.by_kernel()
        ]

        for what, seconds in (("all of them, apart", self.sum_s), ("the step, undivided", self.whole_s)):
            body.append([what, "", str(len(self.dispatches)), f"{1e3 * seconds:.3f}", "", ""])
        return Table(head, body, "llr", self.notes()).html()


def profile_step(model: Any, position: int = 64, repetitions: int = 7, sequences: int = 1) -> StepProfile:
    """Time each dispatch of one decode step on the model's device.

    position: tokens in the cache of each of the `sequences`; their keys are zeros, which takes no less time.
    Raises `WorkbenchError` for the torch backend, which dispatches nothing, and for a position beyond the cache.
    """
    if model.backend != "wgpu":
        raise WorkbenchError("only the wgpu backend has dispatches; load the model with backend='wgpu'")
    if not 0 <= position < model.max_tokens or repetitions < 1:
        raise WorkbenchError(
            f"position is from 0 to {model.max_tokens - 1} and repetitions at least 1, not {position}, {repetitions}"
        )
    executor = model.executor
    device = executor.device
    cache = executor.new_cache(model.max_tokens, sequences)
    rows = np.arange(sequences)
    step = Step(0 * rows, position + 0 * rows, rows)
    size = executor.size_of(step, cache)
    try:
        with device.lock, device.errors():
            recorder = executor.recorder("greedy", size, cache, ())
            plan = executor.device_plan("greedy", size, cache, ())

            def prepare() -> None:  # a step moves its own position on
                executor.write_inputs(cache, size, step)

            outputs = [next(iter(step.call.outputs.values())) for step in plan.steps]
            with Stopwatch(device, prepare=prepare) as watch:
                whole = Whole(watch, recorder)
                apart = Apart(watch, whole, recorder, outputs)
                times = time_step(whole, apart, repetitions, frequency_of(device.info["device"]))
    finally:
        executor.free_cache(cache)
    dispatches = []
    for step, output, start, took in zip(plan.steps, outputs, times.starts, times.seconds, strict=True):
        sizes = step.kernel.complete(step.sizes)
        bytes_ = None if "capacity" in sizes else float(step.kernel.cost(sizes).bytes)
        dispatches.append(
            Dispatch(output, step.kernel.name, step.variant, step.reason, float(start), float(took), bytes_)
        )
    return StepProfile(
        tuple(dispatches),
        times.whole_s,
        position,
        watch.clock,
        times.repetitions,
        device.name,
        device.adapter.is_cpu,
        times.mhz,
    )
