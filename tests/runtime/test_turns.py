"""A session is used by one call at a time: edits, other threads and what comes between steps are refused."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from workbench.errors import CacheFullError, SessionBusyError, WorkbenchError
from workbench.runtime import torch_executor
from workbench.runtime.sampling import SamplingOptions

from .models import SHAPES, model_on, random_ids, reference_on, write_random

SHAPE = SHAPES[5]
CAPACITY = 24
USES = {
    "feed": lambda session: session.feed([1]),
    "stream": lambda session: next(session.stream(1, 1)),
    "draw": lambda session: session.draw(SamplingOptions()),
    "feed_all": lambda session: next(session.feed_all([1])),
    "greedy": lambda session: session.greedy(1),
    "greedy_after": lambda session: session.greedy_after(1, 1),
    "back": lambda session: session.back(1),
    "reset": lambda session: session.reset(),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_random(tmp_path_factory.mktemp("turns") / "model", SHAPE)


@pytest.fixture(scope="module", params=["wgpu", "torch"])
def model(request, checkpoint, open_promised):
    if request.param == "wgpu":
        return model_on(checkpoint, open_promised, max_tokens=CAPACITY)
    return reference_on(checkpoint, max_tokens=CAPACITY)


@pytest.fixture
def in_steps(model, monkeypatch):
    """Steps of four tokens at most, on both backends."""
    monkeypatch.setattr(torch_executor, "PREFILL", 4)
    if model.backend == "wgpu":
        monkeypatch.setattr(model.executor, "chunks", (4, 1))


@pytest.mark.parametrize("use", USES)
def test_nothing_comes_between_the_steps_of_an_iterator(model, in_steps, use):
    ids = random_ids(SHAPE.vocab, 12)
    expected = model.forward(ids).logits
    session = model.session()
    steps = session.feed_all(ids)
    first = next(steps)
    assert len(first) == session.position == 4
    with pytest.raises(SessionBusyError, match="between the steps of `feed_all`"):
        USES[use](session)
    assert session.position == 4
    assert np.allclose(
        np.concatenate([first, *steps]), expected, rtol=0, atol=1e-4
    )  # as if nothing had happened
    session.feed(ids[: CAPACITY - 12])
    session.close()


def test_an_iterator_that_is_left_leaves_the_session_free(model, in_steps):
    session = model.session()
    steps = session.feed_all(random_ids(SHAPE.vocab, 12))
    next(steps)
    steps.close()
    assert session.position == 4
    session.feed([1])
    next(session.feed_all([1, 2]))  # forgotten at once
    session.reset()
    session.close()


def test_a_session_closed_between_steps_says_so(model, in_steps):
    session = model.session()
    steps = session.feed_all(random_ids(SHAPE.vocab, 8))
    next(steps)
    session.close()
    with pytest.raises(WorkbenchError, match="this session is closed"):
        next(steps)
    whole = model.session()
    steps = whole.feed_all(random_ids(SHAPE.vocab, 4))
    next(steps)
    whole.close()
    assert list(steps) == []  # there was nothing left to feed


@pytest.mark.parametrize("use", [*USES, "close"])
def test_nothing_interrupts_a_step(model, use):
    said = []

    def edit(x, position):
        with pytest.raises(SessionBusyError, match="in the middle of `feed`"):
            (USES | {"close": lambda session: session.close()})[use](session)
        said.append(position)
        return x

    session = model.session(edit={"layers.0.mlp.out": edit})
    ids = random_ids(SHAPE.vocab, 5)
    logits = session.feed(ids)
    assert said and session.position == 5
    assert np.allclose(logits, model.forward(ids).logits[-1], rtol=0, atol=1e-4)
    session.close()


def test_another_thread_is_told(model):
    """While one thread's step waits in an edit, another's call is refused, and the step ends as it would have."""
    found = []

    def other():
        try:
            session.feed([3])
        except SessionBusyError as error:
            found.append(str(error))

    def edit(x, position):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(60)
        return x

    session = model.session(edit={"layers.0.mlp.out": edit})
    session.feed([1, 2])
    assert session.position == 2 and found and "other threads" in found[0]
    session.close()


def test_executors_keep_to_their_caches(model):
    """Whoever drives an executor by hand gets an error where a session would have refused."""
    executor = model.executor
    cache = executor.new_cache(4)
    executor.run("last", np.array([1, 2, 3]), cache)
    with pytest.raises(CacheFullError, match="2 tokens from position 3 do not fit into a cache of 4"):
        executor.run("last", np.array([1, 2]), cache)
    with pytest.raises(CacheFullError):
        next(executor.stream("greedy", 1, 2, cache))
    assert cache.position == 3
    executor.free_cache(cache)
    with pytest.raises(WorkbenchError, match="given back"):
        executor.run("last", np.array([1]), cache)
