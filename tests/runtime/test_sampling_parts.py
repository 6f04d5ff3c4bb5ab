"""Drawing from a vocabulary so large that a row of logits is taken in parts."""

from __future__ import annotations

import contextlib
import dataclasses

import pytest

from wgsl_kernels import Adapter
from wgsl_kernels.sampling.sample import ROUNDS
from workbench.plan.plan import step_sizes
from workbench.runtime.lowering import lower
from workbench.runtime.sampling import SamplingOptions

from .models import STACKABLE, model_on, random_ids, reference_on, write_random

LARGE = dataclasses.replace(STACKABLE, name="large-vocabulary", vocab=10_007, layers=1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_random(tmp_path_factory.mktemp("parts") / "model", LARGE)


@pytest.mark.parametrize(
    "options",
    [
        SamplingOptions(),
        SamplingOptions(temperature=0.8, top_p=0.9, seed=2),
        SamplingOptions(temperature=2.0, top_k=40, top_p=0.8, min_p=0.01, repetition_penalty=1.4, seed=3),
    ],
    ids=str,
)
def test_parts_draw_what_the_reference_draws(checkpoint, open_promised, options):
    prompt = random_ids(LARGE.vocab, 5).tolist()
    found = []
    for model in (model_on(checkpoint, open_promised), reference_on(checkpoint)):
        with contextlib.closing(model.session()) as session:
            session.feed(prompt)
            first = session.draw(options, told=True)
            found.append([first, *session.stream(first.id, 30, options, told=True)])
    for one, other in zip(*found, strict=True):
        assert one.id == other.id and one.log_p == pytest.approx(other.log_p, abs=1e-4)
    assert len({drawn.id for drawn in found[0]}) > 3


def test_lowering_takes_large_rows_in_parts(checkpoint):
    plan = reference_on(checkpoint).plan("draw")
    sizes = step_sizes(1, 64, steps=16)
    lowered = lower(plan, sizes, Adapter(), 128 << 20)
    lowered.plan.check()
    kernels = [step.kernel.op for step in lowered.steps][-4 - (ROUNDS - 1) :]
    assert kernels == [
        "sample_first",
        *["sample_tally"] * (ROUNDS - 1),
        *("sample_sums", "sample_draw", "advance"),
    ]
    assert [call.op for call in plan.calls[-2:]] == ["sample", "advance"]
