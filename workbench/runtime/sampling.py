"""Choosing the next token from logits, in numpy.

The filters are applied in the order of transformers' `GenerationMixin`: temperature, top-k, top-p, min-p,
each on what the one before left; then one token is drawn from the softmax of the survivors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from workbench.errors import WorkbenchError


@dataclass(frozen=True)
class SamplingOptions:
    """How tokens are chosen: temperature 0 is greedy; top_k 0, top_p 1 and min_p 0 are off."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        def demand(ok: bool, name: str, allowed: str) -> None:
            if not ok:
                raise WorkbenchError(f"sampling: {name} = {getattr(self, name)!r}; allowed: {allowed}")

        temperature_ok = math.isfinite(self.temperature) and self.temperature >= 0
        demand(temperature_ok, "temperature", "a finite number >= 0 (0 is greedy)")
        demand(self.top_k == int(self.top_k) and self.top_k >= 0, "top_k", "an integer >= 0 (0 is off)")
        demand(0 < self.top_p <= 1, "top_p", "0 < top_p <= 1 (1 is off)")
        demand(0 <= self.min_p < 1, "min_p", "0 <= min_p < 1 (0 is off)")
        demand(self.seed == int(self.seed) and self.seed >= 0, "seed", "an integer >= 0")

    @property
    def greedy(self) -> bool:
        return self.temperature == 0


def filter_logits(logits: np.ndarray, options: SamplingOptions) -> np.ndarray:
    """Logits [vocab] over the temperature, -inf where a filter removed a token; at least one stays."""
    logits = np.asarray(logits, dtype=np.float32)
    ids, scores = _survivors(np.arange(logits.size), _scaled(logits, options), options)
    filtered = np.full(logits.shape, -np.inf, np.float32)
    filtered[ids] = scores
    return filtered


def _scaled(logits: np.ndarray, options: SamplingOptions) -> np.ndarray:
    # The quotient in float32, as transformers has it; only the sums of probabilities are kept in float64.
    return np.asarray(logits, dtype=np.float32) / np.float32(options.temperature or 1.0)


def _survivors(
    ids: np.ndarray, scores: np.ndarray, options: SamplingOptions
) -> tuple[np.ndarray, np.ndarray]:
    """What the filters leave of tokens in ascending order and their scores. Sums are over the survivors only, so that
    tokens which a filter removed change no bit of what comes after it."""
    if 0 < options.top_k < scores.size:
        threshold = np.partition(scores, -options.top_k)[-options.top_k]
        stay = scores >= threshold  # ties with the k-th best too
        ids, scores = ids[stay], scores[stay]
    if options.top_p < 1:
        ascending = np.argsort(scores, kind="stable")
        remove = np.cumsum(softmax(scores[ascending])) <= 1 - options.top_p
        remove[-1] = False
        stay = np.ones(scores.size, dtype=bool)
        stay[ascending[remove]] = False
        ids, scores = ids[stay], scores[stay]
    if options.min_p > 0:
        probabilities = softmax(scores)
        stay = probabilities >= options.min_p * probabilities.max()
        ids, scores = ids[stay], scores[stay]
    return ids, scores


def softmax(scores: np.ndarray) -> np.ndarray:
    """Probabilities [vocab] in float64; -inf gives exactly 0."""
    shifted = np.exp(scores.astype(np.float64) - float(scores.max()))
    return shifted / shifted.sum()


class Sampler:
    """Draws tokens with one seeded random stream; the same options and logits give the same tokens."""

    def __init__(self, options: SamplingOptions):
        self.options = options
        self._random = np.random.default_rng(options.seed)

    def __call__(self, logits: np.ndarray) -> int:
        """The next token for logits [vocab]; of equal best logits, greedy takes the lowest id."""
        logits = np.asarray(logits)
        if logits.ndim != 1 or logits.size == 0:
            raise WorkbenchError(f"sampling: logits have shape {logits.shape}; allowed: [vocab]")
        best = int(np.argmax(logits))  # numpy's argmax gives a NaN's place, so this one check finds all
        if not np.isfinite(logits[best]):
            raise WorkbenchError(
                f"sampling: the logit of token {best} is {logits[best]}; the logits are not usable"
            )
        if self.options.greedy:
            return best
        return self._draw(np.arange(logits.size), _scaled(logits, self.options))

    def enough(self, count: int) -> bool:
        """Whether so many of the largest logits are enough for most draws: more than top-k leaves."""
        return not self.options.greedy and 0 < self.options.top_k < count

    def from_top(self, logits: np.ndarray, ids: np.ndarray) -> int | None:
        """The next token, given only the largest logits (largest first) and their ids: the one that a call with all of
        them would draw. None, and no random number used, where they do not tell: where all from the k-th best on are
        equal, more of the same may follow."""
        if not np.isfinite(logits[0]):
            raise WorkbenchError(
                f"sampling: the logit of token {ids[0]} is {logits[0]}; the logits are not usable"
            )
        scores = _scaled(logits, self.options)
        if not scores[-1] < scores[self.options.top_k - 1]:
            return None
        order = np.argsort(ids)
        return self._draw(ids[order], scores[order])

    def _draw(self, ids: np.ndarray, scores: np.ndarray) -> int:
        ids, scores = _survivors(ids, scores, self.options)
        cumulative = np.cumsum(softmax(scores))
        drawn = np.searchsorted(cumulative, self._random.random() * cumulative[-1], side="right")
        return int(ids[min(drawn, ids.size - 1)])
