"""What goes wrong while a model runs: a clear error, and the next call works."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import numpy as np
import pytest

from tests.support.device_faults import OwnDevices
from tests.support.vulkan import without_vulkan
from workbench.errors import (
    CacheFullError,
    DeviceLostError,
    OutOfMemoryError,
    PromptTooLongError,
    WorkbenchError,
)
from workbench.runtime import wgpu_executor

from .models import SHAPES, model_on, random_ids, reference_on, write_random

SHAPE = SHAPES[5]
CAPACITY = 24


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_random(tmp_path_factory.mktemp("failures") / "model", SHAPE)


@pytest.fixture(scope="module", params=["wgpu", "torch"])
def model(request, checkpoint, open_promised):
    if request.param == "wgpu":
        return model_on(checkpoint, open_promised, max_tokens=CAPACITY)
    return reference_on(checkpoint, max_tokens=CAPACITY)


@pytest.fixture
def own_devices(open_promised):
    open_promised()  # skips where there is no adapter
    return OwnDevices()


# ---- arguments ---------------------------------------------------------------------------------------------------


def test_a_full_cache(model):
    ids = random_ids(SHAPE.vocab, CAPACITY + 1)
    session = model.session()
    session.feed(ids[: CAPACITY - 2])
    with pytest.raises(CacheFullError, match=f"holds {CAPACITY - 2} of {CAPACITY} tokens, so 3 more"):
        session.feed(ids[:3])
    assert session.position == CAPACITY - 2  # nothing was fed
    expected = model.forward(ids[:CAPACITY]).logits
    assert np.allclose(session.feed(ids[CAPACITY - 2 : CAPACITY]), expected[-1], rtol=0, atol=1e-4)
    with pytest.raises(CacheFullError):
        session.feed(ids[:1])
    assert session.greedy(1) == [int(expected[-1].argmax())]  # the last logits need no room
    session.reset()
    session.feed(ids[:4])
    with pytest.raises(CacheFullError):
        session.greedy(CAPACITY - 2)
    assert len(session.greedy(CAPACITY - 3)) == CAPACITY - 3
    session.close()


def test_generation_ends_with_the_cache(model):
    tokens = list(model.generate_ids(random_ids(SHAPE.vocab, 10), 500))
    assert len(tokens) == CAPACITY - 10 + 1  # the last token is never fed


def test_a_prompt_that_does_not_fit(model):
    ids = random_ids(SHAPE.vocab, CAPACITY + 1)
    session = model.session()
    for call in (session.feed, model.forward, lambda x: list(model.generate_ids(x, 3))):
        with pytest.raises(PromptTooLongError, match=f"{CAPACITY + 1} tokens .* {CAPACITY}; .*max_tokens"):
            call(ids)
    assert model.score(ids).nll.shape == (CAPACITY,)  # the last id is only predicted
    with pytest.raises(PromptTooLongError):
        model.score(np.append(ids, 0))
    assert session.position == 0
    session.feed(ids[:CAPACITY])
    session.close()


@pytest.mark.parametrize(
    "ids, message",
    [
        ([], "non-empty list of integers"),
        ([[1, 2]], "non-empty list of integers"),
        ([0.5], "non-empty list of integers"),
        ([True], "non-empty list of integers"),
        ([3, -1], "token id -1 at place 1"),
        ([3, 4, SHAPE.vocab], f"token id {SHAPE.vocab} at place 2 is outside the vocabulary"),
        ([2**40], "outside the vocabulary"),
    ],
)
def test_bad_token_ids(model, ids, message):
    session = model.session()
    for call in (model.forward, model.score, session.feed):
        with pytest.raises(WorkbenchError, match=message):
            call(ids)
    session.close()


def test_misused_sessions(model):
    session = model.session()
    with pytest.raises(WorkbenchError, match="feed a prompt"):
        session.greedy(3)
    session.feed([1])
    with pytest.raises(WorkbenchError, match="at least one token"):
        session.greedy(0)
    with pytest.raises(WorkbenchError, match="outside the vocabulary"):
        session.greedy_after(SHAPE.vocab, 1)
    session.greedy_after(1, 2)
    with pytest.raises(WorkbenchError, match="feed a prompt"):
        session.greedy(1)  # the logits of the prompt are no longer the last ones
    session.close()
    session.close()
    with pytest.raises(WorkbenchError, match="closed"):
        session.feed([1])


def test_scoring_one_token(model):
    with pytest.raises(WorkbenchError, match="at least two tokens"):
        model.score([1])


# ---- devices -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("use", ["forward", "score", "generate", "forward of another length"])
def test_a_lost_device_is_replaced_at_the_next_call(checkpoint, own_devices, use):
    model = model_on(checkpoint, own_devices, max_tokens=CAPACITY)
    ids = random_ids(SHAPE.vocab, 5)
    run = {
        "forward": lambda: model.forward(ids).logits,
        "score": lambda: model.score(ids).nll,
        "generate": lambda: np.array(list(model.generate_ids(ids, 4))),
        "forward of another length": lambda: model.forward(ids[:2]).logits,
    }[use]
    expected = model.forward(ids).logits if "another" in use else run()
    session = model.session()
    session.feed(ids)
    own_devices.opened[0].wgpu.destroy()
    with pytest.raises(DeviceLostError, match="was lost"):
        run()
    again = run()
    assert len(own_devices.opened) == 2
    if "another" in use:
        again, expected = again, expected[:2]
        assert np.allclose(again, expected, rtol=0, atol=1e-5)
    else:
        assert np.array_equal(again, expected)
    with pytest.raises(DeviceLostError):  # what the session held is gone
        session.feed(ids)
    session.close()
    fresh = model.session()
    fresh.feed(ids)
    fresh.close()


def test_a_device_lost_before_anything_was_uploaded(checkpoint, own_devices):
    model = model_on(checkpoint, own_devices, max_tokens=CAPACITY)
    own_devices.opened[0].wgpu.destroy()
    with pytest.raises(DeviceLostError):
        model.forward([1, 2])
    assert model.forward([1, 2]).logits.shape == (2, SHAPE.vocab)


def test_a_cache_beyond_memory(checkpoint, own_devices):
    """No buffer so large is allowed; what was allocated before the failure is given back."""
    model = model_on(checkpoint, own_devices, max_tokens=CAPACITY)
    expected = model.forward([1, 2, 3]).logits
    device = own_devices.opened[0]
    before = device.allocated
    model.max_tokens = 10**9
    for call in (model.session, lambda: list(model.generate_ids([1], 2))):
        with pytest.raises(
            OutOfMemoryError, match=r"takes 256000000000 bytes, 256 a position, and a binding of .* holds"
        ):
            call()
        assert device.allocated == before
    model.max_tokens = CAPACITY
    assert np.array_equal(model.forward([1, 2, 3]).logits, expected)
    session = model.session()
    assert device.allocated > before
    session.close()
    assert device.allocated == before
    session = model.session()
    session.feed([1])
    del session  # forgotten, not closed
    assert device.allocated == before


@pytest.mark.parametrize("fails_at", [1, 2, 5, 11, 23])
def test_memory_that_ends_during_a_call(checkpoint, own_devices, monkeypatch, fails_at):
    """The device refuses the n-th buffer from the first call on: weights, arena and cache stay whole or absent."""
    import wgpu

    device = own_devices()
    allocate, calls = device.wgpu.create_buffer, []

    def failing(**arguments):
        calls.append(arguments["size"])
        if len(calls) == fails_at:
            raise wgpu.GPUOutOfMemoryError("Not enough memory left")
        return allocate(**arguments)

    model = model_on(checkpoint, own_devices, max_tokens=CAPACITY)
    ids = random_ids(SHAPE.vocab, 9)
    with monkeypatch.context() as patch:
        patch.setattr(device.wgpu, "create_buffer", failing)
        with pytest.raises(OutOfMemoryError, match="could not allocate"):
            model.forward(ids)
    assert len(own_devices.opened) == 1  # the device is as good as before
    expected = reference_on(checkpoint).forward(ids).logits
    assert np.abs(model.forward(ids).logits - expected).max() <= 1e-5 * np.abs(expected).max()


def test_an_arena_that_cannot_grow_stays_usable(checkpoint, own_devices, monkeypatch):
    import wgpu

    model = model_on(checkpoint, own_devices, max_tokens=CAPACITY)
    expected = model.forward([1, 2, 3]).logits
    device = own_devices.opened[0]
    allocate = device.wgpu.create_buffer

    def failing(**arguments):
        if len(refused) < 1 and sum(made) > 0:
            refused.append(arguments)
            raise wgpu.GPUOutOfMemoryError("Not enough memory left")
        made.append(1)
        return allocate(**arguments)

    made, refused = [], []
    with monkeypatch.context() as patch:
        patch.setattr(device.wgpu, "create_buffer", failing)
        with pytest.raises(OutOfMemoryError):
            model.forward(random_ids(SHAPE.vocab, 16))
    assert np.array_equal(model.forward([1, 2, 3]).logits, expected)
    assert model.forward(random_ids(SHAPE.vocab, 16)).logits.shape == (16, SHAPE.vocab)


def test_buffers_must_fit_a_binding(own_devices):
    device = own_devices()
    with pytest.raises(OutOfMemoryError, match=f"limit of {128 << 20}"):
        device.buffer((128 << 20) + 16)  # below the limit of a buffer, above that of a binding


def test_steps_fit_a_binding():
    from workbench.models.families import architecture_of

    config = {
        "model_type": "llama",
        "vocab_size": 300_000,
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 8,
    }
    assert wgpu_executor.chunk_sizes(architecture_of(config), 128 << 20)[0] == 64
    assert wgpu_executor.chunk_sizes(architecture_of(config), 1 << 10) == (1,)
    config["vocab_size"] = 128_256
    assert wgpu_executor.chunk_sizes(architecture_of(config), 128 << 20) == wgpu_executor.CHUNKS


@pytest.mark.skipif(sys.platform != "linux", reason="Vulkan's drivers can be hidden on Linux")
def test_without_an_adapter_the_references_run_and_say_so(checkpoint):
    script = """
        import sys, workbench
        from workbench.errors import NoAdapterError
        model = workbench.load(sys.argv[1], max_tokens=32, dtype="auto")
        print(model.backend)
        print([reason for what, _, reason in model.choices if what == "backend"][0])
        print(model.forward([1, 2, 3]).logits.shape)
        try:
            workbench.load(sys.argv[1], backend="wgpu")
        except NoAdapterError as error:
            print("refused:", error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(checkpoint)],
        env=without_vulkan(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    backend, reason, shape, refused = done.stdout.strip().splitlines()
    assert backend == "torch"
    assert "adapter" in reason and "PyTorch references run instead" in reason
    assert shape == f"(3, {SHAPE.vocab})"
    assert refused.startswith("refused: ") and "adapter" in refused
