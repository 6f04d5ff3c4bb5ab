"""Sequences side by side in one cache: what each gives is what it gives alone."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest

import workbench
from workbench.errors import CacheFullError, OutOfMemoryError, PromptTooLongError, WorkbenchError
from workbench.runtime import streaming
from workbench.runtime.batch import packed_steps, shares
from workbench.runtime.step import Step

pytestmark = pytest.mark.usefixtures("few_steps")

LENGTHS = (1, 9, 24, 17, 3)
#: As many as `LENGTHS`: a number of sequences has programs of its own, which take long to compile here.
PROMPTS = ["Once upon a time", "The dog", "Lily and Tom went to the park, and there", "A", "One day"]


@pytest.fixture(scope="module", params=["wgpu", "torch"])
def model(request, shallow):
    return workbench.load(shallow, backend=request.param, max_tokens=48)


@pytest.fixture(scope="module")
def texts():
    generator = np.random.default_rng(5)
    return [generator.integers(3, 1000, length) for length in LENGTHS]


def differs(found, expected) -> float:
    """Programs of other sizes add up in another order; relative to the largest."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def test_rows_of_a_step_are_shared_out_as_equally_as_can_be():
    assert shares([5, 0, 1, 9], 9) == [4, 0, 1, 4]
    assert shares([5, 0, 1, 9], 100) == [5, 0, 1, 9]
    assert shares([3, 3, 3], 2) == [0, 1, 1]


def test_every_token_runs_once_at_its_place():
    texts = [np.arange(length) for length in (5, 1, 30)]
    starts, seen = (0, 7, 2), []
    for step, places in packed_steps(texts, 8, starts):
        assert len(step) <= 8
        ends = np.cumsum([place.stop - place.start for _, place in places])
        assert (step.results == ends - 1).all()
        seen += zip(step.sequences.tolist(), step.positions.tolist(), step.ids.tolist(), strict=True)
    assert sorted(seen) == [(n, starts[n] + i, i) for n, text in enumerate(texts) for i in range(len(text))]


def test_a_step_says_where_rows_stand_and_which_are_padding():
    step = Step.joined([Step.following(np.array([7, 8]), 3, 1), Step.following(np.array([9]), 0, 2)])
    none, second = np.zeros(3, np.uint32), np.array([0, 2, 0], np.uint32)
    assert step.state(4, none).tolist() == [[3, 1, 1, 0], [4, 1, 1, 0], [0, 1, 2, 0], [1, 0, 2, 0]]
    assert step.state(4, second).tolist() == [[3, 3, 1, 0], [4, 3, 1, 0], [0, 1, 2, 0], [1, 0, 2, 0]]
    assert step.results.tolist() == [1, 2]


@pytest.mark.parametrize("options", [{}, {"dtype": "f16"}, {"cache": "int8"}])
def test_logits_and_scores_are_those_of_each_alone(shallow, texts, options):
    model = workbench.load(shallow, backend="wgpu", max_tokens=48, **options)
    bound = 2e-5 if not options else 5e-3  # what is rounded to f16 or INT8 may fall to either side
    for text, found in zip(texts, model.forward_batch(texts, keep="layers.0.attn.context"), strict=True):
        alone = model.forward(text, keep="layers.0.attn.context")
        assert differs(found.logits, alone.logits) <= bound
        assert differs(found.kept["layers.0.attn.context"], alone.kept["layers.0.attn.context"]) <= bound
    long = [text for text in texts if len(text) > 1]
    for text, found in zip(long, model.score_batch(long), strict=True):
        alone = model.score(text)
        assert np.abs(found.nll - alone.nll).max() <= 20 * bound


def test_the_references_give_each_what_it_gives_alone(shallow, texts):
    model = workbench.load(shallow, backend="torch", max_tokens=48)
    for text, found in zip(texts, model.forward_batch(texts), strict=True):
        assert differs(found.logits, model.forward(text).logits) <= 2e-5


