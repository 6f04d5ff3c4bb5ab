"""Choosing the next token from logits on the host: the options, and the same draw that devices make.

The draw itself is the pair `sample`; its arithmetic, in `wgsl_kernels.sampling.drawing`, gives the same token on every
backend for the same logits, options, seed and position.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from wgsl_kernels.layout import make_seen
from wgsl_kernels.sampling import drawing
from workbench.errors import WorkbenchError
from workbench.models.endings import LIKELY

#: Seeds are the key of the random numbers, 64 bits.
SEEDS = 1 << 64


class Drawn(NamedTuple):
    """A token that was drawn. Where it was asked for: ln p of it, and (id, ln p) of the likeliest tokens, best first,
    of equals the lowest id first; p at temperature 1, without penalty and filters."""

    id: int
    log_p: float | None = None
    likely: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class SamplingOptions:
    """How tokens are chosen. temperature 0 is greedy, as is one that f32 cannot divide by (below 2^-126).

    top_k 0, top_p 1, min_p 0 and repetition_penalty 1 are off. The penalty divides positive logits of tokens that have
    occurred (in the prompt or since) and multiplies negative ones (Keskar et al. 2019). The same seed gives the same
    tokens. Raises `WorkbenchError` that names the option and what it may be; numbers of numpy are taken, truth values
    and texts are not.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        def take(name: str, convert, allowed: str, ok) -> None:
            given = getattr(self, name)
            value = convert(given)
            if value is None or not ok(value):
                raise WorkbenchError(f"sampling: {name} = {shown(given)}; allowed: {allowed}")
            object.__setattr__(self, name, value)

        take("temperature", as_real, "a finite number >= 0 (0 is greedy)", lambda v: v >= 0)
        take("top_k", as_integer, "an integer >= 0 (0 is off)", lambda v: v >= 0)
        take("top_p", as_real, "a number from 0 to 1 (1 is off)", lambda v: 0 <= v <= 1)
        take("min_p", as_real, "a number from 0 to 1 (0 is off)", lambda v: 0 <= v <= 1)
        take("seed", as_integer, "an integer from 0 to 2^64 - 1", lambda v: 0 <= v < SEEDS)
        allowed = "a number > 0 that f32 can multiply and divide by (1 is off)"
        take("repetition_penalty", as_real, allowed, lambda v: 2.0**-126 <= v <= 2.0**126)

    @property
    def greedy(self) -> bool:
        """Whether the best token is taken, whatever the seed."""
        return drawing.is_greedy(self.temperature)

    @property
    def plain(self) -> bool:
        """Whether the token is the argmax of the logits as they are."""
        return self.greedy and self.repetition_penalty == 1

    def words(self) -> torch.Tensor:
        """What the kernels read."""
        return drawing.make_options(
            self.temperature, self.top_k, self.top_p, self.min_p, self.repetition_penalty, self.seed
        )


def as_real(value) -> float | None:
    """A finite Python float; None for what is none, truth values and texts among it."""
    if isinstance(value, (bool, np.bool_, str, bytes)):
        return None
    try:
        converted = float(value) if np.ndim(value) == 0 else math.nan
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return None
    return converted if math.isfinite(converted) else None


def as_integer(value) -> int | None:
    """A Python int; None for what is none, truth values and floats among it."""
    if isinstance(value, (bool, np.bool_)):
        return None
    try:
        return operator.index(value) if np.ndim(value) == 0 else None
    except (TypeError, ValueError, RuntimeError):
        return None


def shown(value) -> str:
    """A value as messages show it: short, whatever it is."""
    if isinstance(value, int) and abs(value) >= 10**20:
        return f"an integer of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def filter_logits(logits: np.ndarray, options: SamplingOptions, seen: Iterable[int] = ()) -> np.ndarray:
    """Logits [vocab] over the temperature (f32), -inf where a filter removed a token; at least one stays.

    seen: ids that the repetition penalty is for. Without a temperature only the best tokens stay.
    """
    row = _row(logits)
    words, mask = drawing.Options(options.words()), _mask(len(row), seen)
    stays = drawing.stay(row, mask, words).numpy()
    scores = drawing.scores(drawing.keys(row, mask, words)).numpy()
    with np.errstate(over="ignore"):
        scaled = scores / np.float32(1.0 if options.greedy else options.temperature)
    return np.where(stays, scaled, np.float32(-np.inf))


def softmax(scores: np.ndarray) -> np.ndarray:
    """Probabilities [vocab] in float64; -inf gives exactly 0."""
    shifted = np.exp(scores.astype(np.float64) - float(scores.max()))
    return shifted / shifted.sum()


def _row(logits) -> torch.Tensor:
    logits = np.asarray(logits)
    if logits.ndim != 1 or logits.size == 0:
        raise WorkbenchError(f"sampling: logits have shape {logits.shape}; allowed: [vocab]")
    best = int(np.argmax(logits))  # numpy's argmax gives a NaN's place, so this one check finds all
    if not np.isfinite(logits[best]):
        raise WorkbenchError(
            f"sampling: the logit of token {best} is {logits[best]}; the logits are not usable"
        )
    return torch.from_numpy(np.ascontiguousarray(logits, dtype=np.float32))


def _mask(width: int, seen: Iterable[int]) -> torch.Tensor:
    return torch.from_numpy(make_seen(width, list(seen)).view(np.int32))


class Sampler:
    """Draws tokens from logits in host memory: the same that a device draws from the same logits."""

    def __init__(self, options: SamplingOptions):
        self.options = options
        self._words = drawing.Options(options.words())
        self._calls = 0

    def __call__(self, logits: np.ndarray, position: int | None = None, seen: Iterable[int] = ()) -> int:
        """The next token for logits [vocab]; of equal best logits, greedy takes the lowest id.

        position: how many tokens stand before it, by default the number of calls so far. seen: those tokens, which the
        repetition penalty is for. Raises `WorkbenchError` for logits of which the largest is not finite.
        """
        position, self._calls = self._calls if position is None else position, self._calls + 1
        row = _row(logits)
        if self.options.plain:
            return int(row.argmax())
        mass = drawing.survivors(row, _mask(len(row), seen), self._words)
        word = 0 if self._words.greedy else drawing.random_word(self._words.seed, position)
        return drawing.choose(mass, word)

    def drawn(
        self,
        logits: np.ndarray,
        position: int,
        seen: Iterable[int] = (),
        *,
        told: bool = False,
        likely: int = LIKELY,
    ) -> Drawn:
        """`__call__`, with how likely the token and the `likely` likeliest ones were if it is to be told."""
        token = self(logits, position, seen)
        if not told:
            return Drawn(token)
        logits = np.asarray(logits, dtype=np.float64)
        log_p = logits - logits.max()
        log_p -= np.log(np.exp(log_p).sum())
        count = min(likely, log_p.size)
        if not count:
            return Drawn(token, float(log_p[token]))
        best = np.flatnonzero(log_p >= np.partition(log_p, -count)[-count])  # with all that tie
        best = best[np.argsort(-log_p[best], kind="stable")][:count]
        return Drawn(token, float(log_p[token]), tuple((int(i), float(log_p[i])) for i in best))
