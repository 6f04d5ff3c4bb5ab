"""What the doctor finds: on this machine, and on one where things are missing."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

import wgsl_kernels
from workbench import cli
from workbench.errors import NoAdapterError
from workbench.kernel_bench.compare import compare
from workbench.studies import doctor
from workbench.studies.doctor import FAILED, NOTE, OK, examine


def by_name(diagnosis) -> dict:
    return {each.about: each for each in diagnosis.findings}


def test_this_machine(adapter, monkeypatch, capsys):
    monkeypatch.setattr(doctor, "CALLS", {"rms_norm": {"tokens": 3, "hidden": 320}, "softmax": {}})
    assert cli.main(["doctor", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    found = {each["about"]: each for each in told["findings"]}
    assert told["healthy"] and found["packages"]["state"] == OK
    assert found["kernels"]["found"].endswith("of 2 kernels agree with their references")
    assert set(found) >= {
        "Python",
        "adapter",
        "features",
        "largest binding",
        "cache folder",
        "browser",
        "Node.js",
    }


def test_the_calls_are_of_every_weight_format():
    """They are run by `workbench doctor`; here it is enough that their inputs can be made."""
    for name, sizes in doctor.CALLS.items():
        assert wgsl_kernels.get(name).inputs(seed=0, **sizes)
    assert {f"linear[{fmt}]" for fmt in ("f32", "f16", "bf16", "int8", "int4", "int2")} <= set(doctor.CALLS)


def test_without_an_adapter_it_says_what_to_install(monkeypatch, capsys, tmp_path):
    def none(*_):
        raise NoAdapterError("no WebGPU adapter was found")

    monkeypatch.setattr(doctor, "open_device", none)
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "made"))
    assert cli.main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert "failed  adapter: no WebGPU adapter was found\n        -> install a GPU's Vulkan driver" in said
    assert "kernels" not in said and f"{tmp_path / 'made'}, " in said


def test_a_kernel_that_is_wrong_is_named(adapter, monkeypatch):
    """The same source with one number changed, which runs."""
    kernel = wgsl_kernels.get("softmax")
    [(name, variant)] = kernel.variants.items()
    text = variant.body().replace("y_type(exp_of(", "y_type(1.5 * exp_of(")
    assert text != variant.body()
    broken = replace(kernel, variants={name: replace(variant, text=text)})
    monkeypatch.setattr(doctor, "CALLS", {"softmax": {}})
    monkeypatch.setattr(doctor, "compare", lambda _, **options: compare(broken, **options))
    found = by_name(examine())["kernels"]
    assert (
        found.state == FAILED
        and found.found == f"softmax/{name}: wrong numbers"
        and "certify" in found.advice
    )


@pytest.mark.parametrize("free, state", [(1 << 30, NOTE), (1 << 40, OK)])
def test_little_disk_is_a_note(monkeypatch, tmp_path, free, state):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    usage = type("Usage", (), {"free": free})
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage)
    [found] = doctor._cache()
    assert found.state == state and ("WORKBENCH_CACHE" in found.advice) == (state == NOTE)


def test_a_cache_that_cannot_be_written_fails(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "file" / "cache"))
    [found] = doctor._cache()
    assert found.state == FAILED and "WORKBENCH_CACHE" in found.advice
