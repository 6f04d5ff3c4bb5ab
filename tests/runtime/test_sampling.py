"""Sampling: the filters against transformers' own, the statistics of the draws, and the options."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import wgsl_kernels
from wgsl_kernels.layout import make_seen, parts_of_row
from wgsl_kernels.sampling import drawing
from wgsl_kernels.sampling.sample import ROUNDS
from workbench.errors import WorkbenchError
from workbench.runtime.launch import run_kernel
from workbench.runtime.sampling import Sampler, SamplingOptions, filter_logits, softmax

CASES = [
    SamplingOptions(temperature=0.7),
    SamplingOptions(temperature=1.0, top_k=1),
    SamplingOptions(temperature=1.3, top_k=17),
    SamplingOptions(temperature=0.9, top_k=10_000),
    SamplingOptions(temperature=0.8, top_p=0.9),
    SamplingOptions(temperature=2.0, top_p=0.05),
    SamplingOptions(temperature=2.0, top_p=0.0),
    SamplingOptions(temperature=1.0, min_p=0.1),
    SamplingOptions(temperature=1.5, top_k=40, top_p=0.8, min_p=0.05),
    SamplingOptions(temperature=0.3, top_k=5, top_p=0.999, min_p=0.3),
    SamplingOptions(temperature=1.0, repetition_penalty=1.7),
    SamplingOptions(temperature=1.2, top_k=30, top_p=0.7, repetition_penalty=0.5),
]
SEEN = [0, 2, 3]


def transformers_filter(logits: np.ndarray, options: SamplingOptions, seen: list[int]) -> np.ndarray:
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    wanted = {
        "temperature": options.temperature,
        "do_sample": True,
        "top_k": options.top_k,
        "top_p": options.top_p,
        "repetition_penalty": options.repetition_penalty,
    }
    if options.min_p:
        wanted["min_p"] = options.min_p
    # The list that `generate` itself would build, so that its order is compared as well.
    processors = LlamaForCausalLM(config)._get_logits_processor(
        GenerationConfig(**wanted), input_ids_seq_length=1
    )
    return processors(torch.tensor([seen]), torch.from_numpy(logits)[None])[0].numpy()


@pytest.mark.parametrize("options", CASES, ids=str)
@pytest.mark.parametrize("vocab", [5, 512, 4001])
def test_filters_equal_transformers(options, vocab):
    logits = np.random.default_rng(vocab).normal(scale=3, size=vocab).astype(np.float32)
    expected = transformers_filter(logits, options, SEEN)
    got = filter_logits(logits, options, SEEN)
    np.testing.assert_array_equal(np.isneginf(got), np.isneginf(expected))
    kept = ~np.isneginf(expected)
    np.testing.assert_allclose(got[kept], expected[kept], rtol=1e-6)


def test_filters_leave_the_logits_alone_and_one_token():
    logits = np.array([1.0, 3.0, 2.0, -1.0], dtype=np.float32)
    before = logits.copy()
    strict = SamplingOptions(temperature=1.0, top_k=1, top_p=1e-6, min_p=0.999)
    assert np.flatnonzero(~np.isneginf(filter_logits(logits, strict))).tolist() == [1]
    np.testing.assert_array_equal(logits, before)


def test_equal_logits_stay_or_go_together():
    """With the k-th best and with the last one of the nucleus all their equals stay."""
    logits = np.array([2.0, 1.0, 1.0, 1.0, 0.0], dtype=np.float32)

    def left(**options) -> list[int]:
        filtered = filter_logits(logits, SamplingOptions(temperature=1.0, **options))
        return np.flatnonzero(~np.isneginf(filtered)).tolist()

    assert left(top_k=1) == [0] and left(top_k=2) == left(top_k=4) == [0, 1, 2, 3]
    assert left(top_p=0.4) == [0] and left(top_p=0.5) == left(top_p=0.9) == [0, 1, 2, 3]
    assert left(min_p=np.exp(-1.0) * 0.999) == [0, 1, 2, 3] and left(min_p=1.0) == [0]


DRAWN = [
    SamplingOptions(temperature=0.8, seed=4),
    SamplingOptions(temperature=0.8, top_p=0.9, seed=5),
    SamplingOptions(temperature=2.5, top_k=12, min_p=0.1, seed=6),
    SamplingOptions(temperature=1.0, top_k=20, top_p=0.95, repetition_penalty=1.4, seed=2**63 + 7),
]


@pytest.mark.parametrize("options", DRAWN, ids=str)
def test_draws_follow_the_filtered_distribution(options):
    """100,000 draws: chi-square, with the seed fixed; and none of what was filtered."""
    logits = 2 * np.random.default_rng(1).normal(size=40).astype(np.float32)
    words, seen = drawing.Options(options.words()), make_seen(40, SEEN)
    mass = drawing.survivors(torch.from_numpy(logits), torch.from_numpy(seen.view(np.int32)), words)
    total = mass.cumsum(0).numpy()
    draws = 100_000
    shares = [int(total[-1]) * drawing.random_word(options.seed, position) >> 32 for position in range(draws)]
    counts = np.bincount(np.searchsorted(total, shares, side="right"), minlength=40)
    p = softmax(filter_logits(logits, options, SEEN))
    alive = p > 0
    assert counts[~alive].sum() == 0
    chi2 = ((counts - draws * p)[alive] ** 2 / (draws * p[alive])).sum()
    freedom = alive.sum() - 1
    assert chi2 < freedom + 4 * np.sqrt(2 * freedom)
    sampler = Sampler(options)  # which draws just so
    expected = np.searchsorted(total, shares[:50], side="right").tolist()
    assert [sampler(logits, position, SEEN) for position in range(50)] == expected


def test_random_numbers_are_philox():
    """The known answers of Random123 for Philox4x32-10."""
    assert drawing.random_word(0, 0) == 0x6627E8D5
    words = [drawing.random_word(seed, place) for seed in (0, 1, 2**32) for place in range(1000)]
    assert len(set(words)) == len(words)


def test_weights_are_the_exponentials():
    """To 2^-28 of the largest, over the whole range."""
    options = drawing.Options(drawing.make_options(temperature=0.7))
    scores = torch.linspace(-21, 0, 5000)
    found = drawing.keys(scores, torch.zeros(200, dtype=torch.int32), options)
    got = drawing.weights(drawing.halvings(found, options)).double() / 2.0**41
    expected = torch.exp(scores.double() / 0.7)
    assert ((got - expected).abs() / expected.clamp(min=2.0**-20)).max() < 4e-6
    assert (got - expected).abs().max() < 1e-7
    assert torch.equal(drawing.scores(found), scores) and bool((found.diff() > 0).all())


FEW, SEARCHED = SamplingOptions(1.0, top_k=50, top_p=0.9, seed=3), SamplingOptions(0.8, top_p=0.9, seed=8)


@pytest.mark.parametrize("options", [FEW, SEARCHED, SamplingOptions(3.0, min_p=0.01, repetition_penalty=1.3)])
@pytest.mark.parametrize("width", [300, 128_256])
def test_the_device_draws_what_the_reference_draws(open_promised, options, width):
    """Draw for draw: the kernel for small vocabularies, and the same in parts, at the size of a real one."""
    generator = torch.Generator().manual_seed(width)
    x = 3 * torch.randn(1, width, generator=generator)
    seen = torch.from_numpy(make_seen(width, [1, 5, 99]).view(np.int32))
    row = {"x": x, "seen": seen, "options": options.words()}
    device = open_promised()

    def run(name: str, **arguments) -> dict:
        return run_kernel(wgsl_kernels.get(name), arguments, device=device)

    sampler, logits = Sampler(options), x[0].numpy()
    if width < 4096:
        for position in range(8):
            state = torch.tensor([[position, 1, 0, 0]], dtype=torch.int32)
            found = run("sample", **row, state=state)
            assert int(found["token"]) == sampler(logits, position + 1, [1, 5, 99])
        return
    first = run("sample_first", **row, parts=parts_of_row(width))
    best, search = first["best"], {"bins_before": first["bins_after"], "cut": first["cut"]}
    for _ in range(1, ROUNDS):
        after = run("sample_tally", **row, best=best, **search)
        search = {"bins_before": after["bins_after"], "cut": after["cut_after"]}
    sums = run("sample_sums", **row, best=best, **search)
    drawn = set()
    for position in range(8):
        state = torch.tensor([[position, 1, 0, 0]], dtype=torch.int32)
        found = int(run("sample_draw", **row, state=state, best=best, **sums)["token"])
        assert found == sampler(logits, position + 1, [1, 5, 99])
        drawn.add(found)
    assert len(drawn) > 3


def test_same_seed_same_tokens_and_other_seed_other_tokens():
    logits = np.random.default_rng(2).normal(size=(40, 300)).astype(np.float32)
    first, again, other = (
        [sampler(row) for row in logits]
        for sampler in (Sampler(SamplingOptions(temperature=1.0, seed=s)) for s in (7, 7, 8))
    )
    assert first == again != other


def test_greedy_takes_the_lowest_of_equal_logits():
    logits = np.array([0.0, 2.0, 2.0, 1.0], dtype=np.float32)
    assert Sampler(SamplingOptions())(logits) == 1
    assert Sampler(SamplingOptions(repetition_penalty=1.0001))(logits) == 1
    assert Sampler(SamplingOptions(repetition_penalty=2.0))(logits, seen=[1]) == 2


@pytest.mark.parametrize("more", [{}, {"top_k": 2}, {"top_p": 0.9}, {"min_p": 0.1}], ids=str)
def test_temperatures_that_nothing_can_be_divided_by(more):
    """Too low: the argmax. Too high: as likely as each other."""
    logits = np.array([0.0, 9.0, 1.0, -2.0], np.float32)
    for low in (1e-37, 2e-38, 1e-38, float(np.finfo(np.float32).tiny), 1e-45, 1e-46, 5e-324):
        assert Sampler(SamplingOptions(low, **more))(logits) == 1
    sampler = Sampler(SamplingOptions(1e308))
    assert {sampler(logits) for _ in range(60)} == {0, 1, 2, 3}


def test_masked_logits_are_never_drawn():
    logits = np.full(50, -3e38, np.float32)
    logits[[7, 9]] = 1.0
    logits[11] = -np.inf
    sampler = Sampler(SamplingOptions(temperature=5.0, top_p=0.999))
    assert {sampler(logits) for _ in range(40)} == {7, 9}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_unusable_logits_are_refused(bad, temperature):
    logits = np.array([0.0, bad, 1.0], dtype=np.float32)
    with pytest.raises(WorkbenchError, match="token 1"):
        Sampler(SamplingOptions(temperature=temperature))(logits)


NUMBERS = [
    None,
    "1",
    b"1",
    True,
    np.bool_(False),
    [1],
    np.zeros(2),
    1j,
    float("nan"),
    float("inf"),
    -np.inf,
    -1,
]
WRONG = {
    "temperature": [*NUMBERS, -0.1, 10**400, np.float32("nan")],
    "top_k": [*NUMBERS, 1.5, 5.0],
    "top_p": [*NUMBERS, 1.1, -0.1, 10**400],
    "min_p": [*NUMBERS, 1.1, -0.1],
    "seed": [*NUMBERS, 1.5, 2**64],
    "repetition_penalty": [*NUMBERS, 0.0, 1e-39, 1e39],
}


@pytest.mark.parametrize("name", WRONG)
def test_options_are_checked_by_name(name):
    for value in WRONG[name]:
        with pytest.raises(WorkbenchError, match=f"{name} = .*allowed: "):
            SamplingOptions(**{name: value})


def test_numbers_of_other_kinds_are_taken():
    options = SamplingOptions(np.float32(0.5), np.int64(7), torch.tensor(0.5), np.float64(0.25), 2**64 - 1, 2)
    assert options == SamplingOptions(0.5, 7, 0.5, 0.25, 2**64 - 1, 2.0)
    assert [type(v) for v in (options.temperature, options.top_k, options.top_p)] == [float, int, float]
    assert Sampler(SamplingOptions(1.0, top_k=10**30))(np.zeros(3, np.float32)) in (0, 1, 2)
