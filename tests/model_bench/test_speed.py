from __future__ import annotations

import pytest

import workbench
from workbench.errors import WorkbenchError
from workbench.model_bench.speed import Rate, measure_speed


@pytest.fixture(scope="module")
def references(converted):
    return workbench.load(converted["int4"], backend="torch", max_tokens=40)


def test_a_rate_is_the_median_of_its_samples():
    rate = Rate(30, (1.0, 3.0, 2.0, 2.0, 60.0))
    assert rate.median == 15 and rate.spread == (0.5, 30) and str(rate) == "15 (0 to 30)"
    stored = rate.to_json()
    assert stored["tokens_per_second"] == 15 and stored["repetitions"] == 5 and stored["seconds"][-1] == 60


def test_the_references_are_timed_as_a_cpu(references):
    speed = measure_speed(references, [1, 5, 6, 7], decode_tokens=3, stream_tokens=2, repetitions=2)
    assert speed.label == "CPU" and speed.backend == "torch"
    assert speed.prefill.tokens == 4 and speed.decode.tokens == 3 and speed.stream.tokens == 2
    assert all(s > 0 for rate in (speed.prefill, speed.decode, speed.stream) for s in rate.seconds)
    assert speed.to_json()["stream"]["repetitions"] == 2
    assert measure_speed(references, [1], decode_tokens=1, repetitions=1).to_json()["stream"] is None


def test_what_does_not_fit_is_refused(references):
    with pytest.raises(
        WorkbenchError, match="prompt of 30 and 11 tokens after it do not fit into a cache of 40"
    ):
        measure_speed(references, [1] * 30, decode_tokens=11)
    with pytest.raises(WorkbenchError, match="at least 1"):
        measure_speed(references, [1], repetitions=0)
