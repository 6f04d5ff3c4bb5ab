"""A device that fails in the middle of a generation, wherever that may be: the error says what happened, what a session
holds is what it was fed, and the next call goes on."""

from __future__ import annotations

import dataclasses
import gc

import numpy as np
import pytest

import wgsl_kernels
import workbench
from eval.prefix_scoring import PrefixScorer
from tests.support.device_faults import CALLS, OwnDevices, ends_memory, failing, loses
from workbench.errors import DeviceLostError, KernelError, OutOfMemoryError
from workbench.runtime.model import Model
from workbench.runtime.sampling import SamplingOptions
from workbench.runtime.scheduler import Scheduler

from .models import Shape, model_on, random_ids, reference_on, write_random
from .test_scheduler import Taken

#: As little as a model can be: every case compiles, uploads and runs it.
SHAPE = Shape("tiny", 32, 48, 2, 1, 16, vocab=67, layers=1)
IDS, COUNT, CONTEXT = random_ids(SHAPE.vocab, 5), 6, 24


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_random(tmp_path_factory.mktemp("faults") / "model", SHAPE)


@pytest.fixture(scope="module")
def expected(checkpoint):
    return list(reference_on(checkpoint, max_tokens=CONTEXT).generate_ids(IDS, COUNT))


@pytest.fixture(scope="module")
def devices(open_promised):
    open_promised()  # skips where there is no adapter
    return OwnDevices()


class Generation:
    """A session, step by step, which goes on where it was left."""

    def __init__(self, model: Model) -> None:
        self.model, self.session, self.tokens = model, None, []

    def go_on(self) -> list[int]:
        if self.session is None:
            self.session = self.model.session()
        if not self.tokens:
            if not self.session.position:
                self.session.feed(IDS)
            self.tokens.append(self.session.draw(SamplingOptions()).id)
        while len(self.tokens) < COUNT:
            for drawn in self.session.stream(self.tokens[-1], COUNT - len(self.tokens)):
                self.tokens.append(drawn.id)
        return self.tokens

    def is_consistent(self) -> bool:
        """Whether the cache holds the prompt, once it was fed, and all tokens that were handed out but the last."""
        held = self.session.ids if self.session is not None else ()
        return held == (() if not self.tokens and not held else (*IDS.tolist(), *self.tokens[:-1]))


@pytest.mark.parametrize("kind", [kind for kind in CALLS if kind != "create_command_encoder"])
def test_memory_that_ends_at_any_allocation_of_a_generation(checkpoint, devices, expected, kind):
    """The weights of each model are uploaded anew. Pipelines are the device's, and compiled once."""
    device = devices() if kind != "create_compute_pipeline" else OwnDevices()()
    gc.collect()
    before, at, failed = device.allocated, 0, 0
    while at == failed:
        at += 1
        generation = Generation(model_on(checkpoint, lambda: device, max_tokens=CONTEXT))
        with failing(device, kind, [at], ends_memory):
            try:
                generation.go_on()
            except OutOfMemoryError as error:
                assert "Not enough memory left" in str(error)
                failed += 1
        assert generation.is_consistent()
        assert generation.go_on() == expected and not device.lost
        generation.session.close()
    assert failed >= (1 if kind == "create_compute_pipeline" else 4)
    del generation
    gc.collect()
    assert device.allocated == before  # nothing was forgotten on the way


@pytest.mark.parametrize(
    ("kind", "at"), [("create_buffer", 3), ("create_bind_group", 9), ("create_command_encoder", 6)]
)
def test_a_device_lost_while_it_is_used(checkpoint, open_promised, expected, kind, at):
    """While weights are uploaded, while a step is bound, while tokens come: what a session holds is lost with it."""
    open_promised()
    own = OwnDevices()
    model = model_on(checkpoint, own, max_tokens=CONTEXT)
    generation = Generation(model)
    with failing(own(), kind, [at], loses), pytest.raises(DeviceLostError, match=r"the device .* was lost"):
        generation.go_on()
    assert generation.is_consistent() and bool(generation.tokens) == (kind == "create_command_encoder")
    if generation.session is not None:
        assert generation.session.lost
        with pytest.raises(DeviceLostError):
            generation.session.feed(IDS)
        generation.session.close()
    again = Generation(model)
    assert again.go_on() == expected and len(own.opened) == 2 and not again.session.lost


