from __future__ import annotations

import json

import pytest

import workbench
from workbench.cli import main
from workbench.errors import WorkbenchError
from workbench.model_bench.encoding import PHASES, Encoding, measure_encoding


def test_figures_come_from_the_samples():
    found = Encoding(
        dispatches=100,
        steps=1,
        cpu={"encode": (1e-4, 3e-4), "end_pass": (1e-5, 1e-5), "finish": (2e-4, 2e-4), "submit": (5e-5,)},
        execute=(0.010,),
        returned=(0.001,),
        record=(0.004,),
        both=(0.011,),
        device="a device",
        load_average=None,
    )
    assert found.microseconds("encode") == pytest.approx(2)
    assert found.recorded == (pytest.approx((3.1 + 5.1) / 2), pytest.approx(3.1))
    assert found.hidden == pytest.approx(0.75)
    assert "75%" in found.summary() and "4.10 us of CPU time a dispatch (least 3.10;" in found.summary()


@pytest.mark.release
def test_recording_is_measured_on_a_device(adapter, shallow, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("workbench.assets.demo_model_path", lambda: shallow)
    assert main(["bench", "encoding", "--output", str(tmp_path)]) == 0
    assert "us of CPU time a dispatch" in capsys.readouterr().out
    stored = json.loads((tmp_path / "encoding.json").read_text(encoding="utf-8"))
    assert 200 <= stored["dispatches"] <= 400 and stored["dispatches"] % stored["steps"] == 0
    assert set(stored["microseconds_a_dispatch"]) == set(PHASES)
    # Recording through Python's wrappers takes some 15 us a dispatch: this tells that the fast path is taken.
    assert 0 < stored["microseconds_recorded"]["least"] < 10
    assert stored["provenance"]["adapter"]


def test_the_references_record_nothing(converted):
    with pytest.raises(WorkbenchError, match="record nothing"):
        measure_encoding(workbench.load(converted["int2"], backend="torch"))
