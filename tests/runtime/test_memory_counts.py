"""What is counted as device memory is there; what the host has not got is an error of the workbench's own."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch

import wgsl_kernels
from workbench.errors import OutOfMemoryError, WorkbenchError
from workbench.runtime import model as models
from workbench.runtime.choices import choose
from workbench.runtime.device import Device, find_adapter
from workbench.runtime.host_memory import out_of_memory, peak_bytes, reset_peak
from workbench.runtime.launch import run_kernel

from .models import SHAPES, model_on, random_ids, reference_on, write_random

SHAPE = SHAPES[5]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_random(tmp_path_factory.mktemp("counts") / "model", SHAPE)


@pytest.fixture
def device(open_promised):
    open_promised()  # skips where there is no adapter
    return Device(find_adapter(), promised=True)


def test_a_forgotten_model_takes_its_memory_along(checkpoint, device):
    model = model_on(checkpoint, lambda: device)
    model.score(random_ids(SHAPE.vocab, 30))
    session = model.session()
    session.feed([1, 2])
    held = device.allocated
    peak = device.peak
    assert 0 < held <= peak
    del model, session
    gc.collect()
    assert device.allocated == 0 and device.peak == peak


def test_a_buffer_released_twice_counts_once(device):
    buffer, other = device.buffer(64), device.buffer(32)
    device.release(buffer)
    device.release(buffer)
    assert device.allocated == other.size


@pytest.mark.parametrize("fails_at", [1, 2, 3])
def test_a_kernel_that_fails_leaves_nothing(device, monkeypatch, fails_at):
    import wgpu

    kernel = wgsl_kernels.get("add")
    arguments = kernel.inputs(seed=0, tokens=2, width=64)
    allocate, calls = device.wgpu.create_buffer, []

    def failing(**given):
        calls.append(given["label"])
        if len(calls) == fails_at:
            raise wgpu.GPUOutOfMemoryError("Not enough memory left")
        return allocate(**given)

    with monkeypatch.context() as patch:
        patch.setattr(device.wgpu, "create_buffer", failing)
        with pytest.raises(OutOfMemoryError) as caught:
            run_kernel(kernel, arguments, device=device)
    assert device.allocated == 0 and set(calls) <= {"add.a", "add.b", "add.y"}
    del caught
    run_kernel(kernel, arguments, device=device)
    assert device.allocated == 0


@pytest.mark.parametrize("backend", ["wgpu", "torch"])
def test_scratch_follows_the_calls(checkpoint, open_promised, monkeypatch, backend):
    """Not the context: the cache of `forward` and `score` grows with the longest call, and the old one goes."""
    monkeypatch.setattr(models, "SCRATCH", 16)
    model = (
        reference_on(checkpoint, max_tokens=100)
        if backend == "torch"
        else model_on(checkpoint, open_promised, max_tokens=100)
    )
    ids = random_ids(SHAPE.vocab, 100)
    expected = reference_on(checkpoint, max_tokens=100).forward(ids).logits
    caches = []
    for count, capacity in ((3, 16), (16, 16), (17, 32), (5, 32), (70, 100), (100, 100)):
        logits = model.forward(ids[:count]).logits
        assert np.abs(logits - expected[:count]).max() <= 1e-5 * np.abs(expected).max()
        assert model._scratch[False].capacity == capacity
        caches.append(model._scratch[False])
    assert [cache.freed for cache in caches] == [True] * 4 + [False] * 2


@pytest.mark.parametrize("tokens", [10**13, 10**18])
def test_a_cache_beyond_the_hosts_memory(checkpoint, tokens):
    """As on a device: a clear error, and the next call works."""
    model = reference_on(checkpoint, max_tokens=tokens)
    session = model.session()
    with pytest.raises(OutOfMemoryError, match="host's memory does not suffice"):
        session.feed([1, 2])
    assert session.position == 0
    assert model.forward([1, 2, 3]).logits.shape == (3, SHAPE.vocab)


@pytest.mark.parametrize(
    "allocate",
    [lambda: np.zeros(10**15), lambda: torch.zeros(10**15), lambda: torch.zeros((2**40, 2**40))],
    ids=["numpy", "torch", "a size beyond integers"],
)
def test_what_libraries_raise_for_memory_is_one_error(allocate):
    message = "the host's memory does not suffice for a test: "
    with pytest.raises(OutOfMemoryError, match=message), out_of_memory("a test"):
        allocate()


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="shapes"), out_of_memory("a test"):
        raise RuntimeError("shapes do not match")


def test_the_peak_of_the_host_is_that_of_the_last_part():
    if not reset_peak():
        pytest.skip("only Linux begins a new peak")
    before = peak_bytes()
    block = np.ones(8 << 20)  # 64 MiB
    assert peak_bytes() >= before + block.nbytes * 0.9
    del block
    assert reset_peak() and peak_bytes() < before + (32 << 20)


@pytest.mark.parametrize("tokens", [0, -1, 2**31, 1.5, "5", True, float("nan")])
def test_impossible_caches_are_refused_by_name(checkpoint, tokens):
    config = reference_on(checkpoint).config
    with pytest.raises(WorkbenchError, match="max_tokens is an integer from 1 to 2147483647, not"):
        choose(config, "torch", "f32", tokens)
