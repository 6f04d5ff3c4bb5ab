"""Statistics of per-token negative log-likelihoods (nats) and of logits, in f64.

Notation: n scored tokens, l_i = -ln p(token i), windows w = 1..W with n_w tokens each. Tokens of one window
share a context and are not independent, so next to the plain error stands one clustered by window; the larger of the
two is the error that a figure is given with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

_CHUNK_BYTES = 32 << 20  # of one f64 temporary; a handful live at once
QUANTILES = {"median": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}
#: Of values of either sign.
BOTH_TAILS = {"p0.1": 0.001, "p1": 0.01, "p5": 0.05, "median": 0.5, "p95": 0.95, "p99": 0.99, "p99.9": 0.999}


def mean_nll(nll: np.ndarray) -> float:
    """Mean of l over nll [n]; exp of it is the perplexity."""
    return float(np.mean(_vector(nll, "nll")))


def ln_ppl_se(nll: np.ndarray) -> float:
    """SE(ln PPL) = sqrt((mean l^2 - mean(l)^2) / (n - 1)); llama.cpp's perplexity tool prints it times PPL.

    Takes tokens as independent. NaN for n < 2.
    """
    values = _vector(nll, "nll")
    if len(values) < 2:
        return float("nan")
    return float(np.sqrt(np.var(values) / (len(values) - 1)))


def mean_se(values: np.ndarray) -> float:
    """Standard error of the mean, sd / sqrt(n) with the (n - 1) estimate of sd. NaN for n < 2."""
    return ln_ppl_se(values)  # the same number, written otherwise


def clustered_se(values: np.ndarray, window_index: np.ndarray) -> float:
    """Standard error of the mean of values [n], clustered by window.

    sqrt(W/(W-1) * sum_w (D_w - mean * n_w)^2) / n with D_w the sum over window w: the cluster-robust variance
    of a mean (Liang and Zeger 1986; Miller 2024, "Adding error bars to evals") with the small-sample
    factor W/(W-1). NaN for fewer than two windows.
    """
    return ratio_se(*window_sums(values, window_index))


def larger_se(plain: float | None, clustered: float | None) -> float:
    """The standard error to give a figure with, and to tell it from others by: the larger of the two, or the one that
    is known; NaN where none is.

    Tokens of a window that share something make the clustered error larger; where it is smaller, as windows are few or
    happen to be alike, the plain one is the cautious one of the two.
    """
    known = [each for each in (plain, clustered) if each is not None and np.isfinite(each)]
    return max(known, default=float("nan"))


def mean_error(values: np.ndarray, window_index: np.ndarray) -> float:
    """The error to give a mean of values [n] with: the larger of `mean_se` and `clustered_se`."""
    return larger_se(mean_se(values), clustered_se(values, window_index))


def tokens_to_tell(tokens: int, difference: float, se: float, times: float = 2.0) -> int | None:
    """How many tokens it takes until a paired difference is `times` its standard error, if both stay as they are.

    tokens (times se / difference)^2, since an error falls with the root of the tokens. None for a difference of zero or
    an error that is unknown.
    """
    if not difference or not np.isfinite(se) or not np.isfinite(difference):
        return None
    return int(np.ceil(tokens * (times * se / difference) ** 2))


def ratio_se(sums: np.ndarray, sizes: np.ndarray) -> float:
    """Standard error of sum(sums) / sum(sizes) over clusters [W], such as documents and their words.

    The formula of `clustered_se`, whose sizes are the tokens. NaN for fewer than two clusters.
    """
    if len(sums) < 2:
        return float("nan")
    total = np.sum(sizes)
    residual = sums - np.sum(sums) / total * np.asarray(sizes, np.float64)
    return float(np.sqrt(len(sums) / (len(sums) - 1) * np.sum(residual**2)) / total)


def window_sums(values: np.ndarray, window_index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(D_w f64 [W], n_w f64 [W]) in the order of the windows' indices."""
    values, index = _vector(values, "values"), np.asarray(window_index)
    if index.shape != values.shape:
        raise ValueError(
            f"window_index has shape {list(index.shape)}, values {list(values.shape)}; they must agree"
        )
    _, inverse = np.unique(index, return_inverse=True)
    return np.bincount(inverse, weights=values), np.bincount(inverse).astype(np.float64)


