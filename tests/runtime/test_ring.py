"""Caches that windows bound: texts go on past the context and past the cache, as in StreamingLLM."""

from __future__ import annotations

import itertools
from contextlib import closing
from functools import partial

import numpy as np
import pytest
import torch

import workbench
from tests.models.family_cases import config_of, oracle_logits, write_family
from workbench.assets import demo_model_path
from workbench.errors import CacheFullError, OutOfMemoryError, WorkbenchError
from workbench.plan import plan as plan_module
from workbench.plan.plan import RING_ROWS, Ring
from workbench.runtime import cache as cache_module
from workbench.runtime.info import describe
from workbench.runtime.scheduler import Scheduler

from .models import STACKABLE, model_on, random_ids, reference_on, write_random
from .streaming_llm import streamed_logits
from .test_scheduler import Taken

RING = Ring(window=20, sinks=3)
#: Round the ring twice, in prompts whose steps cross its edge.
IDS = random_ids(STACKABLE.vocab, 2 * (RING.window + RING_ROWS) + 30)

#: Of all models, so that they share what is compiled.
MAX_TOKENS = 700


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_random(tmp_path_factory.mktemp("ring") / "model", STACKABLE)


@pytest.fixture(scope="module")
def streamed(checkpoint):
    """Logits of `IDS` as the paper gives them, in f64."""
    return streamed_logits(checkpoint, IDS, STACKABLE.heads, STACKABLE.kv_heads, RING.window, RING.sinks)