@pytest.mark.parametrize("kind, fault", [("create_command_encoder", loses), ("submit", ends_memory)])
def test_a_scorer_of_continuations_goes_on(checkpoint, open_promised, kind, fault):
    """What it shares between calls is in a cache, which is lost with a device and not with memory that ends."""
    open_promised()
    own = OwnDevices()
    scorer = PrefixScorer(model_on(checkpoint, own, max_tokens=CONTEXT))
    cases = [(IDS, [7]), (IDS, [8, 9]), (IDS[:3], [1])]
    expected = [PrefixScorer(reference_on(checkpoint, max_tokens=CONTEXT)).score(*case)[0] for case in cases]
    np.testing.assert_allclose(scorer.score(*cases[0])[0], expected[0], rtol=1e-4)
    computed = scorer.computed
    with failing(own(), kind, [1], fault), pytest.raises((DeviceLostError, OutOfMemoryError)) as raised:
        scorer.score(*cases[1])
    assert ("was lost" in str(raised.value)) == (fault is loses) and scorer.computed == computed
    for case, log_p in zip(cases, expected, strict=True):
        np.testing.assert_allclose(scorer.score(*case)[0], log_p, rtol=1e-4)
    assert len(own.opened) == 1 + (fault is loses)
    scorer.close()


def test_jobs_side_by_side_where_memory_ends(checkpoint, devices):
    """A shared step that fails is tried for each alone, and what fails then ends one job."""
    device = devices()
    model = model_on(checkpoint, lambda: device, max_tokens=CONTEXT)
    batch = model.batch(2)
    scheduler = Scheduler(batch)
    jobs = [Taken(IDS.tolist(), COUNT), Taken(IDS[::-1].tolist(), COUNT)]
    alone = {id(job): list(model.generate_ids(job.ids, COUNT)) for job in jobs}
    for job in jobs:
        scheduler.submit(job)
    with failing(device, "submit", [1], ends_memory):
        scheduler.step()
    assert all(len(job.drawn) == 1 and job.error is None for job in jobs)  # together, then each alone
    with failing(device, "create_command_encoder", [1, 2, 3], ends_memory):
        scheduler.step()
    assert [type(job.error) for job in jobs].count(
        OutOfMemoryError
    ) == 1  # together twice, and the first alone
    while scheduler.busy:
        scheduler.step()
    (whole,) = [job for job in jobs if job.error is None]
    assert whole.finish_reason == "length" and len(whole.tokens) == COUNT and whole.tokens == alone[id(whole)]
    batch.close()


def test_an_edited_kernel_that_does_not_compile(checkpoint, expected, open_promised):
    """The error names the kernel and the place in its file; nothing has happened to the session or to the device."""
    open_promised()
    linear = wgsl_kernels.get("linear[f32]")
    gemv = linear.variants["gemv"]
    broken = dataclasses.replace(gemv, text=gemv.body() + "\nfn mine() -> u32 { return missing; }\n")
    library = wgsl_kernels.library().with_variant("linear[f32]", "broken", broken)
    model = workbench.load(checkpoint, "wgpu", max_tokens=CONTEXT, library=library)
    generation = Generation(model)
    for _ in range(2):
        with pytest.raises(KernelError, match=r"broken.*line \d+, column \d+: .*missing"):
            generation.go_on()
        assert generation.is_consistent() and generation.session.position == 0
    generation.session.close()
    batch = model.batch(1)
    scheduler = Scheduler(batch)
    scheduler.submit(job := Taken(IDS.tolist(), COUNT))
    scheduler.step()
    assert isinstance(job.error, KernelError) and not scheduler.busy
    batch.close()
    assert Generation(workbench.load(checkpoint, "wgpu", max_tokens=CONTEXT)).go_on() == expected
