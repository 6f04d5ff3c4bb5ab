"""The profile of a decode step: every dispatch of the plan, in order, whatever clock there is."""

from __future__ import annotations

import pytest

from workbench.assets import demo_model_path
from workbench.errors import WorkbenchError
from workbench.model_bench.step_profile import profile_step
from workbench.runtime import timing
from workbench.runtime.loading import load


@pytest.fixture(params=[True, False], ids=["timestamps", "wall clock"])
def profile(request, adapter, quantized, monkeypatch):
    if not request.param:
        features = quantized.executor.device.features - {"timestamp-query"}
        monkeypatch.setattr(quantized.executor.device, "features", features)
    elif "timestamp-query" not in quantized.executor.device.features:
        pytest.skip("the adapter has no timestamp queries")
    return profile_step(quantized, position=5, repetitions=3)


def test_every_dispatch_has_its_time(profile, quantized):
    device = quantized.executor.device
    assert profile.clock == (timing.TIMESTAMPS if "timestamp-query" in device.features else timing.WALL)
    outputs = [each.output for each in profile.dispatches]
    assert outputs[0] == "embedded" and len(outputs) >= 5 * quantized.config.layers
    last = f"layers.{quantized.config.layers - 1}"
    assert {f"{last}.mlp.out", f"{last}.out"} & set(outputs)
    assert all(each.seconds > 0 for each in profile.dispatches)
    starts = [each.start_s for each in profile.dispatches]
    assert starts == sorted(starts)
    assert 0.2 < profile.sum_s / profile.whole_s < 20


def test_kernels_sum_up(profile):
    rows = profile.by_kernel()
    assert sum(row["count"] for row in rows) == len(profile.dispatches)
    assert sum(row["share"] for row in rows) == pytest.approx(1)
    assert [row["seconds"] for row in rows] == sorted((row["seconds"] for row in rows), reverse=True)
    rates = {row["kernel"]: row["gb_per_s"] for row in rows}
    assert rates["linear[int4]"] > 0 and rates["attention"] is None
    assert profile.clock.split()[0] in profile.notes()
    assert "linear[int4]" in profile._repr_html_() and len(profile.plot().png()) > 5000


def test_the_model_still_works_and_gives_back_its_memory(adapter, quantized):
    ids = quantized.encode_prompt("Once upon a time")
    expected = list(quantized.generate_ids(ids, 8))
    before = quantized.executor.device.allocated
    profile_step(quantized, repetitions=1)
    assert list(quantized.generate_ids(ids, 8)) == expected
    assert quantized.executor.device.allocated == before


def test_bad_wishes_are_refused(adapter, quantized):
    with pytest.raises(WorkbenchError, match="from 0 to 511"):
        profile_step(quantized, position=512)
    with pytest.raises(WorkbenchError, match="wgpu backend"):
        profile_step(load(demo_model_path(), backend="torch"))
