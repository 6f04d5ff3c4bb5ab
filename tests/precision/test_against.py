"""Comparisons with one baseline, against two f64 log-softmaxes; and shares of time, under a clock that is told."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eval.statistics import divergence
from workbench.precision.against import Baseline
from workbench.precision.meter import Meter


@pytest.mark.parametrize("vocabulary", [97, 49_152])
@pytest.mark.parametrize("size", [0.0, 1e-3, 0.1, 1.0, 30.0, 300.0])
def test_comparisons_are_those_of_f64(vocabulary, size):
    generator = torch.Generator().manual_seed(3)
    baseline = 3 * torch.randn(13, vocabulary, generator=generator)
    baseline[::2, 5] += 15  # some tokens are nearly certain
    logits = baseline + size * torch.randn(13, vocabulary, generator=generator) + 2.0
    targets = np.arange(13)
    against = Baseline(baseline, targets)
    kl, nll = against.compare(logits)
    exact = divergence(logits.numpy(), baseline.numpy(), targets)
    np.testing.assert_allclose(against.nll, exact.nll_baseline, rtol=1e-12)
    np.testing.assert_allclose(kl, exact.kl, rtol=1e-3, atol=1e-12)
    np.testing.assert_allclose(kl.sum(), exact.kl.sum(), rtol=1e-5, atol=1e-11)
    np.testing.assert_allclose(nll, exact.nll, rtol=2e-6, atol=1e-6)
    assert (kl >= 0).all()


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_time_left_is_true_however_unlike_the_work():
    clock, told = Clock(), []
    pace = {"run": 2.0, "compare": 0.1, ("quantize", 0): 5.0, ("quantize", 1): 0.5}
    ahead = {"run": 20.0, "compare": 10.0, ("quantize", 0): 3.0, ("quantize", 1): 3.0}
    total = sum(amount * pace[kind] for kind, amount in ahead.items())
    meter = Meter(lambda done, whole: told.append((done, whole)), 4, ahead, clock)

    def do(kind, amount):
        with meter.doing(kind, amount):
            clock.now += amount * pace[kind]
        meter.tell()

    with meter:
        do("run", 2.0)
        do("compare", 1.0)
        do(("quantize", 0), 1.0)
        assert meter.left == pytest.approx(
            18 * 2 + 9 * 0.1 + 2 * 5 + 3 * 5
        )  # the other format as slow, until it is met
        do(("quantize", 1), 1.0)
        for kind, amount in [("run", 10.0), (("quantize", 0), 2.0), ("compare", 9.0), (("quantize", 1), 2.0)]:
            do(kind, amount)
            assert clock.now + meter.left == pytest.approx(total)
            assert told[-1] == (pytest.approx(4 * clock.now / total), 4)
        do("run", 8.0)
    assert told[-1] == (4.0, 4) and told == sorted(told) and meter.left == 0


def test_a_share_never_falls_and_an_end_is_an_end():
    clock, told = Clock(), []
    meter = Meter(lambda done, whole: told.append(done), 1, {"fast": 1.0, "slow": 1.0}, clock)
    for kind, seconds in (("fast", 1.0), ("slow", 9.0)):
        with meter.doing(kind, 1.0):
            clock.now += seconds
        meter.tell()
    assert told == [1.0, 1.0]  # nothing was known of what is slow


def test_a_failure_is_not_counted():
    clock = Clock()
    meter = Meter(False, 1, {"run": 2.0}, clock)
    with pytest.raises(KeyboardInterrupt), meter.doing("run", 1.0):
        raise KeyboardInterrupt
    assert meter.left == 0  # no pace is known
    with meter.doing("run", 1.0):
        clock.now += 3
    assert meter.left == 3
