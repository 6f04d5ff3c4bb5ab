"""Timing several candidates in turns: interleaved rounds, each candidate warm before its sample.

Rounds are interleaved, so that a clock that drifts or other load meets all candidates alike. An idle GPU runs at a
fraction of its frequency, so the candidate that is about to be timed first keeps it busy; before the first round the
first candidate does so until the frequency has settled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from .frequency import Frequency

#: What is slow gets fewer rounds: about so many seconds of samples, but three rounds at least.
ENOUGH, FEWEST = 1.0, 3
#: The frequency has settled when so many readings in a row lie within so much of each other; how long to try.
STEADY_READINGS, STEADY_WITHIN, STEADY_SECONDS = 3, 0.01, 3.0


class Candidate(Protocol):
    """What can be timed. span: about the seconds that a sample takes. warm: seconds to be busy before a sample."""

    span: float
    warm: float

    def busy(self, seconds: float) -> None:
        """Do the same work for at least so many seconds, once at least."""

    def sample(self) -> float:
        """Seconds of one call."""
        ...


def interleave(
    candidates: Sequence[Candidate], rounds: int, frequency: Frequency | None = None
) -> list[list[tuple[float, float | None]]]:
    """Samples of each candidate: seconds of one call, and the GPU's megahertz right after, None where untold."""
    taken = [min(rounds, max(FEWEST, int(ENOUGH / max(each.span, 1e-9)))) for each in candidates]
    samples: list[list[tuple[float, float | None]]] = [[] for _ in candidates]
    if candidates and frequency is not None:
        settle(candidates[0], frequency)
    for at in range(rounds):
        for each, found, count in zip(candidates, samples, taken, strict=True):
            if at >= count:
                continue
            if each.span < each.warm:  # else the run in front of the timed one warms enough
                each.busy(each.warm)
            found.append((each.sample(), frequency() if frequency is not None else None))
    return samples


def settle(candidate: Candidate, frequency: Frequency) -> bool:
    """Keep a candidate busy until the frequency has settled, `STEADY_SECONDS` at most; whether it has."""
    readings: list[float] = []
    step = max(candidate.warm, 0.05)
    for _ in range(round(STEADY_SECONDS / step)):
        candidate.busy(step)
        now = frequency()
        if now is None:
            return False
        readings = [*readings, now][-STEADY_READINGS:]
        if len(readings) == STEADY_READINGS and max(readings) <= min(readings) * (1 + STEADY_WITHIN):
            return True
    return False
