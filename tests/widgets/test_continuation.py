"""A run's tokens are the engine's, its probabilities the model's, its KL the evaluation's."""

from __future__ import annotations

import numpy as np
import pytest

from eval.statistics import divergence
from tests.widgets.conftest import HOSTILE
from workbench.errors import PromptTooLongError, WorkbenchError
from workbench.runtime.sampling import SamplingOptions, softmax
from workbench.studies.continuation import Run, continue_prompt

PROMPT = "Once upon a time"
SAMPLED = SamplingOptions(temperature=0.8, top_p=0.95, seed=3)
ANYTHING = SamplingOptions(temperature=20.0)


@pytest.mark.parametrize("sampling", [SamplingOptions(), SAMPLED], ids=["greedy", "sampled"])
def test_tokens_and_text_are_the_models(model, sampling):
    run = continue_prompt(model, PROMPT, max_new_tokens=24, sampling=sampling)
    [found] = run.continuations
    ids = [token.id for token in found.tokens]
    assert ids == list(model.generate_ids(run.prompt_ids, 24, sampling))
    assert found.text == "".join(
        model.generate(PROMPT, 24, sampling.temperature, top_p=sampling.top_p, seed=sampling.seed)
    )
    assert found.reason == "length"
    assert found.first_s > 0 and found.tokens_per_second > 0


@pytest.mark.parametrize("sampling", [SamplingOptions(), SAMPLED], ids=["measured after", "at hand"])
def test_probabilities_are_those_of_one_pass(model, sampling):
    run = continue_prompt(model, PROMPT, max_new_tokens=12, sampling=sampling)
    tokens = run.continuations[0].tokens
    ids = [*run.prompt_ids, *(token.id for token in tokens)]
    logits = model.forward(ids[:-1]).logits[len(run.prompt_ids) - 1 :]
    for token, row in zip(tokens, logits, strict=True):
        p = softmax(row)
        assert token.probability == pytest.approx(p[token.id], abs=1e-4)
        likely = [each.probability for each in token.alternatives]
        assert likely == sorted(likely, reverse=True)
        assert likely == pytest.approx(np.sort(p)[::-1][:5], abs=1e-4)
        assert token.alternatives[0].id == p.argmax()


@pytest.mark.release
def test_two_models_are_compared_on_both_texts(model, quantized):
    run = continue_prompt({"f16": model, "int4": quantized}, PROMPT, max_new_tokens=40, sampling=SAMPLED)
    first, second = run.continuations
    ids = [[token.id for token in found.tokens] for found in (first, second)]
    assert ids[0] == list(model.generate_ids(run.prompt_ids, 40, SAMPLED))
    assert ids[1] == list(quantized.generate_ids(run.prompt_ids, 40, SAMPLED))
    differ = [i for i, (a, b) in enumerate(zip(*ids, strict=False)) if a != b]
    assert run.parted == (differ[0] if differ else None)
    for found, written in zip((first, second), ids, strict=True):
        whole = [*run.prompt_ids, *written]
        rows = [m.forward(whole[:-1]).logits[len(run.prompt_ids) - 1 :] for m in (model, quantized)]
        wanted = divergence(rows[1], rows[0], np.array(written))
        assert [token.kl for token in found.tokens] == pytest.approx(wanted.kl, abs=1e-5)
        assert found.mean_kl == pytest.approx(wanted.kl.mean(), abs=1e-5)
        clear = np.abs(np.diff(np.sort(rows[0])[:, -2:])[:, 0]) > 1e-3
        flips = wanted.top1 != wanted.top1_baseline
        assert np.array_equal(np.array([token.flip for token in found.tokens])[clear], flips[clear])
    assert first.flips == sum(token.flip for token in first.tokens)
    assert list(first.data().columns) == ["id", "text", "probability", "kl", "flip"]


def test_a_stop_ends_it_between_two_steps(model):
    run = Run({"m": model}, PROMPT, max_new_tokens=100)
    [found] = run.continuations
    for _ in run.write(lambda: len(found.tokens) >= 5):
        pass
    assert 5 <= len(found.tokens) < 40
    assert found.reason == "stopped"


def test_ends_with_the_cache_and_with_the_text(hostile):
    full = continue_prompt(hostile, "go", max_new_tokens=500, sampling=ANYTHING).continuations[0]
    assert (len(full.tokens), full.reason) == (64, "cache full")
    ids = [token.id for token in full.tokens]
    hostile.__dict__["eos_ids"] = frozenset(ids[9:10])
    try:
        ended = continue_prompt(hostile, "go", max_new_tokens=50, sampling=ANYTHING).continuations[0]
    finally:
        del hostile.__dict__["eos_ids"]
    assert (len(ended.tokens), ended.reason) == (ids.index(ids[9]) + 1, "end of text")


def test_bad_input_is_refused(model, hostile):
    with pytest.raises(WorkbenchError, match="vocabulary"):
        Run({"a": model, "b": hostile}, PROMPT)
    with pytest.raises(WorkbenchError, match="not 3"):
        Run({"a": model, "b": model, "c": model}, PROMPT)
    with pytest.raises(WorkbenchError, match="max_new_tokens"):
        Run({"a": model}, PROMPT, max_new_tokens=0)
    with pytest.raises(WorkbenchError, match="max_new_tokens = None"):
        Run({"a": model}, PROMPT, max_new_tokens=None)
    with pytest.raises(WorkbenchError, match="chat template"):
        Run({"a": model}, PROMPT, chat=True)
    with pytest.raises(PromptTooLongError):
        Run({"a": hostile}, "go " * 65)


def test_html_has_no_live_markup(hostile):
    run = continue_prompt({"<i>": hostile}, "go", max_new_tokens=60, sampling=ANYTHING)
    page = run._repr_html_()
    assert {token.text for token in run.continuations[0].tokens} >= {HOSTILE[0], HOSTILE[2], HOSTILE[4]}
    assert "<img" not in page and "<script" not in page and "<svg" not in page and "<i>" not in page
    assert not any(character in page for character in "\u202e\u2066\x00\x1b")
