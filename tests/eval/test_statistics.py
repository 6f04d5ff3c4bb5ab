from __future__ import annotations

import math

import numpy as np
import pytest

from eval import statistics


@pytest.fixture
def scores():
    """nll [400] in 13 windows of unequal length, a window effect in them."""
    generator = np.random.default_rng(3)
    window = np.sort(generator.integers(0, 13, 400))
    nll = generator.gamma(2.0, 1.0, 400) + generator.normal(0, 0.5, 13)[window]
    return nll, window


def test_error_of_ln_ppl_is_the_formula_and_the_textbook(scores):
    nll, _ = scores
    n = len(nll)
    formula = math.sqrt((sum(l * l for l in nll) / n - (sum(nll) / n) ** 2) / (n - 1))
    assert statistics.ln_ppl_se(nll) == pytest.approx(formula, rel=1e-12)
    assert statistics.mean_se(nll) == pytest.approx(np.std(nll, ddof=1) / math.sqrt(n), rel=1e-12)
    assert statistics.mean_nll(nll) == pytest.approx(math.fsum(nll) / n, rel=1e-14)


def test_error_stays_exact_where_the_squares_would_cancel():
    values = 1e9 + np.tile([0.0, 1.0], 500)
    assert statistics.mean_se(values) == pytest.approx(0.5 / math.sqrt(999), rel=1e-9)


def test_clustered_error_by_the_loop(scores):
    nll, window = scores
    mean, total = nll.mean(), 0.0
    for w in range(13):
        mine = [l for l, i in zip(nll, window, strict=True) if i == w]
        total += (sum(mine) - mean * len(mine)) ** 2
    assert statistics.clustered_se(nll, window) == pytest.approx(math.sqrt(13 / 12 * total) / 400, rel=1e-12)
    assert statistics.clustered_se(nll, window * 7 + 2) == statistics.clustered_se(nll, window)


def test_clustered_error_is_that_of_statsmodels():
    """Figures of statsmodels 0.15.0: `OLS(values, ones).fit(cov_type="cluster", cov_kwds={"groups": window}).bse`,
    whose small-sample correction of a mean is W/(W-1); plain: `OLS(values, ones).fit().bse`."""
    values = np.array([(7 * i * i + 3 * i) % 23 / 4 for i in range(60)])
    window = np.repeat(np.arange(9), [1, 4, 13, 2, 9, 9, 9, 9, 4])
    values[window % 3 == 1] += 1.5
    assert statistics.clustered_se(values, window) == pytest.approx(0.3103356472848302, rel=1e-12)
    assert statistics.mean_se(values) == pytest.approx(0.22353506678564455, rel=1e-12)
    assert statistics.mean_error(values, window) == pytest.approx(0.3103356472848302, rel=1e-12)
    paired = statistics.paired(values, np.zeros(60), window)
    assert paired.error == paired.se_clustered == pytest.approx(0.3103356472848302, rel=1e-12)


def test_clustered_error_is_the_spread_of_resampled_windows():
    """Which lacks the factor sqrt(W/(W-1)): 95 % of a normal spread are 2 * 1.96 of it wide."""
    generator = np.random.default_rng(9)
    window = np.repeat(np.arange(60), generator.integers(5, 50, 60))
    values = generator.gamma(2.0, 1.0, len(window)) + generator.normal(0, 0.5, 60)[window]
    low, high = statistics.bootstrap_interval(values, window, resamples=20_000)
    wide = 2 * 1.96 * math.sqrt(59 / 60) * statistics.clustered_se(values, window)
    assert high - low == pytest.approx(wide, rel=0.04)
    assert statistics.clustered_se(values, window) > 1.5 * statistics.mean_se(values)


def test_the_error_to_give_is_the_larger_that_is_known():
    assert statistics.larger_se(1.0, 2.0) == statistics.larger_se(2.0, 1.0) == 2.0
    assert statistics.larger_se(1.0, math.nan) == statistics.larger_se(None, 1.0) == 1.0
    assert math.isnan(statistics.larger_se(None, math.nan))


def test_with_windows_of_one_token_both_errors_agree(scores):
    nll, _ = scores
    assert statistics.clustered_se(nll, np.arange(400)) == pytest.approx(statistics.mean_se(nll), rel=1e-12)


def test_errors_that_do_not_exist_are_nan():
    assert math.isnan(statistics.ln_ppl_se([1.0]))
    assert math.isnan(statistics.clustered_se([1.0, 2.0], [0, 0]))
    assert all(math.isnan(x) for x in statistics.bootstrap_interval([1.0, 2.0], [0, 0]))
    assert math.isnan(statistics.binomial_se(1.0, 1))


def test_bootstrap_by_the_loop_and_in_any_chunks(scores, monkeypatch):
    nll, window = scores
    found = statistics.bootstrap_interval(nll, window, resamples=500, level=0.9, seed=8)
    generator, means = np.random.default_rng(8), []
    for _ in range(500):
        drawn = generator.integers(13, size=13)
        means.append(np.concatenate([nll[window == w] for w in drawn]).mean())
    assert found == pytest.approx(np.quantile(means, [0.05, 0.95]), rel=1e-12)
    monkeypatch.setattr(statistics, "_CHUNK_BYTES", 13 * 8 * 7)
    assert statistics.bootstrap_interval(nll, window, resamples=500, level=0.9, seed=8) == pytest.approx(
        found
    )
    with pytest.raises(ValueError, match="between 0 and 1"):
        statistics.bootstrap_interval(nll, window, level=95)


