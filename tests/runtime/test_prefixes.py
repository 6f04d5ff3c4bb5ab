"""What prompts have in common is read once: beginnings that stay in a sequence, and that are copied to another one."""

from __future__ import annotations

from contextlib import closing, contextmanager
from functools import partial

import numpy as np
import pytest

import workbench
from tests.models.lora_cases import write_adapter
from workbench.errors import OutOfMemoryError, WorkbenchError
from workbench.plan.plan import RING_ROWS, Ring
from workbench.runtime.prefixes import KEPT_SHARE, WORTH, common
from workbench.runtime.sampling import SamplingOptions
from workbench.runtime.scheduler import Scheduler

from .models import STACKABLE, model_on, random_ids, reference_on, write_random
from .test_ring import off
from .test_scheduler import Taken, alone, drain

pytestmark = pytest.mark.usefixtures("few_steps")

IDS = random_ids(STACKABLE.vocab, 2 * RING_ROWS + 60).tolist()
CAPACITY = 128


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_random(tmp_path_factory.mktemp("prefixes") / "model", STACKABLE)


@pytest.fixture(scope="module")
def references(checkpoint):
    return reference_on(checkpoint, max_tokens=CAPACITY)


@contextmanager
def counted(model, sequences=3, **options):
    """A scheduler, and the tokens that its batch was fed, one number a step."""
    with closing(model.batch(sequences)) as batch:
        fed: list[int] = []
        feed, score = batch.feed, batch.score
        batch.feed = lambda texts: (fed.append(sum(map(len, texts.values()))), feed(texts))[1]
        batch.score = lambda texts, likely: (
            fed.append(sum(len(ids) for ids, _ in texts.values())),
            score(texts, likely),
        )[1]
        yield Scheduler(batch, **options), fed


def test_the_longest_common_beginning_is_found():
    rng = np.random.default_rng(1)
    for _ in range(300):
        one, other = (rng.integers(0, 2, rng.integers(0, 9)).tolist() for _ in range(2))
        slow = next((n for n, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), None)
        assert common(one, other) == (min(len(one), len(other)) if slow is None else slow)


@pytest.mark.parametrize("count", [20, 100], ids=["by heads", "whole"])
@pytest.mark.parametrize("backend, cache", [("torch", "int8"), ("wgpu", "f32"), ("wgpu", "int8")])
def test_a_copy_is_what_reading_gives(checkpoint, open_promised, backend, cache, count):
    """Beside sequences that stay what they were."""
    made = (
        partial(model_on, checkpoint, open_promised)
        if backend == "wgpu"
        else partial(reference_on, checkpoint)
    )
    model = made(max_tokens=CAPACITY, cache=cache)
    with closing(model.batch(3)) as batch:
        batch.feed({0: IDS[:110], 1: IDS[200:230], 2: IDS[300:310]})
        batch.copy(0, 1, count)
        assert [batch.length(n) for n in range(3)] == [110, count, 10]
        batch.take_back(0, 110 - count)
        found = batch.feed({0: IDS[count : count + 1], 1: IDS[count : count + 1], 2: IDS[310:311]})
        assert np.array_equal(found[0], found[1])
        for n, ids in ((1, IDS[: count + 1]), (2, IDS[300:311])):
            with closing(
                model.session()
            ) as session:  # where a step of another size rounds otherwise, INT8 shows it
                assert off(found[n], session.feed(ids)) < (1e-5 if cache == "f32" else 1e-3)


def test_rings_are_copied_as_far_as_they_reach(checkpoint, open_promised):
    """A sequence that has gone round its ring can be gone on with where it ends, and not where it began."""
    ring = Ring(window=20, sinks=3)
    for made in (partial(reference_on, checkpoint), partial(model_on, checkpoint, open_promised)):
        model = made(max_tokens=700, ring=ring)
        with closing(model.batch(2)) as batch:
            batch.feed({0: IDS[:500], 1: IDS[:9]})
            assert batch.can_share(0, 400) and not batch.can_share(0, 100)
            with pytest.raises(
                WorkbenchError, match=r"sequence 0 cannot be shared up to token 100: .*window"
            ):
                batch.copy(0, 1, 100)
            assert batch.length(1) == 9
            batch.copy(0, 1, 400)
            found = batch.feed({1: IDS[400:402]})[1]
            batch.take_back(0, 100)
            assert off(found, batch.feed({0: IDS[400:402]})[0]) < 1e-5


