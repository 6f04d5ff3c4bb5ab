"""Sampling: the filters against transformers' own, and the statistics and reproducibility of the draws."""

from __future__ import annotations

import numpy as np
import pytest

from workbench.errors import WorkbenchError
from workbench.runtime.sampling import Sampler, SamplingOptions, filter_logits, softmax

CASES = [
    SamplingOptions(temperature=0.7),
    SamplingOptions(temperature=1.0, top_k=1),
    SamplingOptions(temperature=1.3, top_k=17),
    SamplingOptions(temperature=0.9, top_k=10_000),
    SamplingOptions(temperature=0.8, top_p=0.9),
    SamplingOptions(temperature=2.0, top_p=0.05),
    SamplingOptions(temperature=1.0, min_p=0.1),
    SamplingOptions(temperature=1.5, top_k=40, top_p=0.8, min_p=0.05),
    SamplingOptions(temperature=0.3, top_k=5, top_p=0.999, min_p=0.3),
]


def transformers_filter(logits: np.ndarray, options: SamplingOptions) -> np.ndarray:
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    wanted = {
        "temperature": options.temperature,
        "do_sample": True,
        "top_k": options.top_k,
        "top_p": options.top_p,
    }
    if options.min_p:
        wanted["min_p"] = options.min_p
    # The list that `generate` itself would build, so that its order is compared as well.
    processors = LlamaForCausalLM(config)._get_logits_processor(
        GenerationConfig(**wanted), input_ids_seq_length=1
    )
    return processors(torch.zeros(1, 1, dtype=torch.long), torch.from_numpy(logits)[None])[0].numpy()


@pytest.mark.parametrize("options", CASES, ids=str)
@pytest.mark.parametrize("vocab", [5, 512, 4001])
def test_filters_equal_transformers(options, vocab):
    logits = np.random.default_rng(vocab).normal(scale=3, size=vocab).astype(np.float32)
    expected = transformers_filter(logits, options)
    got = filter_logits(logits, options)
    np.testing.assert_array_equal(np.isneginf(got), np.isneginf(expected))
    kept = ~np.isneginf(expected)
    np.testing.assert_allclose(got[kept], expected[kept], rtol=1e-6)


def test_filters_leave_the_logits_alone_and_one_token():
    logits = np.array([1.0, 3.0, 2.0, -1.0], dtype=np.float32)
    before = logits.copy()
    strict = SamplingOptions(temperature=1.0, top_k=1, top_p=1e-6, min_p=0.999)
    assert np.flatnonzero(~np.isneginf(filter_logits(logits, strict))).tolist() == [1]
    np.testing.assert_array_equal(logits, before)


def test_draws_follow_the_filtered_distribution():
    logits = np.random.default_rng(1).normal(size=12).astype(np.float32)
    options = SamplingOptions(temperature=0.8, top_p=0.9, seed=4)
    probabilities = softmax(filter_logits(logits, options))
    sampler, draws = Sampler(options), 20_000
    counts = np.bincount([sampler(logits) for _ in range(draws)], minlength=12)
    assert (counts[probabilities == 0] == 0).all()
    alive = probabilities > 0
    chi2 = ((counts - draws * probabilities)[alive] ** 2 / (draws * probabilities[alive])).sum()
    assert chi2 < 33  # 11 degrees of freedom at most: above this with probability 5e-4, and the seed is fixed


def test_same_seed_same_tokens_and_other_seed_other_tokens():
    logits = np.random.default_rng(2).normal(size=(40, 300)).astype(np.float32)
    first, again, other = (
        [sampler(row) for row in logits]
        for sampler in (Sampler(SamplingOptions(temperature=1.0, seed=s)) for s in (7, 7, 8))
    )
    assert first == again != other


def test_greedy_takes_the_lowest_of_equal_logits():
    sampler = Sampler(SamplingOptions())
    assert sampler(np.array([0.0, 2.0, 2.0, 1.0], dtype=np.float32)) == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_unusable_logits_are_refused(bad, temperature):
    logits = np.array([0.0, bad, 1.0], dtype=np.float32)
    with pytest.raises(WorkbenchError, match="token 1"):
        Sampler(SamplingOptions(temperature=temperature))(logits)


WRONG = {
    "temperature": [-1, float("nan")],
    "top_k": [-1, 1.5],
    "top_p": [0.0, 1.1],
    "min_p": [1.0, -0.1],
    "seed": [-1],
}


@pytest.mark.parametrize(("name", "value"), [(n, v) for n in WRONG for v in WRONG[n]])
def test_options_are_checked_by_name(name, value):
    with pytest.raises(WorkbenchError, match=name):
        SamplingOptions(**{name: value})


# ---- from the largest logits alone -------------------------------------------------------------------------------


TOP_CASES = [
    SamplingOptions(temperature=1.0, top_k=1),
    SamplingOptions(temperature=0.7, top_k=40),
    SamplingOptions(temperature=1.5, top_k=63, top_p=0.8),
    SamplingOptions(temperature=1.0, top_k=20, min_p=0.05),
    SamplingOptions(temperature=1.2, top_k=50, top_p=0.95, min_p=0.01),
]


def largest(logits: np.ndarray, count: int = 64) -> tuple[np.ndarray, np.ndarray]:
    ids = np.argsort(-logits, kind="stable")[:count]
    return logits[ids], ids


@pytest.mark.parametrize("options", TOP_CASES, ids=str)
@pytest.mark.parametrize("step", [0.0, 0.25], ids=["", "ties"])
def test_the_largest_logits_give_the_tokens_that_all_of_them_give(options, step):
    """With the same random numbers, token for token; logits of a coarse grid have many ties, also with the k-th."""
    rows = np.random.default_rng(3).normal(size=(300, 4001)).astype(np.float32)
    rows = np.round(rows / step) * np.float32(step) if step else rows
    with_all, with_few = Sampler(options), Sampler(options)
    assert with_few.enough(64)
    fallen_back, drawn = 0, set()
    for row in rows:
        expected, found = with_all(row), with_few.from_top(*largest(row))
        if found is None:
            fallen_back, found = fallen_back + 1, with_few(row)
        assert found == expected
        drawn.add(found)
    assert len(drawn) > 100
    assert (fallen_back > 0) == (step > 0 and options.top_k >= 40)


def test_ties_that_may_go_on_are_not_drawn_from():
    logits = np.zeros(64, np.float32)
    logits[:10] = np.arange(20, 10, -1)
    sampler = Sampler(SamplingOptions(temperature=1.0, top_k=11))
    assert sampler.from_top(logits, np.arange(64)) is None  # the 65th may be 0 as well, and would stay
    assert Sampler(SamplingOptions(temperature=1.0, top_k=10)).from_top(logits, np.arange(64)) is not None


def test_when_the_largest_logits_are_enough():
    assert not Sampler(SamplingOptions()).enough(64)
    assert not Sampler(SamplingOptions(top_k=5)).enough(64)  # greedy
    assert not Sampler(SamplingOptions(temperature=1.0, top_p=0.5)).enough(64)
    assert not Sampler(SamplingOptions(temperature=1.0, top_k=64)).enough(64)
    assert Sampler(SamplingOptions(temperature=1.0, top_k=63)).enough(64)
    with pytest.raises(WorkbenchError, match="logit of token 7 is inf"):
        Sampler(SamplingOptions(temperature=1.0, top_k=1)).from_top(np.array([np.inf, 1.0]), np.array([7, 1]))
