"""Where the time of one decode step goes: every dispatch with its place on the device's own clock.

With timestamp queries each dispatch is a compute pass of its own that stamps its two ends. This keeps neighbours from
overlapping, so the sum is compared with `whole_s`, the step as it is normally run, in one pass. Without them each
dispatch is submitted and waited for alone, which measures the way to the device and back as well.
"""

from __future__ import annotations

import html
import statistics
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import wgpu

from workbench.errors import WorkbenchError
from workbench.runtime import native
from workbench.runtime.timing import TIMESTAMPS, Stopwatch

#: Steps before the measured ones: the first compile, the next wake the clock.
WARM = 3


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
    """One decode step of a model with `position` tokens in the cache. whole_s: the same step undivided."""

    dispatches: tuple[Dispatch, ...] = field(repr=False)
    whole_s: float
    position: int
    clock: str
    repetitions: int
    device: str
    on_cpu: bool

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
            moved = None if any(each.bytes is None for each in found) else sum(each.bytes for each in found)
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
            f"undivided; {self.position} tokens in the cache; median of {self.repetitions}; {how} ({label})"
        )

    def plot(self) -> Any:
        """A `Picture`: the dispatches in order, as long as they last."""
        from .plot import COLOURS
        from .plots import Picture

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

        def line(tag: str, cells: Any) -> str:
            return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

        rows = "".join(line("td", cells) for cells in body)
        return f"<table><caption>{html.escape(self.notes())}</caption>{line('th', head)}{rows}</table>"


def profile_step(model: Any, position: int = 64, repetitions: int = 7) -> StepProfile:
    """Time each dispatch of one decode step on the model's device.

    position: tokens in the cache; their keys are zeros, which takes no less time. Raises `WorkbenchError` for the
    torch backend, which dispatches nothing, and for a position beyond the cache.
    """
    if model.backend != "wgpu":
        raise WorkbenchError("only the wgpu backend has dispatches; load the model with backend='wgpu'")
    if not 0 <= position < model.max_tokens or repetitions < 1:
        raise WorkbenchError(
            f"position is from 0 to {model.max_tokens - 1} and repetitions at least 1, not {position}, {repetitions}"
        )
    executor = model.executor
    device = executor.device
    cache = executor.new_cache(model.max_tokens)
    cache.position = position
    try:
        with device.lock, device.errors():
            recorder = executor.recorder("greedy", 1, cache, ())
            plan = executor.device_plan("greedy", 1, cache, ())
            parts = recorder.apart()
            with Stopwatch(device) as watch:
                clock = watch.clock
                stamped = _Stamps(device, parts) if clock == TIMESTAMPS else None
                wholes, spans = [], []
                for at in range(WARM + repetitions):
                    executor.write_inputs(cache, 1, np.array([0]), None)
                    whole = watch.seconds(recorder, 1)
                    span = stamped.spans() if stamped else _walls(watch, parts)
                    if at >= WARM:
                        wholes.append(whole)
                        spans.append(span)
    finally:
        executor.free_cache(cache)
    starts, seconds = np.median(np.array(spans), axis=0).T
    dispatches = []
    for step, start, took in zip(plan.steps, starts, seconds, strict=True):
        sizes = step.kernel.complete(step.sizes)
        bytes_ = None if "capacity" in sizes else float(step.kernel.cost(sizes).bytes)
        output = next(iter(step.call.outputs.values()))
        dispatches.append(
            Dispatch(output, step.kernel.name, step.variant, step.reason, float(start), float(took), bytes_)
        )
    return StepProfile(
        tuple(dispatches),
        statistics.median(wholes),
        position,
        clock,
        repetitions,
        device.name,
        device.adapter.is_cpu,
    )


class _Stamps:
    """A pass a dispatch, stamped at both ends."""

    def __init__(self, device: Any, parts: list):
        self._device, self._parts = device, parts
        count = 2 * len(parts)
        self._queries = device.wgpu.create_query_set(type=wgpu.QueryType.timestamp, count=count)
        usage = wgpu.BufferUsage.QUERY_RESOLVE | wgpu.BufferUsage.COPY_SRC
        self._resolved = device.wgpu.create_buffer(size=8 * count, usage=usage)
        self._period = native.timestamp_period(device.wgpu) * 1e-9

    def spans(self) -> np.ndarray:
        """(start, seconds) of each dispatch, f64 [n, 2], from the first one's start."""
        encoder = self._device.wgpu.create_command_encoder()
        for at, part in enumerate(self._parts):
            writes = {
                "query_set": self._queries,
                "beginning_of_pass_write_index": 2 * at,
                "end_of_pass_write_index": 2 * at + 1,
            }
            compute = encoder.begin_compute_pass(timestamp_writes=writes)
            part.encode(compute)
            compute.end()
        encoder.resolve_query_set(self._queries, 0, 2 * len(self._parts), self._resolved, 0)
        self._device.wgpu.queue.submit([encoder.finish()])
        data = self._device.wgpu.queue.read_buffer(self._resolved, 0, 16 * len(self._parts))
        ticks = np.frombuffer(data, np.uint64).reshape(-1, 2).astype(np.int64)
        return np.stack([ticks[:, 0] - ticks[0, 0], ticks[:, 1] - ticks[:, 0]], 1) * self._period


def _walls(watch: Stopwatch, parts: list) -> np.ndarray:
    """(start, seconds) of each dispatch, one after the other."""
    began = time.perf_counter()
    spans = []
    for part in parts:
        start = time.perf_counter() - began
        spans.append((start, watch.seconds(part, 1)))
    return np.array(spans)
