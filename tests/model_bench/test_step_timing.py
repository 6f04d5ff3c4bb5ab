"""A step is timed on a GPU whose clock is awake: a fake GPU, whose clock falls asleep as soon as nothing runs."""

from __future__ import annotations

import re

import numpy as np
import pytest

from workbench.model_bench.step_profile import Dispatch, StepProfile
from workbench.model_bench.step_timing import time_step
from workbench.runtime.timing import GPU_WARM, TIMESTAMPS

#: Seconds of each dispatch at full clock, in all 2 ms.
DISPATCHES = np.array([0.0012, 0.0005, 0.0003])
ASLEEP, AWAKE = 345.0, 1980.0
#: Seconds that the clock needs to wake, and without work to fall asleep.
WAKING, DOZING = 0.1, 0.02


class FakeGpu:
    """Time and clock of a GPU: its frequency rises while it works and falls between two samples."""

    def __init__(self):
        self.now = self.awake = 0.0

    @property
    def megahertz(self) -> float:
        return ASLEEP + (AWAKE - ASLEEP) * self.awake

    def work(self, seconds: float) -> float:
        """Do what takes so long at full clock; returns how long it took."""
        took = seconds * AWAKE / self.megahertz
        self.now += took
        self.awake = min(1.0, self.awake + took / WAKING)
        return took

    def idle(self, seconds: float) -> None:
        self.now += seconds
        self.awake = max(0.0, self.awake - seconds / DOZING)


class FakeStep:
    """The step on that GPU, undivided or dispatch by dispatch; Python takes its time before each sample."""

    def __init__(self, gpu: FakeGpu, warm: float):
        self.gpu, self.warm, self.span = gpu, warm, float(DISPATCHES.sum())
        self.spans: list[np.ndarray] = []

    def busy(self, seconds: float) -> None:
        self.gpu.idle(0.05)
        until = self.gpu.now + seconds
        while self.gpu.now < until:
            self.gpu.work(self.span)

    def sample(self) -> float:
        if self.warm == 0:
            self.gpu.idle(0.05)
        began, spans = self.gpu.now, []
        for each in DISPATCHES:
            start = self.gpu.now - began
            spans.append((start, self.gpu.work(each)))
        self.spans.append(np.array(spans))
        return self.gpu.now - began


def timed(warm: float, frequency: bool):
    gpu = FakeGpu()
    whole, divided = FakeStep(gpu, warm), FakeStep(gpu, warm)
    return time_step(whole, divided, 5, (lambda: gpu.megahertz) if frequency else None)


@pytest.mark.parametrize("frequency", [True, False])
def test_the_clock_is_awake_when_it_counts(frequency):
    found = timed(GPU_WARM, frequency)
    assert found.whole_s == pytest.approx(0.002, rel=1e-9) and found.repetitions == 5
    assert found.seconds == pytest.approx(DISPATCHES, rel=1e-9)
    assert found.starts == pytest.approx([0, 0.0012, 0.0017], rel=1e-9)
    assert found.mhz == ((AWAKE,) * 10 if frequency else ())


def test_without_waking_it_the_same_gpu_would_deceive():
    assert timed(0.0, False).whole_s > 3 * 0.002


def test_a_slow_step_is_timed_less_often():
    gpu = FakeGpu()
    slow = FakeStep(gpu, GPU_WARM)
    slow.span = 0.5
    assert time_step(FakeStep(gpu, GPU_WARM), slow, 7, None).repetitions == 3


def profile(**more) -> StepProfile:
    dispatch = Dispatch("embedded", "embedding[f16]", "rows", "default: the only variant", 0.0, 1e-3, 5e6)
    other = Dispatch("layers.0.attn.context", "attention", "online", "tuned", 1.5e-3, 2e-3, None)
    return StepProfile((dispatch, other), 2.3e-3, 64, TIMESTAMPS, 5, "NVIDIA H200", False, **more)


def test_clock_and_both_sums_are_shown():
    steady = profile(mhz=(1980.0, 1965.0))
    assert "3.000 ms in all apart, 2.300 ms undivided" in steady.notes()
    assert steady.notes().endswith("(GPU at 1980 MHz)")
    assert profile(mhz=(1980.0, 345.0)).notes().endswith("(GPU at 345 to 1980 MHz: not steady)")
    assert profile().notes().endswith("(GPU)")
    page = steady._repr_html_()
    for what, ms in (("all of them, apart", "3.000"), ("the step, undivided", "2.300")):
        cells = re.search(rf"<tr>.*>{what}<.*</tr>", page)
        assert cells and re.findall(r">([^<>]*)</td>", cells[0]) == [what, "", "2", ms, "", ""]
