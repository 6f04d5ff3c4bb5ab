"""Whatever comes when, each job of a batch gets what it gets alone: random jobs, on the references in f64."""

from __future__ import annotations

import random
from contextlib import closing

import pytest
import torch

import workbench
from tests.models.lora_cases import write_adapter
from workbench.plan import plan as plan_module
from workbench.plan.plan import Ring
from workbench.runtime import cache as cache_module
from workbench.runtime import torch_executor
from workbench.runtime.model import Model
from workbench.runtime.sampling import SamplingOptions
from workbench.runtime.scheduler import Scheduler
from workbench.runtime.torch_executor import TorchExecutor

from .models import Shape, write_random
from .test_scheduler import Taken

SHAPE = Shape("tiny", 32, 48, 2, 1, 16, vocab=67, layers=1)
CAPACITY, ADAPTERS = 96, (None, "one", "other")
#: Rows of a step in a ring, for short texts to go round it.
RING_ROWS = 16
OPTIONS = (
    SamplingOptions(),
    SamplingOptions(0.9, top_p=0.9, seed=3),
    SamplingOptions(1.3, top_k=9, repetition_penalty=1.3, seed=8),
)
#: Jobs of an interleaving, and interleavings of each kind of cache.
JOBS, SEEDS = 12, range(1, 5)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """By what bounds the cache and what it is stored as, with two adapters."""
    folder = tmp_path_factory.mktemp("interleavings")
    path, changed = write_random(folder / "model", SHAPE), {"model.layers.0.self_attn.v_proj": 4}
    lora = {
        name: write_adapter(folder / name, path, changed, scale=3.0, seed=seed)
        for seed, name in enumerate(ADAPTERS[1:])
    }
    loaded = workbench.load(path, backend="torch", max_tokens=CAPACITY, lora=lora)

    def made(cache: str, ring: Ring | None) -> Model:
        def executor() -> TorchExecutor:
            return TorchExecutor(loaded.source, loaded.config, cache=cache, ring=ring, compute=torch.float64)

        return Model(loaded.source, loaded.config, executor, [], CAPACITY)

    with pytest.MonkeyPatch.context() as short:
        for module in (plan_module, cache_module, torch_executor):
            short.setattr(module, "RING_ROWS", RING_ROWS)
        yield [made("f32", None), made("int8", None), made("f32", Ring(window=7, sinks=2))]


class Interleaving:
    """Jobs that come while others run, which go on with what others have read or written, or with a part of it that was
    changed, and of which some are cancelled."""

    def __init__(self, seed: int, model: Model) -> None:
        self.rng, self.model = random.Random(seed), model
        self.jobs: list[Taken] = []

    def run(self) -> None:
        rng = self.rng
        with closing(self.model.batch(rng.choice([1, 2, 3, 4]))) as batch:
            busy = rng.choice([0.1, 0.5])  # how often another one comes
            chunk, group_s = rng.choice([3, 32]), rng.choice([0.0, 10.0])
            scheduler = Scheduler(batch, chunk=chunk, group_s=group_s, reuse=rng.random() < 0.9)
            while len(self.jobs) < JOBS or scheduler.busy:
                while len(self.jobs) < JOBS and rng.random() < busy:
                    self.jobs.append(self.job())
                    scheduler.submit(self.jobs[-1])
                if self.jobs and rng.random() < 0.03:
                    rng.choice(self.jobs).cancelled = True
                scheduler.step()

    def job(self) -> Taken:
        rng = self.rng
        ended = [job for job in self.jobs if job.ends][-2:]  # those that a sequence may still hold
        known = ended if ended and rng.random() < 0.7 else self.jobs[-3:]
        before = rng.choice(known) if known and rng.random() < 0.85 else None
        likely, scored = rng.choice([(None, False)] * 5 + [(0, False), (2, True)])
        job = Taken(self.prompt(before), rng.choice([0, 1, 3, 7, 9, 60]), rng.choice(OPTIONS), likely, scored)
        job.adapter = before.adapter if before and rng.random() < 0.8 else rng.choice(ADAPTERS)
        return job

    def prompt(self, before: Taken | None) -> list[int]:
        rng = self.rng
        some = [rng.randrange(SHAPE.vocab) for _ in range(rng.choice([1, 3, 9, 9, 40, CAPACITY]))]
        if before is None:
            return some
        ids = [*before.ids, *before.tokens]
        if (how := rng.random()) < 0.25:  # its beginning; else the next turn, or that of an edited history
            ids = ids[: rng.randint(1, len(ids))]
        elif how < 0.5:
            at = rng.randrange(len(ids))
            ids[at] = (ids[at] + 1) % SHAPE.vocab
        return [*ids, *some][:CAPACITY]

    def check(self, job: Taken) -> None:
        """Against its text alone."""
        assert job.ends == 1 and job.error is None
        stream = self.model.generate_ids(job.ids, job.limit, job.options, adapter=job.adapter)
        tokens = list(stream)
        if job.finish_reason == "cancelled":
            assert job.cancelled and job.tokens == tokens[: len(job.tokens)]
            return
        assert (job.tokens, job.finish_reason) == (tokens, stream.finish_reason)
        if job.scored and len(job.ids) > 1:
            nll = self.model.score(job.ids, adapter=job.adapter).nll
            assert [each.log_p for each in job.told] == pytest.approx((-nll).tolist(), abs=1e-3)


@pytest.mark.parametrize("kind", range(3), ids=["f32", "int8", "ring"])
def test_jobs_get_what_they_get_alone(models, kind):
    reused = 0
    for seed in SEEDS:
        run = Interleaving(seed, models[kind])
        run.run()
        for job in run.jobs:
            run.check(job)
        reused += sum(bool(job.reused) for job in run.jobs)
    assert reused >= len(SEEDS) * JOBS / 5, "too little of it has anything in common"