def test_what_cannot_be_copied_is_said(references):
    with closing(references.batch(2)) as batch:
        batch.feed({0: IDS[:5]})
        for source, target, count in ((0, 1, 6), (0, 0, 2), (1, 0, 1)):
            with pytest.raises(WorkbenchError, match=f"{count} tokens of sequence {source} cannot be copied"):
                batch.copy(source, target, count)
        with pytest.raises(WorkbenchError, match="there is no sequence 2"):
            batch.copy(0, 2, 1)
    edit = {"layers.0.out": lambda x, positions, sequences: x}
    with closing(references.batch(2, edit)) as batch:
        batch.feed({0: IDS[:5]})
        with pytest.raises(WorkbenchError, match="edits tell sequences apart"):
            batch.copy(0, 1, 3)


@pytest.mark.parametrize("backend", ["torch", "wgpu"])
def test_prompts_that_begin_alike_are_read_once(checkpoint, references, open_promised, backend):
    """Side by side, one behind the other, in the middle of another's answer: tokens as without, and steps saved."""
    model = references if backend == "torch" else model_on(checkpoint, open_promised, max_tokens=CAPACITY)
    system, drawn = IDS[:70], SamplingOptions(0.9, seed=3)
    first = [Taken([*system, 1, 2, 3]), Taken([*system, 4], options=drawn), Taken([*system, 1, 2, 3])]
    with counted(model) as (scheduler, fed):
        for job in first:
            scheduler.submit(job)
        drain(scheduler)
        together = sum(fed) - 5 * 3  # but for what was drawn: greedy steps feed by themselves
        again = Taken([*system, 1, 2, 3, *first[0].tokens[:4], 9, 9])
        scheduler.submit(again)
        drain(scheduler)
    assert [job.reused for job in first] == [0, 70, 72] and again.reused == 77
    assert together <= 73 + 1 + 1
    with counted(model, reuse=False) as (scheduler, plain):
        others = [Taken(job.ids, options=job.options) for job in (*first, again)]
        for job in others:
            scheduler.submit(job)
        drain(scheduler)
    assert [job.tokens for job in (*first, again)] == [job.tokens for job in others]
    assert [job.reused for job in others] == [0] * 4
    assert sum(plain) - sum(fed) >= 70 + 72 + 77 - 5 and len(fed) <= len(plain) + 3


def test_what_is_not_the_same_is_read(references):
    """The last token of a prompt always; short beginnings of others; prompts of whose tokens all are scored."""
    with counted(references, 2) as (scheduler, _):
        jobs = [Taken(IDS[:50]), Taken(IDS[:50], likely=0, scored=True), Taken(IDS[: WORTH - 1])]
        for job in jobs:
            scheduler.submit(job)
            drain(scheduler)
        assert [job.reused for job in jobs] == [0, 0, WORTH - 2]
        assert len(jobs[1].told) == 49
        expected = references.score(IDS[:50])
        np.testing.assert_allclose([each.log_p for each in jobs[1].told], -expected.nll, atol=1e-4)
    assert jobs[0].tokens == jobs[1].tokens == alone(references, IDS[:50])
    assert jobs[2].tokens == alone(references, IDS[: WORTH - 1])


def test_a_sequence_with_a_long_text_is_not_given_up_for_a_short_beginning(references):
    """Its beginning is copied to the sequence that was free for longest, or read again; what it holds stays."""
    with counted(references, 2) as (scheduler, _):
        long, short, again = Taken(IDS[:90]), Taken([*IDS[:35], 7]), Taken([*IDS[:90], 8])
        for job in (long, short, again):
            scheduler.submit(job)
            drain(scheduler)
        assert KEPT_SHARE * 90 > 35 and short.reused == 35
        assert again.reused == 90
    for job in (short, again):
        assert job.tokens == alone(references, job.ids)


