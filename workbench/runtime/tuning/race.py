"""Timing candidates against a default fairly: interleaved rounds, then a final that alone decides.

Heats run in rounds of shuffled order, so that a drifting clock or other load meets all alike; what is clearly slower
leaves. The fastest of many is partly the luckiest, so it meets the default again in fresh rounds, side by side, and
is taken only if it wins these by more than they spread.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..device import Device
from ..native import Recorder
from ..timing import CPU_PASS, CPU_WARM, GPU_PASS, GPU_WARM, MOST_DISPATCHES, TIMESTAMPS, WALL, Stopwatch

ROUNDS, FEWEST = 7, 3
#: Before the first round (by one short pass), after it and after the third, what needs so many times the fastest's
#: time leaves.
HOPELESS, CLEARLY, LATER = 8.0, 2.0, 1.2
#: How long a sequence runs before each of its passes while the device is busy anyway.
GPU_LEAD = 0.02
#: The clock counts as steady when three passes in a row differ by less, or after so many seconds of trying.
STEADY, PATIENCE = 0.02, 1.0
#: Less than this is not called a win, however small the spread: timers have a resolution.
LEAST = 0.005


@dataclass(frozen=True)
class Race:
    """winner, default, rival: places in the list; the rival is the fastest of the others, the default itself where all
    have left. default_samples, samples: seconds of one dispatch of the default and of the rival in the deciding rounds,
    in pairs; of the heats where there is no rival. heats: samples by candidate. faster, spread: of default / rival - 1.
    """

    winner: int
    default: int
    rival: int
    default_samples: tuple[float, ...]
    samples: tuple[float, ...]
    heats: tuple[tuple[float, ...], ...]
    faster: float
    spread: float
    clock: str


def race(
    device: Device,
    recorders: Sequence[Recorder],
    *,
    default: int = 0,
    rounds: int = ROUNDS,
    seed: int = 0,
    timestamps: bool | None = None,
) -> Race:
    """Time sequences of dispatches that all do the same. Raises `DeviceLostError`, and ValueError for less than
    `FEWEST` rounds, which have no spread.

    timestamps: False forces the wall clock around each pass; otherwise the device's own clock is used if it has one.
    """
    if rounds < FEWEST:
        raise ValueError(f"a race has at least {FEWEST} rounds, not {rounds}")
    shuffle = random.Random(seed).shuffle
    with device.errors(), Stopwatch(device, timestamps=timestamps) as watch:
        track = _Track(device, watch, recorders)
        heats: list[list[float]] = [[] for _ in recorders]
        running = _remaining(range(len(recorders)), track.alone, default, HOPELESS)
        for turn in range(rounds if len(recorders) > 1 else 0):
            track.settle(default)
            for at in _shuffled(running, shuffle):
                heats[at].append(track.seconds(at))
            if turn in (0, 2):
                running = _remaining(running, heats, default, CLEARLY if turn == 0 else LATER)
        rivals = [at for at in running if at != default]
        rival = min(rivals, key=lambda at: statistics.median(heats[at]), default=default)
        finals: dict[int, list[float]] = {default: heats[default]}
        if rival != default or not heats[default]:
            finals = {at: [] for at in (default, rival)}
            for _ in range(rounds):
                track.settle(default)
                for at in _shuffled(finals, shuffle):
                    finals[at].append(track.seconds(at))
        clock = watch.clock
    faster, spread = gain(finals[default], finals[rival])
    return Race(
        winner=rival if rival != default and wins(faster, spread) else default,
        default=default,
        rival=rival,
        default_samples=tuple(finals[default]),
        samples=tuple(finals[rival]),
        heats=tuple(map(tuple, heats)),
        faster=faster,
        spread=spread,
        clock=clock,
    )


def gain(default: Sequence[float], rival: Sequence[float]) -> tuple[float, float]:
    """Median and interquartile range of default / rival - 1, round by round: what both share cancels."""
    ratios = [a / b - 1 for a, b in zip(default, rival, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return middle, high - low


def wins(faster: float, spread: float) -> bool:
    """Whether a rival takes the default's place."""
    return faster > max(spread, LEAST)


def _shuffled(items: Iterable[int], shuffle) -> list[int]:
    order = list(items)
    shuffle(order)
    return order


def _remaining(
    running: Iterable[int], heats: Sequence[Sequence[float]], default: int, factor: float
) -> list[int]:
    """By each one's best sample: other load only ever adds time."""
    running = list(running)
    best = min(min(heats[at]) for at in running)
    return [at for at in running if at == default or min(heats[at]) <= factor * best]


class _Track:
    """Recorders with the number of repeats that makes a pass long enough for the clock."""

    def __init__(self, device: Device, watch: Stopwatch, recorders: Sequence[Recorder]):
        self._watch, self._recorders = watch, recorders
        self._cpu = device.adapter.is_cpu
        self._lead = CPU_WARM if self._cpu else GPU_LEAD
        self._repeats = [1] * len(recorders)
        self.alone: list[tuple[float]] = []  # seconds of one dispatch, by a single short pass
        watch.busy(recorders[0], 1, CPU_WARM if self._cpu else GPU_WARM)
        for at, recorder in enumerate(recorders):
            watch.busy(recorder, 1, 0)
            once = watch.seconds(recorder, 1)
            if once <= 0 and watch.clock == TIMESTAMPS:  # some drivers have queries that never tick
                watch.clock = WALL
                once = watch.seconds(recorder, 1)
            wanted = (CPU_PASS if self._cpu else GPU_PASS) / max(once, 1e-9)
            most = max(1, MOST_DISPATCHES // len(recorder))
            self._repeats[at] = min(most, max(1, round(wanted)))
            self.alone.append((once / len(recorder),))

    def settle(self, at: int) -> None:
        """Keep the device busy until its clock is steady: an idle GPU runs at a fraction of its frequency."""
        if self._cpu:
            return
        self._watch.busy(self._recorders[at], self._repeats[at], GPU_WARM)
        until = time.perf_counter() + PATIENCE
        last = [self.seconds(at) for _ in range(3)]
        while max(last) > (1 + STEADY) * min(last) and time.perf_counter() < until:
            last = [*last[1:], self.seconds(at)]

    def seconds(self, at: int) -> float:
        """Of one dispatch, in a pass right behind a warm one."""
        recorder, repeats = self._recorders[at], self._repeats[at]
        self._watch.busy(recorder, repeats, self._lead)
        return self._watch.seconds(recorder, repeats) / (repeats * len(recorder))
