"""Jobs that join and leave a batch between two tokens: each gets what it gets alone."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest

import workbench
from workbench.errors import NonFiniteError, PromptTooLongError, WorkbenchError
from workbench.runtime import batch as batch_module
from workbench.runtime.jobs import Job
from workbench.runtime.sampling import Drawn, SamplingOptions
from workbench.runtime.scheduler import Scheduler

SEQUENCES = 4
PROMPTS = (
    "Once upon a time",
    "The dog",
    "Lily and Tom went to the park, and there they saw a big dog",
    "One day",
)


class Taken(Job):
    """A job that keeps what it is given. last: the token that ends it."""

    def __init__(self, ids, limit=6, options=None, likely=None, scored=False, last=None):
        super().__init__(list(ids), limit, options or SamplingOptions())
        self.likely, self.scored, self.last = likely, scored, last
        self.drawn: list[Drawn] = []
        self.told: list[Drawn] = []
        self.ends = 0

    def take(self, drawn):
        self.drawn.append(drawn)
        if drawn.id == self.last:
            self.finish_reason = "stop"
        return self.finish_reason is None

    def score(self, told):
        self.told += told

    def end(self, error=None):
        super().end(error)
        self.ends += 1

    @property
    def tokens(self):
        return [each.id for each in self.drawn]


@pytest.fixture(scope="module")
def references(shallow):
    return workbench.load(shallow, backend="torch", max_tokens=48)


@pytest.fixture(scope="module", params=["torch"])
def model(request, shallow, references):
    """The references, and where a test asks for them the kernels."""
    return references if request.param == "torch" else workbench.load(shallow, backend="wgpu", max_tokens=48)


both = pytest.mark.parametrize("model", ["torch", "wgpu"], indirect=True)


@pytest.fixture(scope="module")
def prompts(references):
    return [references.encode_prompt(each) for each in PROMPTS]


@pytest.fixture
def scheduler(model):
    with closing(model.batch(SEQUENCES)) as batch:
        yield Scheduler(batch, chunk=8)


def drain(scheduler: Scheduler) -> None:
    while scheduler.busy:
        scheduler.step()


def alone(model, ids, limit=6, options=None) -> list[int]:
    return list(model.generate_ids(ids, limit, options))


@both
def test_jobs_that_join_in_the_middle_get_what_they_get_alone(model, prompts, scheduler):
    """Greedy and drawn, with and without ln p, prompts longer than a piece, more jobs than sequences."""
    options = [
        SamplingOptions(),
        SamplingOptions(0.9, top_p=0.9, seed=7),
        SamplingOptions(1.3, top_k=20, seed=2),
    ]
    jobs = []
    for round in range(3):
        for index, ids in enumerate(prompts):
            job = Taken(ids, 4 + index, options[(round + index) % 3], likely=3 if index == 1 else None)
            jobs.append(job)
            scheduler.submit(job)
            scheduler.step()
    assert scheduler.running == SEQUENCES and scheduler.free == 0
    drain(scheduler)
    for job in jobs:
        assert job.tokens == alone(model, job.ids, job.limit, job.options)
        assert job.finish_reason == "length" and job.error is None and job.ends == 1
    told = model.forward([*jobs[1].ids, *jobs[1].tokens]).logits.astype(np.float64)[len(jobs[1].ids) - 1 : -1]
    for logits, drawn in zip(told, jobs[1].drawn, strict=True):
        log_p = logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
        assert drawn.log_p == pytest.approx(log_p[drawn.id], abs=1e-4)
        assert [i for i, _ in drawn.likely] == np.argsort(-log_p, kind="stable")[:3].tolist()


def test_a_long_prompt_delays_those_that_write_by_a_piece_at_a_time(prompts, scheduler):
    writes, reads = Taken(prompts[1], 20, likely=0), Taken((prompts[2] * 3)[:40], 2)
    scheduler.submit(writes)
    scheduler.step()
    scheduler.submit(reads)
    before, steps = len(writes.drawn), 0
    while not reads.drawn:
        scheduler.step()
        steps += 1
    assert steps == -(-40 // 7)  # a row of each step is that of the one that writes
    assert len(writes.drawn) == before + steps


def test_a_sequence_is_free_at_once_when_its_job_ends_or_is_cancelled(model, prompts, scheduler):
    first = alone(model, prompts[0], 3)
    stops, goes, waits = Taken(prompts[0], 40, last=first[2]), Taken(prompts[1], 9), Taken(prompts[3], 5)
    gone = [Taken(ids, 40) for ids in prompts[:3]]
    for job in (*gone, stops, goes, waits):
        scheduler.submit(job)
    scheduler.step()
    assert scheduler.running == SEQUENCES and not waits.drawn
    for job in (*gone, waits):
        job.cancelled = True
    scheduler.step()
    assert [job.finish_reason for job in (*gone, waits)] == ["cancelled"] * 4 and not waits.drawn
    assert scheduler.running <= 2
    drain(scheduler)
    assert stops.tokens == first and stops.finish_reason == "stop"
    assert goes.tokens == alone(model, prompts[1], 9)


@both
def test_prompts_are_scored_beside_those_that_write(model, prompts, scheduler):
    writes = Taken(prompts[0], 9)
    scored = [Taken(prompts[2], 0, likely=0, scored=True), Taken(prompts[2], 1, likely=2, scored=True)]
    short = [Taken(prompts[1][:1], 0, likely=1, scored=True), Taken(prompts[1], 0)]
    for job in (writes, *scored, *short):
        scheduler.submit(job)
    drain(scheduler)
    assert writes.tokens == alone(model, prompts[0], 9)
    expected = model.score(prompts[2])
    for job in scored:
        assert [each.id for each in job.told] == prompts[2][1:]
        np.testing.assert_allclose([each.log_p for each in job.told], -expected.nll, atol=1e-4)
    assert [each.likely[0][0] for each in scored[1].told] == expected.top1.tolist()
    for each in scored[1].told:  # to the last digit, since clients compare
        assert (each.log_p == each.likely[0][1]) == (each.id == each.likely[0][0])
    assert {len(each.likely) for each in scored[0].told} == {0}
    assert {len(each.likely) for each in scored[1].told} == {2}
    assert scored[0].tokens == [] and scored[1].tokens == alone(model, prompts[2], 1)
    assert [job.finish_reason for job in (*scored, *short)] == ["length"] * 4
    assert short[0].told == [] and short[1].drawn == []


def test_the_end_of_a_sequence_is_told(model, prompts, scheduler):
    job = Taken(prompts[0], 1000)
    scheduler.submit(job)
    with pytest.raises(PromptTooLongError, match="49 tokens does not fit into 48"):
        scheduler.submit(Taken([5] * 49))
    with pytest.raises(WorkbenchError, match="with scored says how many"):
        scheduler.submit(Taken([5], scored=True))
    drain(scheduler)
    assert job.finish_reason == "context" and job.tokens == alone(model, prompts[0], 1000)


def test_what_goes_wrong_with_one_job_ends_that_one(model, prompts, scheduler, monkeypatch):
    """Logits of one sequence are not finite from a step on; and the code of another job raises."""

    class Broken(Taken):
        def take(self, drawn):
            raise KeyError("a mistake of this job")

    victim, breaks, others = (
        Taken(prompts[0], 9, likely=0),
        Broken(prompts[3]),
        [Taken(ids) for ids in prompts[1:3]],
    )
    for job in (victim, breaks, *others):
        scheduler.submit(job)
    real = batch_module.require_finite_rows

    def poisoned(names, results, texts):
        if 0 in texts and len(victim.drawn) == 2:
            raise NonFiniteError(f"logits of a step with sequences {texts} are not finite")
        real(names, results, texts)

    monkeypatch.setattr(batch_module, "require_finite_rows", poisoned)
    drain(scheduler)
    assert (
        isinstance(victim.error, NonFiniteError) and victim.finish_reason is None and len(victim.drawn) == 2
    )
    assert isinstance(breaks.error, KeyError)
    assert [job.tokens for job in others] == [alone(model, job.ids) for job in others]


def test_what_a_job_does_at_its_end_is_its_own(model, prompts, scheduler):
    """One whose end fails leaves the others alone, however they end."""

    class Broken(Taken):
        def end(self, error=None):
            super().end(error)
            raise KeyError("a mistake of this job")

    writes, none, gone, stays = (
        Broken(prompts[0], 3),
        Broken(prompts[1], 0),
        Broken(prompts[3]),
        Taken(prompts[1]),
    )
    for job in (writes, none, gone, stays):
        scheduler.submit(job)
    scheduler.step()
    gone.cancelled = True
    drain(scheduler)
    assert stays.tokens == alone(model, prompts[1]) and stays.error is None
    assert writes.tokens == alone(model, prompts[0], 3)
    for job in (writes, none, gone):
        assert isinstance(job.error, KeyError) and job.ends == 1
    last, beside = Broken(prompts[0]), Taken(prompts[1])
    for job in (last, beside):
        scheduler.submit(job)
    scheduler.end_all(error := RuntimeError("the device is gone"))
    assert last.error is beside.error is error and not scheduler.busy


def test_end_all_ends_what_runs_and_what_waits(prompts, scheduler):
    jobs = [Taken(ids, 40) for ids in (*prompts, *prompts)]
    for job in jobs:
        scheduler.submit(job)
    scheduler.step()
    error = RuntimeError("the device is gone")
    scheduler.end_all(error)
    assert not scheduler.busy and scheduler.free == SEQUENCES
    assert all(job.error is error and job.ends == 1 for job in jobs)
