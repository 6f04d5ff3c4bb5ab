"""An edited kernel inside a whole model: it runs there, its numbers and times are told, and nothing else changes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import wgsl_kernels
import workbench
from tests.kernel_bench.test_kernels import halved
from wgsl_kernels import KernelUsageError
from workbench.errors import DeviceLostError, WorkbenchError
from workbench.runtime.adapters import find_adapter
from workbench.runtime.device import Device
from workbench.studies.in_model import WITH, WITHOUT, in_model
from workbench.studies.lab import Lab

LINEAR, IDS = "linear[f16]", list(range(3, 19))


@pytest.fixture
def lab(adapter) -> Lab:
    return Lab(LINEAR, variants=["gemv"], rounds=1, rows=40, columns=96)


def test_a_version_runs_in_the_model_that_asks_for_it_and_nowhere_else(lab, shallow):
    def logits() -> np.ndarray:
        return workbench.load(shallow, "wgpu", max_tokens=64).forward(IDS).logits

    before = logits()
    gemv = lab.kernel.variants["gemv"]
    wrong = dataclasses.replace(gemv, text=halved(gemv.body()))
    library = wgsl_kernels.library().with_variant(LINEAR, "halved", wrong)
    model = workbench.load(shallow, "wgpu", max_tokens=64, library=library)
    after = model.forward(IDS).logits
    assert np.abs(after - before).max() > 1  # it did run
    assert np.array_equal(logits(), before) and "halved" not in wgsl_kernels.get(LINEAR).variants
    used = {kernel: (variant, where) for kernel, variant, where in model.choices if kernel == LINEAR}
    assert used[LINEAR][0] == "halved" and "dispatches of a decoded token" in used[LINEAR][1]
    assert list(model.describe_provenance()["own_kernels"]) == [LINEAR]
    assert list(model.describe_provenance()["own_kernels"][LINEAR]) == ["halved"]


def test_a_lost_device_is_replaced_with_the_same_kernels(lab, shallow, monkeypatch):
    lab.edit(lab.text("gemv") + "// mine\n", "gemv", name="mine", time=False)
    own: list[Device] = []  # breaking one breaks no other test's

    def open_own(*_):
        if not own or own[-1].lost:
            own.append(Device(find_adapter()))
        return own[-1]

    monkeypatch.setattr("workbench.runtime.device.open_device", open_own)
    model = workbench.load(shallow, "wgpu", max_tokens=64, library=lab.library())
    before = model.forward(IDS).logits
    own[0].wgpu.destroy()
    with pytest.raises(DeviceLostError):
        model.forward(IDS)
    assert np.array_equal(model.forward(IDS).logits, before) and len(own) == 2
    steps = model.executor.lowered("last", 1, 64).steps
    assert any(step.kernel.name == LINEAR and step.variant == "mine" for step in steps)


def test_the_last_version_that_passed_is_taken(lab):
    with pytest.raises(KernelUsageError, match=r"no version of linear\[f16\] has passed; edit"):
        lab.library()
    lab.edit(lab.text("gemv") + "// one\n", "gemv", tunables={"rows_per_team": 4}, time=False)
    lab.edit(halved(lab.text("gemv")), "gemv", time=False)
    library = lab.library()
    assert {name: list(each) for name, each in library.changed().items()} == {LINEAR: ["v1"]}
    for name, says in (("v2", "has not passed: wrong numbers"), ("gemv", "no version that was edited")):
        with pytest.raises(KernelUsageError, match=says):
            lab.library(name)
    with pytest.raises(KernelUsageError, match="no variant or version 'v9'"):
        lab.library("v9")


def test_speed_and_perplexity_with_and_without_it(lab, shallow):
    lab.edit(lab.text("gemv") + "// the same numbers\n", "gemv", time=False)
    ids = np.random.default_rng(1).integers(5, 4000, 130)
    found = lab.in_model(
        shallow,
        text=ids,
        protocol="disjoint-64",
        max_windows=2,
        prompt_tokens=8,
        decode_tokens=8,
        repetitions=2,
        max_tokens=64,
    )
    assert [len(rates[name].seconds) for rates in (found.prefill, found.decode) for name in (WITHOUT, WITH)] == [
        2, 2, 2, 2
    ]  # fmt: skip
    low, high = found.times_as_fast(found.decode)[1:]
    assert 0 < low <= high
    change = found.results[WITH].baseline
    assert change.ln_ratio == 0 and change.kl["max"] == 0
    assert "times as fast" in str(found) and "v1" in str(found) and found.used[0][0] == LINEAR
    assert len(found.table().rows) == 2 and "<table" in found._repr_html_() and "\n" not in repr(found)


def test_a_version_takes_the_place_of_its_base_or_of_all(lab, shallow):
    lab.edit(lab.text("gemv") + "// mine\n", "gemv", name="mine", time=False)
    lab.edit(lab.text("tile") + "// yours\n", "tile", name="yours", time=False)
    model = workbench.load(shallow, "wgpu", max_tokens=64)

    def variants(tokens: int, **options) -> set[str]:
        model.executor.library = lab.library(**options) if options else None
        steps = model.executor.lowered("last", tokens, 64).steps
        return {step.variant for step in steps if step.kernel.name == LINEAR}

    usual = variants(64)  # the last row's logits are those of one token
    assert variants(1) == {"gemv"} < usual
    assert variants(1, name="mine") == {"mine"}
    assert variants(64, name="mine") == usual - {"gemv"} | {"mine"}
    assert variants(64, name="mine", everywhere=True) == {"mine"}
    with pytest.raises(KernelUsageError, match="has no variant 'fast'; it has gemv"):
        wgsl_kernels.library().with_variant(LINEAR, "x", lab.kernel.variants["gemv"], instead_of="fast")


def test_a_library_that_changes_nothing_there_is_refused(lab, shallow):
    gemv = wgsl_kernels.get("linear[int2]").variants["gemv"]
    elsewhere = wgsl_kernels.library().with_variant("linear[int2]", "mine", dataclasses.replace(gemv))
    with pytest.raises(
        WorkbenchError, match=r"library changes linear\[int2\], and this model runs none of it"
    ):
        workbench.load(shallow, "wgpu", max_tokens=64, library=elsewhere)
    with pytest.raises(WorkbenchError, match="library changes nothing that is not registered"):
        in_model(shallow, wgsl_kernels.library(), max_tokens=64)
    with pytest.raises(WorkbenchError, match="backend torch runs their references"):
        workbench.load(shallow, "torch", library=elsewhere)
