"""`load(warm=True)`: what a first prompt would wait for is done."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

import workbench
from workbench.errors import KernelError, OutOfMemoryError
from workbench.runtime import pipelines
from workbench.runtime.device import open_device
from workbench.runtime.pipelines import Wanted, build_all

BINDINGS = ((0, "storage"),)


def wgsl(value: str) -> str:
    return (
        "@group(0) @binding(0) var<storage, read_write> y: array<u32>;\n"
        f"@compute @workgroup_size(1) fn main() {{ y[0] = {value}; }}"
    )


@pytest.mark.usefixtures("adapter")
def test_a_warm_model_compiles_and_uploads_nothing_for_its_first_prompts(shallow, monkeypatch):
    model = workbench.load(shallow, max_tokens=128, warm=True)
    weights = model.executor.player.weights
    uploaded = weights.nbytes

    def fails(*_):
        raise AssertionError("a pipeline was built after warming up")

    monkeypatch.setattr(pipelines, "_build", fails)
    assert len(list(model.generate_ids(range(3, 80), 4))) == 4
    assert "".join(model.generate("Once upon a time", max_new_tokens=4, temperature=0.8, seed=1))
    assert weights.nbytes == uploaded > 0


def test_references_are_warmed_too(shallow):
    model = workbench.load(shallow, backend="torch", max_tokens=16, warm=True)
    assert len(list(model.generate_ids([3], 2))) == 2


@pytest.mark.usefixtures("adapter")
def test_pipelines_built_in_threads_are_those_that_were_asked_for(monkeypatch):
    device = open_device()
    monkeypatch.setattr(device, "adapter", replace(device.adapter, is_cpu=False))
    built = build_all(device, [Wanted(wgsl(f"{n}u"), BINDINGS, f"number {n}") for n in (1, 2, 3, 2)])
    assert [each.label for each in built] == ["number 1", "number 2", "number 3", "number 2"]
    assert built[1] is built[3]
    broken = [
        Wanted(wgsl(value), BINDINGS, label) for value, label in (("4u", "whole"), ("nothing", "broken"))
    ]
    with pytest.raises(KernelError, match="broken"):
        build_all(device, broken)


@pytest.mark.usefixtures("adapter")
def test_weights_are_uploaded_while_pipelines_compile(monkeypatch):
    """Whoever compiles waits here for what the calling thread does meanwhile; and its failure is told."""
    device, uploaded, real = open_device(), threading.Event(), pipelines._build
    monkeypatch.setattr(device, "adapter", replace(device.adapter, is_cpu=False))

    def waits(*arguments):
        assert uploaded.wait(20)
        return real(*arguments)

    monkeypatch.setattr(pipelines, "_build", waits)
    wanted = [Wanted(wgsl(f"{n}u"), BINDINGS, f"number {n}") for n in (5, 6)]
    assert [each.label for each in build_all(device, wanted, uploaded.set)] == ["number 5", "number 6"]

    def fails():
        raise OutOfMemoryError("no room for weights")

    with pytest.raises(OutOfMemoryError, match="no room for weights"):
        build_all(device, wanted, fails)