def test_coverage_of_the_intervals_on_correlated_windows():
    """Of 600 texts of 40 windows with a shared shift each, 95 % intervals hold the true mean 95 % of times.

    Binomial error of a coverage of 0.95 is 0.009; the plain error, blind to windows, must fail plainly.
    """
    generator = np.random.default_rng(17)
    hits = {"plain": 0, "clustered": 0, "bootstrap": 0}
    window = np.repeat(np.arange(40), 25)
    for trial in range(600):
        values = 3.0 + generator.normal(0, 0.5, 40)[window] + generator.normal(0, 1, 1000)
        distance = abs(values.mean() - 3.0)
        hits["plain"] += distance < 1.96 * statistics.mean_se(values)
        hits["clustered"] += distance < 1.96 * statistics.clustered_se(values, window)
        low, high = statistics.bootstrap_interval(values, window, resamples=400, seed=trial)
        hits["bootstrap"] += low < 3.0 < high
    assert 0.91 < hits["clustered"] / 600 < 0.98
    assert 0.90 < hits["bootstrap"] / 600 < 0.98
    assert hits["plain"] / 600 < 0.75


def test_pairing_removes_what_both_share(scores):
    nll, window = scores
    noise = np.random.default_rng(4).normal(0, 1e-3, 400)
    pair = statistics.paired(nll + 0.01 + noise, nll, window)
    assert pair.mean == pytest.approx(0.01 + noise.mean(), abs=1e-12)
    assert pair.se == pytest.approx(noise.std(ddof=1) / 20, rel=1e-6)
    assert pair.rms == pytest.approx(math.sqrt(np.mean((0.01 + noise) ** 2)), rel=1e-9)
    assert pair.interval[0] < pair.mean < pair.interval[1]
    assert (pair.tokens, pair.windows) == (400, 13)
    assert pair.se < statistics.ln_ppl_se(nll) / 100
    with pytest.raises(ValueError, match="one shape"):
        statistics.paired(nll, nll[1:], window)


def test_divergence_against_torch():
    import torch

    generator = np.random.default_rng(2)
    logits, baseline = (generator.normal(0, 4, (50, 300)).astype(np.float32) for _ in range(2))
    targets = generator.integers(0, 300, 50)
    found = statistics.divergence(logits, baseline, targets)
    log_p, log_b = (torch.tensor(x).double().log_softmax(-1) for x in (logits, baseline))
    expected = torch.nn.functional.kl_div(log_p, log_b, reduction="none", log_target=True).sum(-1)
    np.testing.assert_allclose(found.kl, expected.numpy(), rtol=1e-12)
    np.testing.assert_allclose(found.nll, -log_p.numpy()[np.arange(50), targets], rtol=1e-12)
    np.testing.assert_allclose(found.nll_baseline, -log_b.numpy()[np.arange(50), targets], rtol=1e-12)
    assert np.array_equal(found.top1, logits.argmax(1)) and np.array_equal(
        found.top1_baseline, baseline.argmax(1)
    )


def test_divergence_by_hand_and_in_any_chunks(monkeypatch):
    """Two tokens: KL = b ln(b/p) + (1-b) ln((1-b)/(1-p)), and adding a constant to logits changes nothing."""
    p, b = np.array([0.1, 0.5, 0.9, 1e-9]), np.array([0.2, 0.5, 0.3, 0.5])
    logits = np.log(np.stack([p, 1 - p], 1)) + 1e4
    baseline = np.log(np.stack([b, 1 - b], 1)) - 1e4
    expected = b * np.log(b / p) + (1 - b) * np.log((1 - b) / (1 - p))
    for chunk in (statistics._CHUNK_BYTES, 1):
        monkeypatch.setattr(statistics, "_CHUNK_BYTES", chunk)
        found = statistics.divergence(logits, baseline, np.zeros(4, int))
        np.testing.assert_allclose(found.kl, expected, rtol=1e-8, atol=1e-11)
        np.testing.assert_allclose(found.nll, -np.log(p), rtol=1e-8)


def test_divergence_at_its_edges():
    logits = np.array([[0.0, 1.0, -np.inf], [0.0, -np.inf, 0.0], [0.0, 1.0, 2.0]])
    baseline = np.array([[0.0, 1.0, -np.inf], [0.0, 0.0, -np.inf], [np.nan, 1.0, 2.0]])
    with np.errstate(invalid="ignore"):
        found = statistics.divergence(logits, baseline, np.array([0, 0, 0]))
    assert found.kl[0] == 0.0, "a token that both exclude counts nothing"
    assert found.kl[1] == np.inf, "the model excludes a token that the baseline allows"
    assert np.isnan(found.kl[2]) and np.isnan(found.nll_baseline[2])
    with pytest.raises(ValueError, match=r"must be one \[n, vocab\]"):
        statistics.divergence(logits, baseline[:, :2], np.zeros(3, int))


def test_rounding_lies_below_the_noise_that_is_to_be_measured():
    generator = np.random.default_rng(6)
    exact = generator.normal(0, 3, (200, 512))
    same = statistics.divergence(exact, exact + 100.0, np.zeros(200, int)).kl
    rounded = statistics.divergence(exact.astype(np.float32), exact, np.zeros(200, int)).kl
    assert same.max() < 1e-14
    assert 1e-15 < rounded.mean() < 1e-12


def test_spread_and_binomial_error():
    found = statistics.spread(np.arange(1001.0))
    assert found == pytest.approx(
        {"mean": 500, "median": 500, "p90": 900, "p99": 990, "p99.9": 999, "max": 1000}
    )
    hits = np.repeat([1.0, 0.0], [30, 70])
    assert statistics.binomial_se(0.3, 100) == pytest.approx(hits.std(ddof=1) / 10, rel=1e-12)


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="at least one value"):
        statistics.mean_nll([])
    with pytest.raises(ValueError, match="they must agree"):
        statistics.clustered_se([1.0, 2.0], [0])