def test_the_sequence_that_is_taken_keeps_what_it_has_in_common(references):
    """Also where that is little of a long text, and another sequence, free for less long, is not touched."""
    with counted(references, 2) as (scheduler, _):
        first, second, again = Taken(IDS[:90]), Taken(IDS[200:240]), Taken([*IDS[:20], 7])
        for job in (first, second, again):
            scheduler.submit(job)
            drain(scheduler)
        assert again.reused == 20 and again.tokens == alone(references, again.ids)
        scheduler.submit(other := Taken([*IDS[200:240], 8]))
        drain(scheduler)
        assert other.reused == 40


def test_one_that_waits_for_another_goes_on_when_that_one_ends(references):
    with counted(references, 3, chunk=41) as (scheduler, _):
        writes, reads, waits = Taken(IDS[99:101], 40, likely=0), Taken(IDS[:80]), Taken([*IDS[:75], 5])
        scheduler.submit(writes)
        scheduler.step()
        for job in (reads, waits):
            scheduler.submit(job)
        scheduler.step()
        reads.cancelled = True
        drain(scheduler)
        assert reads.drawn == [] and waits.tokens == alone(references, waits.ids)
        assert waits.reused == 40  # of what the other one had read, beside a token of the one that writes


def test_what_failed_is_not_gone_on_with_and_a_copy_may_fail(references, monkeypatch):
    class Broken(Taken):
        def take(self, drawn):
            raise KeyError("a mistake of this job")

    with counted(references, 1) as (scheduler, _):
        broken, job = Broken(IDS[:50]), Taken(IDS[:50])
        for each in (broken, job):
            scheduler.submit(each)
        drain(scheduler)
        assert job.reused == 0
    with counted(references, 2) as (scheduler, _):

        def no_memory(*arguments):
            raise OutOfMemoryError("no memory for a copy")

        monkeypatch.setattr(references.executor, "copy_sequence", no_memory)
        jobs = [Taken(IDS[:50]), Taken([*IDS[:50], 3])]
        for job in jobs:
            scheduler.submit(job)
        drain(scheduler)
        assert jobs[1].reused == 0 and jobs[1].tokens == alone(references, jobs[1].ids)


def test_batches_of_prompts_share_what_they_begin_with(shallow):
    """As users call it."""
    model = workbench.load(shallow, backend="torch", max_tokens=128)
    prompts = [
        "Once upon a time there was a little dog who liked to play in the park with " * 2 + each
        for each in "ABC"
    ]
    found = model.generate_batch(prompts, 5, sequences=2)
    assert [each.ids for each in found] == [
        tuple(model.generate_ids(model.encode_prompt(prompt), 5)) for prompt in prompts
    ]


def test_a_beginning_is_shared_by_those_who_read_it_with_one_adapter(checkpoint, tmp_path):
    """The same tokens have other keys and values with another adapter: in a free sequence, beside, and to be copied."""
    changed = {"model.layers.0.self_attn.v_proj": 4}
    lora = {
        name: write_adapter(tmp_path / name, checkpoint, changed, scale=3.0, seed=seed)
        for seed, name in enumerate(("one", "other"))
    }
    model = workbench.load(checkpoint, backend="torch", lora=lora, max_tokens=CAPACITY)
    prompt = [*IDS[:70], 1, 2, 3]
    with counted(model, sequences=4) as (scheduler, _):
        jobs = []
        for names in (("one", "other", None), ("other", "one")):
            for name in names:
                jobs.append(Taken(prompt))
                jobs[-1].adapter = name
                scheduler.submit(jobs[-1])
            drain(scheduler)
    assert [job.reused for job in jobs] == [0, 0, 0, 72, 72]
    for job in jobs:
        assert job.tokens == list(model.generate_ids(prompt, len(job.tokens), adapter=job.adapter))
    assert jobs[0].tokens != jobs[1].tokens != jobs[2].tokens
    with closing(model.batch(2)) as batch:
        batch.reset(1, "one")
        batch.feed({0: IDS[:5]})
        with pytest.raises(WorkbenchError, match="sequences 0 and 1 have other adapters"):
            batch.copy(0, 1, 3)
