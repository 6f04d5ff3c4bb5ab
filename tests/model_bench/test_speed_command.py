"""`workbench speed`: what loading, first tokens and memory cost, prompts of a text, traces, energy."""

from __future__ import annotations

import json
import sys
import types

import pytest

from workbench import cli
from workbench.assets import demo_model_path
from workbench.model_bench import speed
from workbench.model_bench.step_profile import profile_step
from workbench.model_bench.trace import APART, UNDIVIDED, save_trace
from workbench.runtime import nvml
from workbench.runtime.device import adapter_missing
from workbench.runtime.loading import load

QUICK = ["--prompt-tokens", "12", "--tokens", "3", "--repetitions", "1"]


def run(capsys, *arguments) -> tuple[int, str, str]:
    status = cli.main(["speed", *map(str, arguments)])
    return status, *capsys.readouterr()


@pytest.fixture
def story(tmp_path):
    path = tmp_path / "story.txt"
    path.write_text("Once upon a time there was a little girl named Lily. " * 40, encoding="utf-8")
    return path


def test_what_a_run_costs(converted, tmp_path, capsys, story):
    found = tmp_path / "speed.json"
    status, out, err = run(
        capsys, converted["int4"], "--backend", "torch", *QUICK, "--text", story, "--json", found
    )
    assert status == 0, err
    [row] = json.loads(found.read_text())
    assert row["prompt"] == "story.txt, its first 12 tokens" and row["prompt"] in out
    assert row["load_s"] > 0 and row["device_bytes"] is None and "profile" not in row
    told = row["speed"]
    assert told["cold_s"] > 0 and told["warm_s"] == pytest.approx(told["prefill"]["seconds"][0])
    assert told["ms_per_token"] == pytest.approx(1e3 * told["decode"]["seconds"][0] / 3)
    assert told["joules"] is None and told["prefill"]["tokens"] == 12
    if sys.platform == "linux":
        assert row["host_bytes"] > 50e6
    assert "first token, cold, s" in out and "ms a token" in out


def test_a_device_counts_its_buffers_and_leaves_a_trace(converted, tmp_path, capsys):
    if missing := adapter_missing():
        pytest.skip(missing)
    found, trace = tmp_path / "speed.json", tmp_path / "trace.json"
    status, out, err = run(capsys, converted["int4"], *QUICK, "--json", found, "--trace", trace)
    assert status == 0, err
    [row] = json.loads(found.read_text())
    assert row["weight_bytes"] < row["device_bytes"] < 10 * row["weight_bytes"]
    made = json.loads(trace.read_text())
    events = [each for each in made["traceEvents"] if each["ph"] == "X"]
    assert len([each for each in events if each["tid"] == APART]) == row["dispatches"]
    assert made["metadata"]["adapter"] and "undivided" in out


def test_a_trace_is_what_was_profiled(converted, tmp_path):
    if missing := adapter_missing():
        pytest.skip(missing)
    model = load(converted["int4"], backend="wgpu")
    profile = profile_step(model, position=3, repetitions=1)
    save_trace(tmp_path / "trace.json", [("a", profile), ("a", profile)], {"seed": 1})
    made = json.loads((tmp_path / "trace.json").read_text())
    named = {(each["pid"], each["tid"]) for each in made["traceEvents"] if each["ph"] == "M"}
    assert named == {(process, row) for process in (1, 2) for row in (0, APART, UNDIVIDED)}
    first = [each for each in made["traceEvents"] if each["ph"] == "X" and each["pid"] == 1]
    apart = [each for each in first if each["tid"] == APART]
    assert [each["name"] for each in apart] == [each.output for each in profile.dispatches]
    assert [each["dur"] for each in apart] == [1e6 * each.seconds for each in profile.dispatches]
    assert apart[0]["args"]["kernel"] == profile.dispatches[0].kernel
    [whole] = [each for each in first if each["tid"] == UNDIVIDED]
    assert whole["dur"] == 1e6 * profile.whole_s and made["metadata"] == {"seed": 1}


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--like", "llama-3.2-1b", "--format", "int4", "--text", "x.txt"], "--text needs a tokenizer"),
        ([demo_model_path(), "--backend", "torch", "--trace", "t.json"], "--backend torch has none"),
        ([demo_model_path(), "--trace", "no/such/folder/t.json"], "there is no folder"),
        ([demo_model_path(), "--json", "no/such/folder/t.json"], "there is no folder"),
        ([demo_model_path(), "--text", "no-such-file.txt"], "no-such-file.txt"),
    ],
    ids=["text", "trace", "trace's folder", "json's folder", "no text"],
)
def test_impossible_wishes_are_refused_before_anything_is_measured(capsys, monkeypatch, arguments, said):
    def never(*_, **__):
        raise AssertionError("something was measured")

    monkeypatch.setattr(speed, "measure_speed", never)
    status, out, err = run(capsys, *arguments)
    assert status in (1, 2) and said in err and out == ""


# ---- NVML, which is not here: a stand-in for the library, never for what reads it ----------------------------------


@pytest.fixture
def library(monkeypatch):
    """pynvml as far as it is used, with one H200 of which the test says what it can tell."""
    made = types.ModuleType("pynvml")

    class NVMLError(Exception):
        pass

    made.NVMLError, made.NVML_CLOCK_SM, made.millijoules = NVMLError, 1, iter([])

    def energy(handle):
        try:
            return next(made.millijoules)
        except StopIteration:
            raise NVMLError("Not Supported") from None

    made.nvmlInit = lambda: None
    made.nvmlDeviceGetCount = lambda: 1
    made.nvmlDeviceGetHandleByIndex = lambda index: index
    made.nvmlDeviceGetName = lambda handle: b"NVIDIA H200"
    made.nvmlDeviceGetClockInfo = lambda handle, what: 1980
    made.nvmlDeviceGetTotalEnergyConsumption = energy
    monkeypatch.setitem(sys.modules, "pynvml", made)
    return made


def test_a_gpu_is_asked_for_clock_and_energy(library):
    gpu = nvml.find_gpu("NVIDIA H200")
    library.millijoules = iter([5_000, 6_500])
    assert gpu.megahertz() == 1980.0 and (gpu.joules(), gpu.joules(), gpu.joules()) == (5.0, 6.5, None)
    assert nvml.find_gpu("NVIDIA L4") is None and nvml.find_gpu("llvmpipe") is None


def test_energy_is_that_of_the_decoded_tokens():
    assert speed._joules([(1.0, 3.0), (4.0, 8.0)], 3) == pytest.approx(1.0)
    assert speed._joules([(1.0, 1.0)], 3) is None  # a meter that has not moved says nothing
    assert speed._joules([(1.0, None)], 3) is None


def test_without_the_package_there_is_no_energy(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert nvml.find_gpu("NVIDIA H200") is None