def test_many_sequences_go_on_one_token_a_step(model, texts, monkeypatch):
    """Prompts together, then a step a token for all of them, against sessions of their own. Groups grow to 8 steps."""
    monkeypatch.setattr(streaming, "GROUP_S", 10)
    expected = []
    for text in texts:
        with closing(model.session()) as session:
            session.feed(text)
            expected.append(session.greedy(21))
    with closing(model.batch(len(texts))) as batch:
        logits = batch.feed(dict(enumerate(texts)))
        first = {n: int(row.argmax()) for n, row in logits.items()}
        rest = batch.greedy_after(first, 20)
        assert [[first[n], *rest[n]] for n in range(len(texts))] == expected
        assert [batch.length(n) for n in range(len(texts))] == [len(text) + 20 for text in texts]
        batch.take_back(2, 20)  # one of them again, beside another's next token
        again = batch.feed({2: [first[2]], 4: [rest[4][-1]]})
        assert int(again[2].argmax()) == rest[2][0]


def test_a_sequence_that_ends_makes_room_for_the_next_prompt(model):
    prompts = [*PROMPTS, *PROMPTS[:2]]
    found = model.generate_batch(prompts, max_new_tokens=9, stop=[","], sequences=5)
    for prompt, each in zip(prompts, found, strict=True):
        stream = model.generate(prompt, max_new_tokens=9, stop=[","])
        assert "".join(stream) == each.text and stream.finish_reason == each.finish_reason
    assert {each.finish_reason for each in found} == {"stop", "length"}


def test_draws_are_those_of_each_alone(model):
    options = {"max_new_tokens": 12, "temperature": 0.8, "top_p": 0.9, "seed": 3}
    found = model.generate_batch(PROMPTS, **options)
    assert [each.text for each in found] == ["".join(model.generate(prompt, **options)) for prompt in PROMPTS]


def test_a_full_sequence_ends_with_its_context(model):
    found = model.generate_batch(PROMPTS, max_new_tokens=1000)[0]
    stream = model.generate(PROMPTS[0], max_new_tokens=1000)
    assert found.text == "".join(stream) and found.finish_reason == stream.finish_reason == "context"


def test_edits_see_positions_and_sequences(model, texts):
    seen = []

    def edit(x, positions, sequences):
        seen.append((x.shape[0], positions.tolist(), sequences.tolist()))
        return np.where(sequences[:, None] == 1, 0.5 * x, x)

    name = "layers.1.mlp.hidden"
    found = model.forward_batch(texts, edit={name: edit})
    places = {(s, p) for _, positions, sequences in seen for p, s in zip(positions, sequences, strict=True)}
    assert places == {(n, p) for n, text in enumerate(texts) for p in range(len(text))}
    halved = model.forward(texts[1], edit={name: lambda x, position: 0.5 * x}).logits
    assert differs(found[1].logits, halved) <= 2e-5
    assert differs(found[2].logits, model.forward(texts[2]).logits) <= 2e-5


def test_what_does_not_fit_is_refused_and_nothing_changes(model, texts):
    with closing(model.batch(5)) as batch:
        with pytest.raises(PromptTooLongError, match="100 tokens do not fit into a sequence of 48"):
            batch.feed({0: texts[0], 1: np.zeros(100, int)})
        batch.feed({0: texts[1]})
        with pytest.raises(CacheFullError, match="sequence 0 holds 9 of 48"):
            batch.greedy_after({0: 5}, 40)
        with pytest.raises(WorkbenchError, match="there is no sequence 5; there are 0 to 4"):
            batch.feed({5: texts[1]})
        assert [batch.length(n) for n in (0, 1)] == [9, 0]
    with pytest.raises(WorkbenchError, match="this batch is closed"):
        batch.feed({0: texts[1]})


@pytest.mark.parametrize("sequences", [0, -1, 10**30])
def test_a_number_of_sequences_that_none_has_is_refused(model, sequences):
    with pytest.raises(WorkbenchError, match=f"a cache of {sequences} sequences; allowed: 1 to "):
        model.batch(sequences)


def test_a_cache_that_no_binding_holds_is_refused_with_the_arithmetic(model):
    if model.backend == "torch":
        pytest.skip("the references bind nothing")
    most = model.executor.device.binding_bytes
    sequences = most // (4 * 48) + 1
    with pytest.raises(
        OutOfMemoryError, match=rf"of {sequences} sequence\(s\) of 48 positions takes [0-9]+ bytes"
    ):
        model.batch(sequences)