def off(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def test_references_give_what_the_paper_says(checkpoint, streamed):
    model = reference_on(checkpoint, compute=torch.float64, max_tokens=MAX_TOKENS, ring=RING)
    found = model.forward(IDS).logits
    assert model._scratch[False].tensors["layers.0.kv"].shape[3] == RING.slots(MAX_TOKENS) < len(IDS)
    assert off(found, streamed) < 2e-5  # the rotary table is f32


@pytest.mark.parametrize("window, sinks", [(1, 2), (7, 0)])
def test_windows_without_sinks_and_sinks_beside_a_single_token(checkpoint, window, sinks):
    ids = IDS[:40]
    expected = streamed_logits(checkpoint, ids, STACKABLE.heads, STACKABLE.kv_heads, window, sinks)
    model = reference_on(checkpoint, compute=torch.float64, max_tokens=64, ring=Ring(window, sinks))
    assert off(model.forward(ids).logits, expected) < 2e-5


@pytest.mark.parametrize(
    "cache, allowed", [("f32", 1e-4), ("f16", 2e-2), ("int8", 5e-2)], ids=["f32", "f16", "int8"]
)
def test_kernels_go_round_the_ring(checkpoint, streamed, open_promised, cache, allowed):
    """A prompt in steps that cross the edge, then tokens one by one."""
    device = open_promised()
    if cache == "f16" and not device.adapter.f16:
        pytest.skip(f"{device.name} has no shader-f16")
    model = model_on(checkpoint, open_promised, max_tokens=MAX_TOKENS, cache=cache, ring=RING)
    prompt = len(IDS) - 9
    with closing(model.session()) as session:
        rows = [session.feed(IDS[:prompt])]
        rows += [session.feed([token]) for token in IDS[prompt:]]
        assert off(np.stack(rows), streamed[prompt - 1 :]) < allowed


@pytest.fixture(scope="module", params=["wgpu", "torch"])
def model(request, checkpoint, open_promised):
    made = (
        partial(model_on, checkpoint, open_promised)
        if request.param == "wgpu"
        else partial(reference_on, checkpoint)
    )
    return made(max_tokens=MAX_TOKENS, ring=RING)


def test_a_session_goes_back_further_than_the_ring_reaches(model, streamed):
    """What the ring has lost is fed once more."""
    with closing(model.session()) as session:
        session.feed(IDS[:500])
        session.back(RING_ROWS)
        assert session._cache.holds(session.position)
        session.back(10)
        assert not session._cache.holds(session.position)
        place = session.position
        assert off(session.feed(IDS[place : place + 1]), streamed[place]) < 1e-4
        stream = session.stream(int(IDS[place + 1]), 30)
        next(stream)
        stream.close()  # steps that ran ahead leave no trace
        assert off(session.feed(IDS[place + 2 : place + 3]), streamed[place + 2]) < 1e-4
        session.reset()
        assert off(session.feed(IDS[:5]), streamed[4]) < 1e-4


def test_a_batch_refuses_to_go_back_further_than_the_ring_reaches(model, streamed):
    with closing(model.batch(2)) as batch:
        batch.feed({0: IDS[:400], 1: IDS[:8]})
        batch.take_back(1, 7)
        with pytest.raises(
            WorkbenchError, match="300 tokens cannot be taken back of sequence 0: its window bounds"
        ):
            batch.take_back(0, 300)
        found = batch.feed({0: IDS[400:410], 1: IDS[1:3]})
        assert off(found[0], streamed[409]) < 1e-4 and off(found[1], streamed[2]) < 1e-4


@pytest.mark.parametrize("kept", [1, RING.sinks])
def test_another_text_begins_behind_sinks(checkpoint, kept):
    """Most texts have their first token in common, whatever a sequence has read before: with it alone, all that the
    ring holds is of the text before, and nobody sees it."""
    model = reference_on(checkpoint, max_tokens=MAX_TOKENS, ring=RING)
    text = np.concatenate([IDS[:kept], IDS[200:500]])  # longer than a step
    with (
        closing(model.session()) as fresh,
        closing(model.session()) as session,
        closing(model.batch(1)) as batch,
    ):
        expected = fresh.feed(text)
        session.feed(IDS[:550])
        session.back(550 - kept)
        assert off(session.feed(text[kept:]), expected) < 1e-5
        batch.feed({0: IDS[:550]})
        batch.take_back(0, 550 - kept)
        assert off(batch.feed({0: text[kept:]})[0], expected) < 1e-5
        assert not batch.can_share(0, kept + 5)  # the ring is that of the new text now


def test_a_step_that_fails_beside_others_loses_nothing_of_a_prompt(checkpoint, monkeypatch):
    """Each is tried alone then, from where it was. Rings of 16 rows a step: a piece of a prompt could be several."""
    made = partial(
        reference_on, checkpoint, compute=torch.float64, max_tokens=200, ring=Ring(window=5, sinks=2)
    )
    jobs = [Taken(IDS[300:310].tolist(), 30, likely=0), Taken(IDS[:150].tolist(), 3)]
    expected = [list(made().generate_ids(job.ids, job.limit)) for job in jobs]
    for module in (plan_module, cache_module):
        monkeypatch.setattr(module, "RING_ROWS", 16)
    model = made()
    with closing(model.batch(2)) as batch:
        scheduler = Scheduler(batch, chunk=64)
        scheduler.submit(jobs[0])
        scheduler.step()
        scheduler.submit(jobs[1])
        real, steps = model.executor.run_step, itertools.count()

        def once(*arguments, **options):
            if next(steps) == 6:
                raise OutOfMemoryError("no memory for this one")
            return real(*arguments, **options)

        monkeypatch.setattr(model.executor, "run_step", once)
        while scheduler.busy:
            scheduler.step()
    assert next(steps) > 6 and [job.error for job in jobs] == [None, None]
    assert [job.tokens for job in jobs] == expected


def test_the_text_still_ends_at_max_tokens(model):
    with closing(model.session()) as session:
        session.feed(IDS)
        with pytest.raises(CacheFullError, match="holds 582 of 700"):
            session.feed(IDS[:119])


@pytest.mark.parametrize(
    "family, index, rings", [("mistral", 0, 1), ("gemma3_text", 0, 1), ("llama4_text", 0, 1)]
)
def test_windows_and_chunks_of_a_model_bound_its_cache(tmp_path, open_promised, family, index, rings):
    """Far beyond the ring, against transformers."""
    folder = write_family(tmp_path / family, family, index)
    ids = random_ids(config_of(family)["vocab_size"], 300)
    expected = oracle_logits(folder, ids)
    reference = reference_on(folder, compute=torch.float64, max_tokens=400)
    found = {ring.slots(400) for ring in reference.plan("all").rings}
    assert len(found) == rings and max(found) < len(ids)
    assert off(reference.forward(ids).logits, expected) < 1e-5
    if family == "mistral":
        assert off(model_on(folder, open_promised, max_tokens=400).forward(ids).logits, expected) < 1e-4


def test_a_window_may_not_cut_chunks(tmp_path):
    folder = write_family(tmp_path / "llama4", "llama4_text")
    with pytest.raises(
        WorkbenchError, match=r"window = 8 cuts the attention of layers\.0 in chunks of 16; allowed: 16"
    ):
        workbench.load(folder, backend="torch", window=8)


def test_an_option_of_load_and_of_the_forecast():
    whole = describe(demo_model_path(), backend="torch", max_tokens=8192)
    bounded = describe(demo_model_path(), backend="torch", max_tokens=8192, window=100, sinks=4)
    slots = 100 + 4 + RING_ROWS - 1
    assert bounded.rings == {slots: whole.config.layers} and not whole.rings
    assert bounded.forecast.cache * 8192 == whole.forecast.cache * slots
    assert f"{slots} of them in {whole.config.layers} layer(s)" in str(bounded)
    model = workbench.load(demo_model_path(), backend="torch", window=24, sinks=2)
    assert model.max_tokens > model.context_length
    assert ("window", "24 tokens and the first 2", "asked for: no layer sees more of a text") in model.choices


@pytest.mark.parametrize(
    "options, message",
    [
        ({"sinks": 4}, "sinks = 4 without a window"),
        ({"window": 0}, "window is an integer from 1"),
        ({"window": True}, "window is an integer from 1"),
        ({"window": 8, "sinks": -1}, "sinks is an integer from 0"),
    ],
)
def test_what_a_window_cannot_be(options, message):
    with pytest.raises(WorkbenchError, match=message):
        workbench.load(demo_model_path(), backend="torch", **options)
