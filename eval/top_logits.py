"""A baseline's logits kept in little space: the k largest of each place, and the probability of all others as one.

    perplexity(base, text, "disjoint-512", save_baseline="base.logits")
    perplexity(model, text, "disjoint-512", baseline="base.logits")

**What this leaves out.** KL(P || Q) of two distributions of which some tokens are counted as one is

    sum over the k of p ln(p / q)  +  t ln(t / u),      t, u: the mass of all other tokens in P and in Q

and at most the KL of the whole distributions (log-sum inequality; Cover and Thomas 2006, theorem 2.7.1). What is
missing is t times the KL of the two tails, each divided by its mass: differences among unlikely tokens. Everything
else is exact: logits are kept in their own f32, normalisers and tail masses in f64.

How much is missing is estimated too: of each place, eight tokens are drawn from the tail by their probability, and
the mean of their ln(p / q) is an unbiased estimate of the tail's part. The record has the mean KL as the bound
(`kl`), what is missing of it (`missing_mean`) and the error of that estimate (`missing_mean_se`).

Measured on the embedded model (vocabulary 4,096; round to nearest against f16; 24 windows of `disjoint-512` of its
evaluation text, 12,264 tokens):

| k | mean KL too small by: INT4 | INT2 | the same with what is missing: INT4 | INT2 | bytes a token |
|--:|--:|--:|--:|--:|--:|
| 16 | 17.4 % | 12.4 % | -0.8 ± 0.8 % | -0.02 ± 0.09 % | 192 |
| 64 | 7.4 % | 4.8 % | +0.5 ± 0.4 % | +0.06 ± 0.04 % | 480 |
| 256 | 2.4 % | 1.5 % | -0.03 ± 0.15 % | -0.01 ± 0.02 % | 1,632 |

Whole logits take 16,384 bytes. So KL figures of one k compare with each other, and with those of whole logits only
together with what is missing. Negative log-likelihoods, perplexities and same-top-1 do not pass through the k logits
and are exact.
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

KIND = "baseline with logits"
TOP_K = 64
#: Tokens drawn from the rest of each place, with replacement, to estimate what the bound leaves out.
SAMPLES = 8
_TOP = {
    "top_logits": "float32",
    "top_ids": "uint16 uint32",
    "tail_logits": "float32",
    "tail_ids": "uint16 uint32",
    "normalizer": "float64",
    "log_tail": "float64",
}


@dataclass(frozen=True, eq=False)
class TopLogits:
    """Of n places of a vocabulary: the k largest logits f32 [n, k] in no order, their token ids [n, k], the same of
    tokens drawn from the rest by their probability [n, `SAMPLES`], ln sum exp of all logits f64 [n], and ln of the
    probability beyond the k, f64 [n] (-inf where nothing is)."""

    top_logits: np.ndarray
    top_ids: np.ndarray
    tail_logits: np.ndarray
    tail_ids: np.ndarray
    normalizer: np.ndarray
    log_tail: np.ndarray
    vocab_size: int

    @classmethod
    def of(cls, logits: np.ndarray, top_k: int = TOP_K, seed: int = 0) -> TopLogits:
        """From logits [n, vocab] of any float dtype, kept as f32; top_k beyond the vocabulary keeps all. seed: of the
        tokens drawn from the rest."""
        if top_k < 1:
            raise ProtocolError(f"top_k is {top_k}; it must be at least 1")
        rows, vocabulary = logits.shape
        k = min(top_k, vocabulary)
        logits = np.asarray(logits, np.float32)
        ids = np.argpartition(logits, vocabulary - k, axis=1)[:, vocabulary - k :]
        kept = np.take_along_axis(logits, ids, 1)
        normalizer, log_tail = np.empty(rows), np.empty(rows)
        drawn = np.random.default_rng(seed).random((rows, SAMPLES))
        tail_ids = np.empty((rows, SAMPLES), np.int64)
        for part in statistics.row_chunks(rows, vocabulary):
            wide = logits[part].astype(np.float64)
            normalizer[part] = statistics.log_sum_exp(wide)
            np.put_along_axis(wide, ids[part], -np.inf, 1)
            log_tail[part] = statistics.log_sum_exp(wide) - normalizer[part]
            reached = np.cumsum(np.exp(wide - normalizer[part, None]), 1)
            for row, sums in zip(range(part.start, part.stop), reached, strict=True):
                place = np.searchsorted(sums, drawn[row] * sums[-1], side="right")
                tail_ids[row] = np.minimum(place, vocabulary - 1)
        small = np.uint16 if vocabulary <= 1 << 16 else np.uint32
        tail = np.take_along_axis(logits, tail_ids, 1)
        return cls(kept, ids.astype(small), tail, tail_ids.astype(small), normalizer, log_tail, vocabulary)

    @classmethod
    def join(cls, parts: list[TopLogits]) -> TopLogits:
        """Places one after another."""
        return cls(*(np.concatenate([getattr(p, name) for p in parts]) for name in _TOP), parts[0].vocab_size)

    def __len__(self) -> int:
        return len(self.normalizer)

    def check(self, places: int) -> None:
        """Raise ProtocolError unless the arrays fit each other, the vocabulary, and so many places."""
        k = self.top_ids.shape[-1] if self.top_ids.ndim == 2 else 0
        m = self.tail_ids.shape[-1] if self.tail_ids.ndim == 2 else 0
        shapes = [getattr(self, name).shape for name in _TOP]
        right = [(places, k), (places, k), (places, m), (places, m), (places,), (places,)]
        if shapes != right or not 1 <= k <= self.vocab_size or m < 2:
            raise ProtocolError(f"shapes {shapes} are not the top logits of {places} places")
        largest = max((int(ids.max()) for ids in (self.top_ids, self.tail_ids) if ids.size), default=0)
        if largest >= self.vocab_size:
            raise ProtocolError(f"token {largest} is outside the vocabulary of {self.vocab_size}")

    def rows(self, part: slice) -> TopLogits:
        """Some of the places."""
        return TopLogits(*(getattr(self, name)[part] for name in _TOP), self.vocab_size)

    def kl(self, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(bound, missing, variance), all f64 [n], of KL(self || model) in nats for a model's logits [n, vocab].

        bound: all unkept tokens counted as one, never above the whole KL; infinite where the model excludes what the
        baseline allows. missing: an unbiased estimate of the rest, from the drawn tokens, negative at times;
        variance: of that estimate, from the spread of its draws.
        """
        if logits.shape != (len(self), self.vocab_size):
            raise ValueError(f"logits are {list(logits.shape)}, but must be {[len(self), self.vocab_size]}")
        bound, missing, variance = (np.empty(len(self)) for _ in range(3))
        for part in statistics.row_chunks(*logits.shape):
            log_q = statistics.log_softmax(logits[part])
            ids = self.top_ids[part].astype(np.int64)
            top = self._ratios(self.top_logits, ids, part, log_q)
            p = np.exp(self.top_logits[part].astype(np.float64) - self.normalizer[part, None])
            drawn = self._ratios(self.tail_logits, self.tail_ids[part].astype(np.int64), part, log_q)
            np.put_along_axis(log_q, ids, -np.inf, 1)
            tail = np.exp(self.log_tail[part])
            with np.errstate(invalid="ignore"):
                together = self.log_tail[part] - statistics.log_sum_exp(log_q)
                beyond = np.where(tail > 0, tail * together, 0.0)
                missing[part] = np.where(tail > 0, tail * (drawn.mean(1) - together), 0.0)
                variance[part] = np.where(tail > 0, tail**2 * drawn.var(1, ddof=1) / drawn.shape[1], 0.0)
            np.copyto(top, 0.0, where=p == 0)
            bound[part] = np.maximum(np.einsum("ij,ij->i", p, top) + beyond, 0.0)
        return bound, missing, variance

    def _ratios(self, logits: np.ndarray, ids: np.ndarray, part: slice, log_q: np.ndarray) -> np.ndarray:
        """ln p / q of some tokens, from their logits of the baseline."""
        return (
            logits[part].astype(np.float64) - self.normalizer[part, None] - np.take_along_axis(log_q, ids, 1)
        )

    def describe(self) -> dict[str, Any]:
        """For a record: how many logits were kept, what lies beyond them, and what that makes of the KL."""
        tail = np.exp(self.log_tail)
        return {
            "top_k": self.top_logits.shape[1],
            "vocab_size": self.vocab_size,
            "tail_mass_mean": float(tail.mean()),
            "tail_mass_max": float(tail.max()),
            "kl_is": "lower bound: tokens beyond the top k are counted as one",
        }


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
            top = TopLogits(*(arrays[name] for name in _TOP), int(record["vocab_size"]))
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

    def divergence(self, part: slice, logits: np.ndarray, targets: np.ndarray) -> statistics.Divergence:
        """As `statistics.divergence` against the whole logits; KL is a lower bound."""
        bound, missing, variance = self.top.rows(part).kl(logits)
        return statistics.Divergence(
            statistics.target_nll(logits, targets),
            self.result.token_nll[part],
            bound,
            logits.argmax(1),
            self.result.top1[part],
            np.stack([missing, variance]),
        )

    def truncation(self, parts: list[statistics.Divergence]) -> dict[str, Any]:
        """For a record: what was kept, and how much of the mean KL is missing, with the error of that estimate."""
        missing, variance = np.concatenate([part.missing for part in parts], 1)
        return {
            **self.top.describe(),
            "missing_mean": float(missing.mean()),
            "missing_mean_se": float(np.sqrt(variance.sum()) / len(variance)),
        }