def bootstrap_interval(
    values: np.ndarray,
    window_index: np.ndarray,
    *,
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of the mean of values [n], resampling whole windows.

    Percentile bootstrap (Efron and Tibshirani 1993, ch. 13): each resample draws W windows with replacement
    and takes sum D / sum n. NaN for fewer than two windows.
    """
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; it must lie between 0 and 1")
    sums, counts = window_sums(values, window_index)
    if len(sums) < 2:
        return float("nan"), float("nan")
    generator = np.random.default_rng(seed)
    means = np.empty(resamples)
    step = max(1, _CHUNK_BYTES // (8 * len(sums)))
    for begin in range(0, resamples, step):
        size = min(step, resamples - begin)
        drawn = generator.integers(len(sums), size=(size, len(sums)))
        means[begin : begin + size] = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class Paired:
    """Differences d = l - l_baseline, token by token. mean = ln(PPL / PPL_baseline); rms = sqrt(mean d^2),
    which shows symmetric noise that a signed mean hides; interval: 95 % window bootstrap of the mean."""

    mean: float
    se: float
    se_clustered: float
    rms: float
    interval: tuple[float, float]
    tokens: int
    windows: int

    @property
    def error(self) -> float:
        """The error to give: `larger_se`."""
        return larger_se(self.se, self.se_clustered)


def paired(nll: np.ndarray, baseline: np.ndarray, window_index: np.ndarray, *, seed: int = 0) -> Paired:
    """Two nll arrays [n] over the same targets: ln(PPL / PPL_baseline) = mean d, SE = sd(d) / sqrt(n)."""
    nll, baseline = _vector(nll, "nll"), _vector(baseline, "baseline")
    if nll.shape != baseline.shape:
        raise ValueError(
            f"paired arrays must have one shape, not {list(nll.shape)} and {list(baseline.shape)}"
        )
    d = nll - baseline
    return Paired(
        mean=float(d.mean()),
        se=mean_se(d),
        se_clustered=clustered_se(d, window_index),
        rms=float(np.sqrt(np.mean(d**2))),
        interval=bootstrap_interval(d, window_index, seed=seed),
        tokens=len(d),
        windows=len(np.unique(window_index)),
    )


@dataclass(frozen=True, eq=False)
class Divergence:
    """Token by token, all [n]: nll and nll_baseline of the targets, kl = KL(baseline || model) in nats, and
    the two models' most likely tokens (the lowest id of equals). estimated: where kl is an estimate, a lower bound of
    it and the variance of the estimate, [2, n]."""

    nll: np.ndarray
    nll_baseline: np.ndarray
    kl: np.ndarray
    top1: np.ndarray
    top1_baseline: np.ndarray
    estimated: np.ndarray | None = None


def divergence(logits: np.ndarray, baseline: np.ndarray, targets: np.ndarray) -> Divergence:
    """Compare two logits arrays [n, vocab] of any float dtype at targets int [n], in f64, a few rows a time.

    kl = sum_v p_b(v) (ln p_b(v) - ln p(v)), with 0 ln 0 = 0; infinite where the model excludes a token that
    the baseline allows. Rounding leaves an error of about 1e-15, below the KL of one f32 rounding (about
    1e-13).
    """
    logits, baseline, targets = np.asarray(logits), np.asarray(baseline), np.asarray(targets)
    if logits.ndim != 2 or logits.shape != baseline.shape or targets.shape != logits.shape[:1]:
        raise ValueError(
            f"logits {list(logits.shape)} and baseline {list(baseline.shape)} must be one [n, vocab], "
            f"targets {list(targets.shape)} its [n]"
        )
    rows, vocabulary = logits.shape
    nll, nll_baseline, kl = np.empty(rows), np.empty(rows), np.empty(rows)
    for part in row_chunks(rows, vocabulary):
        log_p, log_b = log_softmax(logits[part]), log_softmax(baseline[part])
        column = targets[part][:, None]
        nll[part] = -np.take_along_axis(log_p, column, 1)[:, 0]
        nll_baseline[part] = -np.take_along_axis(log_b, column, 1)[:, 0]
        p = np.exp(log_b)
        np.subtract(log_b, log_p, out=log_b, where=p > 0)
        np.copyto(log_b, 0.0, where=p == 0)
        kl[part] = np.maximum(np.einsum("ij,ij->i", p, log_b), 0.0)
    return Divergence(nll, nll_baseline, kl, logits.argmax(1), baseline.argmax(1))


def target_nll(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """-ln p(target) f64 [n] from logits [n, vocab] of any float dtype and targets int [n]."""
    rows = np.arange(len(logits))
    nll = np.empty(len(logits))
    for part in row_chunks(*logits.shape):
        nll[part] = -log_softmax(logits[part])[rows[: len(nll[part])], targets[part]]
    return nll


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """ln softmax over the last axis in f64: x - max - ln sum exp(x - max)."""
    shifted = np.asarray(logits).astype(np.float64)
    shifted -= shifted.max(-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(-1, keepdims=True))
    return shifted


def row_chunks(rows: int, columns: int) -> Iterator[slice]:
    """Slices of rows whose f64 temporaries stay within a few tens of MB."""
    step = max(1, _CHUNK_BYTES // (8 * max(1, columns)))
    for begin in range(0, rows, step):
        yield slice(begin, min(rows, begin + step))


def binomial_se(share: float, count: int) -> float:
    """Standard error of a share of `count` independent trials, sqrt(p (1 - p) / (n - 1)). NaN for n < 2."""
    return float(np.sqrt(share * (1 - share) / (count - 1))) if count > 1 else float("nan")


def exp(value: float) -> float:
    """exp that overflows to infinity instead of raising."""
    with np.errstate(over="ignore"):
        return float(np.exp(value))


def spread(values: np.ndarray) -> dict[str, float]:
    """mean, median, p90, p99, p99.9 and max of values [n]."""
    values = _vector(values, "values")
    return {"mean": float(values.mean()), **quantiles(values, QUANTILES), "max": float(values.max())}


def quantiles(values: np.ndarray, places: Mapping[str, float]) -> dict[str, float]:
    """Quantiles of values [n] by name, linear interpolation between order statistics; places: shares by name."""
    found = np.quantile(_vector(values, "values"), list(places.values()))
    return {name: float(value) for name, value in zip(places, found, strict=True)}


def _vector(values: np.ndarray, name: str) -> np.ndarray:
    vector = np.asarray(values, np.float64)
    if vector.ndim != 1 or not len(vector):
        raise ValueError(f"{name} must be a vector of at least one value, not of shape {list(vector.shape)}")
    return vector
