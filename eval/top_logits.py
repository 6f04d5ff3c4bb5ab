"""A baseline's distributions kept in little space: the likeliest tokens of each place, and a sample of all others.

    perplexity(base, text, "disjoint-512", save_baseline="base.logits")
    perplexity(model, text, "disjoint-512", baseline="base.logits")

**What is kept** of a place: the log-probabilities of the k likeliest tokens, the probability t of all others, and the
log-probabilities of some of these, a priority sample (Duffield, Lund and Thorup 2007, "Priority sampling for
estimation of arbitrary subset sums"): the `SAMPLES` with the largest p / u, u uniform, of each of `STRATA` parts of the
vocabulary. With s the largest p / u of a part that was left out, its sum of p f is estimated without bias by that over
its sample of max(p, s) f.

**What it gives.** With d = ln(p / q) of a token, and u the probability that the model gives to all others,

    bound    =  sum over the k of p d  +  t ln(t / u)
    KL       =  bound  +  sum over all others of p (e - b (1 - exp(-e))),   e = d - ln(t / u),

for any b, since 1 - exp(-e) has the mean 0 there. The bound is KL with all others counted as one, never above the whole
(log-sum inequality; Cover and Thomas 2006, theorem 2.7.1). Its rest is taken from the sample, with b = 1 / (1 + bound):
where two models are close, e and 1 - exp(-e) are nearly equal and their difference, of second order, hardly varies;
where they are far apart, exp(-e) of a token that was not drawn could be anything, and is left out.

So KL of a place is an estimate, right in the mean, and its error is known (`estimated_se`). The lower bound stands
beside it, and is called so. Measured on SmolLM2-135M (vocabulary 49,152, 511 tokens of WikiText-2, k = 64, round to
nearest):

| | mean KL | bound | estimate off: mean | median | p99 | one place, RMS |
|:--|--:|--:|--:|--:|--:|--:|
| INT8 | 2.035e-3 | -22.6 % | -0.02 % | -1.5 % | -0.1 % | 0.8 % |
| INT4, blocks of 64 | 0.5016 | -19.6 % | -0.09 % | -0.1 % | -0.7 % | 0.9 % |
| INT4 | 0.5577 | -19.7 % | -0.04 % | +0.2 % | -0.01 % | 1.2 % |
| INT2 | 15.82 | -13.2 % | -0.06 % | +0.1 % | -0.01 % | 0.4 % |

A place takes 4 bytes a log-probability, 2 a token id (4 from a vocabulary of 65,537 on) and 260 more: 6.4 kB (8.5),
where whole logits take 197 kB (513 for a vocabulary of 128,256). Negative log-likelihoods, perplexities and
same-top-1 do not pass through any of this.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eval import statistics
from eval.protocols import Protocol, Window
from eval.result import ARRAYS, PerplexityResult
from eval.store import read_arrays, write_arrays
from workbench.errors import ProtocolError
from workbench.known import known

KIND = "baseline with logits"
TOP_K = 64
#: The rest of each place is drawn from by strata, tokens whose id leaves the same remainder: so many of each.
STRATA, SAMPLES = 64, 15
_LOWEST = np.finfo(np.float32).min  # of no token
_TOP = {
    "top_log_p": "float32",
    "top_ids": "uint16 uint32",
    "tail_log_p": "float32",
    "tail_ids": "uint16 uint32",
    "threshold": "float32",
    "tail": "float32",
}


@dataclass(frozen=True, eq=False)
class TopLogits:
    """Of n places of a vocabulary: log-probabilities f32 [n, k] of the likeliest tokens, likeliest first, and their
    ids; the same of tokens drawn from the rest [n, m]; ln of the largest p / u that was not drawn, f32 [n] (-inf
    where all tokens were); and the probability beyond the k, f32 [n]."""

    top_log_p: np.ndarray
    top_ids: np.ndarray
    tail_log_p: np.ndarray
    tail_ids: np.ndarray
    threshold: np.ndarray
    tail: np.ndarray
    vocab_size: int

    @classmethod
    def of(cls, logits: np.ndarray, top_k: int = TOP_K, seed: int = 0) -> TopLogits:
        """From logits [n, vocab] of any float dtype; top_k beyond the vocabulary keeps all. seed: of the tokens
        drawn."""
        from workbench.runtime.rows import HostRows  # and torch with it

        return cls.of_rows(HostRows(np.asarray(logits)), top_k, seeds(seed, len(logits)))

    @classmethod
    def of_rows(cls, rows: Any, top_k: int, seeds: np.ndarray) -> TopLogits:
        """From rows of logits where they are (`workbench.runtime.rows`); seeds u32 [n]: of the tokens drawn."""
        if top_k < 1:
            raise ProtocolError(f"top_k is {top_k}; it must be at least 1")
        count, vocabulary = rows.shape
        k = min(top_k, vocabulary)
        best = rows.apply("top_k", k=k)
        ids, keys = _drawn(rows, best, seeds)
        drawn = keys[:, :, :-1].reshape(count, -1) > _LOWEST
        ids = np.concatenate([best["indices"], np.where(drawn, ids.reshape(count, -1), 0)], 1)
        got = rows.apply("log_probabilities", ids=ids.astype(np.uint32), counted=k)
        log_p = got["y"].astype(np.float32)
        normalizer = best["values"][:, :1].astype(np.float64) - got["y"][:, :1]
        threshold = np.where(keys[:, :, -1] > _LOWEST, keys[:, :, -1] - normalizer, -np.inf)
        tokens = ids.astype(np.uint16 if vocabulary <= 1 << 16 else np.uint32)
        return cls(
            log_p[:, :k],
            tokens[:, :k],
            np.where(drawn, log_p[:, k:], np.float32(-np.inf)),
            tokens[:, k:],
            threshold.astype(np.float32),
            got["beyond"].astype(np.float32),
            vocabulary,
        )

    @classmethod
    def join(cls, parts: list[TopLogits]) -> TopLogits:
        """Places one after another."""
        joined = {name: np.concatenate([getattr(p, name) for p in parts]) for name in _TOP}
        return cls(**joined, vocab_size=parts[0].vocab_size)

    def __len__(self) -> int:
        return len(self.tail)

    def check(self, places: int) -> None:
        """Raise ProtocolError unless the arrays fit each other, the vocabulary, and so many places."""
        k = self.top_ids.shape[-1] if self.top_ids.ndim == 2 else 0
        m = self.tail_ids.shape[-1] if self.tail_ids.ndim == 2 else 0
        strata = self.threshold.shape[-1] if self.threshold.ndim == 2 else 0
        shapes = [getattr(self, name).shape for name in _TOP]
        right = [(places, k), (places, k), (places, m), (places, m), (places, strata), (places,)]
        if shapes != right or not 1 <= k <= self.vocab_size or not strata or m % strata:
            raise ProtocolError(f"shapes {shapes} are not the top logits of {places} places")
        largest = max((int(ids.max()) for ids in (self.top_ids, self.tail_ids) if ids.size), default=0)
        if largest >= self.vocab_size:
            raise ProtocolError(f"token {largest} is outside the vocabulary of {self.vocab_size}")

    def rows(self, part: slice) -> TopLogits:
        """Some of the places."""
        return TopLogits(**{name: getattr(self, name)[part] for name in _TOP}, vocab_size=self.vocab_size)

    def asked(self) -> dict[str, Any]:
        """What `log_probabilities` is asked for of a model's rows of logits at the same places."""
        ids = np.concatenate([self.top_ids, self.tail_ids], 1).astype(np.uint32)
        return {"ids": ids, "counted": self.top_ids.shape[1]}

    def kl(self, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`estimate` for a model's logits [n, vocab]."""
        from workbench.runtime.rows import HostRows

        if logits.shape != (len(self), self.vocab_size):
            raise ValueError(f"logits are {list(logits.shape)}, but must be {[len(self), self.vocab_size]}")
        found = HostRows(logits).apply("log_probabilities", **self.asked())
        return self.estimate(found["y"], found["beyond"])

    def estimate(self, log_q: np.ndarray, beyond: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(KL, bound, variance), all f64 [n], of KL(self || model) in nats.

        log_q [n, k + m]: the model's log-probabilities of the tokens kept; beyond [n]: the probability that it gives to
        all but the k. KL: without bias. bound: all but the k counted as one, never above the whole KL. variance: of KL,
        estimated from the sample; 0 where all tokens were kept. KL and bound are infinite where the model excludes what
        the baseline allows. (Module docstring.)
        """
        k = self.top_ids.shape[1]
        log_q, u, t = log_q.astype(np.float64), beyond.astype(np.float64), self.tail.astype(np.float64)
        log_p, log_tail_p = self.top_log_p.astype(np.float64), self.tail_log_p.astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            together = np.log(t) - np.log(u)
            rest = np.where(t > 0, t * together, 0.0) - t + u
            d = log_p - log_q[:, :k]
            # as in wgsl_kernels/logits/divergence.wgsl: of terms >= 0, so that rounding of normalisers hardly matters
            bound = _weighted(np.exp(log_p), d + np.expm1(-d)).sum(1) + rest
            e = log_tail_p - log_q[:, k:] - together[:, None]
            share = 1 / (1 + bound[:, None])
            f = share * (e + np.expm1(-e)) + (1 - share) * np.where(share < 1, e, 0.0)
            p = np.exp(log_tail_p)
            least = np.exp(
                np.repeat(self.threshold.astype(np.float64), p.shape[1] // self.threshold.shape[1], 1)
            )
            least = np.where(p > 0, least, 0.0)  # of what is no token
            kl = np.where(np.isfinite(bound), bound + _weighted(np.maximum(p, least), f).sum(1), bound)
            variance = _weighted(least * np.maximum(least - p, 0.0), f * f).sum(1)
        return np.maximum(kl, 0.0), np.maximum(bound, 0.0), variance

    def describe(self) -> dict[str, Any]:
        """For a record: what was kept, and what that makes of the KL."""
        tail = self.tail.astype(np.float64)
        return {
            "top_k": self.top_ids.shape[1],
            "samples": self.tail_ids.shape[1],
            "vocab_size": self.vocab_size,
            "tail_mass_mean": float(tail.mean()),
            "tail_mass_max": float(tail.max()),
            "kl_is": "estimate: tokens beyond the top k are sampled; bound_mean counts them as one, a lower bound",
        }


def _drawn(rows: Any, best: dict[str, np.ndarray], seeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ids of the tokens drawn, [n, strata, samples], and the priorities of these and of the next one of each stratum,
    [n, strata, samples + 1]; `_LOWEST` where a stratum has no more."""
    count, vocabulary = rows.shape
    each = max(-(-vocabulary // STRATA), SAMPLES + 1)
    last = {"last_value": best["values"][:, -1], "last_index": best["indices"][:, -1]}
    options = {"strata": STRATA, "places": STRATA * each, "seeds": seeds}
    priorities = rows.apply("tail_priorities", **last, **options, stay=("y",))["y"]
    try:
        found = priorities.split(STRATA).apply("top_k", k=SAMPLES + 1)
    finally:
        priorities.release()
    places = found["indices"].astype(np.int64).reshape(count, STRATA, -1)[:, :, :-1]
    return places * STRATA + np.arange(STRATA)[:, None], found["values"].reshape(count, STRATA, -1)


def seeds(seed: int, count: int) -> np.ndarray:
    """u32 [count]: of the tokens drawn at so many places."""
    return np.random.default_rng(seed).integers(0, 1 << 32, count, dtype=np.uint32)


def _weighted(weight: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Their product, 0 where the weight is, whatever the value."""
    return np.where(weight > 0, weight * value, 0.0)


@dataclass(frozen=True, eq=False)
class StoredBaseline:
    """A baseline's scores and the top of its logits, at the same places."""

    result: PerplexityResult
    top: TopLogits

    def save(self, path: str | Path) -> None:
        """Write one file, whole or not at all."""
        arrays = {name: getattr(self.result, name) for name in ARRAYS}
        arrays |= {name: getattr(self.top, name) for name in _TOP}
        write_arrays(path, KIND, {"result": self.result.record(), "vocab_size": self.top.vocab_size}, arrays)

    @classmethod
    def load(cls, path: str | Path) -> StoredBaseline:
        """Read what `save` wrote. Raises ProtocolError for anything else: cut, altered, or another kind of file."""
        record, arrays = read_arrays(path, KIND, {**ARRAYS, **_TOP})
        try:
            result = PerplexityResult.from_record(record["result"], arrays)
            top = TopLogits(**{name: arrays[name] for name in _TOP}, vocab_size=int(record["vocab_size"]))
            top.check(result.tokens_scored)
        except (KeyError, TypeError, ValueError, ProtocolError) as error:
            raise ProtocolError(f"{path}: not a whole {KIND} ({error})") from error
        return cls(result, top)

    def first(self, windows: int) -> StoredBaseline:
        """Only its first so many windows."""
        if windows == self.result.windows:
            return self
        return StoredBaseline(
            self.result.first(windows), self.top.rows(slice(int((self.result.window_index < windows).sum())))
        )

    def require(
        self,
        scheme: Protocol,
        windows: list[Window],
        tokens_sha256: str,
        tokenizer_sha256: str | None,
        vocab_size: int,
    ) -> StoredBaseline:
        """Its part for these windows. Raises ProtocolError, naming what differs, if it was made of others."""
        result = self.result
        for what, mine, asked in (
            ("protocol", result.protocol.name, scheme.name),
            ("tokenizer", result.tokenizer_sha256, tokenizer_sha256),
            ("vocabulary", self.top.vocab_size, vocab_size),
            ("tokens_sha256", result.tokens_sha256, tokens_sha256),
        ):
            if mine != asked:
                raise ProtocolError(
                    f"the stored baseline is of another {what}: {mine}, but {asked} is asked for"
                )
        if result.windows < len(windows):
            raise ProtocolError(
                f"the stored baseline holds {result.windows} windows, but {len(windows)} are asked for; "
                f"allowed: max_windows up to {result.windows}"
            )
        found = self.first(len(windows))
        if not np.array_equal(found.result.targets, np.concatenate([w.targets for w in windows])):
            raise ProtocolError("the stored baseline scores other targets in its windows")
        return found

    def divergence(
        self, part: slice, nll: np.ndarray, top1: np.ndarray, log_q: np.ndarray, beyond: np.ndarray
    ) -> statistics.Divergence:
        """Of a model's scores at some places, and what `log_probabilities` gave of its logits there."""
        kl, bound, variance = self.top.rows(part).estimate(log_q, beyond)
        return statistics.Divergence(
            nll, self.result.token_nll[part], kl, top1, self.result.top1[part], np.stack([bound, variance])
        )

    def truncation(self, parts: list[statistics.Divergence]) -> dict[str, Any]:
        """For a record: what was kept; the mean of the lower bound; the error that the sample adds to the mean KL,
        and the RMS of that of one place."""
        bound, variance = np.concatenate([known(part.estimated) for part in parts], 1)
        return {
            **self.top.describe(),
            "bound_mean": float(bound.mean()),
            "estimated_se": float(np.sqrt(variance.sum()) / len(variance)),
            "estimated_rms": float(np.sqrt(variance.mean())),
        }
