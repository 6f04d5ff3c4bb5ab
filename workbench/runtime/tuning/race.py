"""Timing candidates against a default fairly: interleaved rounds, then a final that alone decides.

Heats run in rounds of shuffled order, so that a drifting clock or other load meets all alike; what is clearly slower
leaves. The fastest of many is partly the luckiest, so it meets the default again in fresh rounds, side by side, and
is taken only if it wins these by more than they spread.
"""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from ..device import Device
from ..native import Recorder
from ..timing import CPU_PASS, CPU_WARM, GPU_PASS, GPU_WARM, MOST_DISPATCHES, TIMESTAMPS, WALL, Stopwatch
from .store import Entry

ROUNDS, FEWEST = 7, 3
#: After the first round and after the third, what needs so many times the fastest's time leaves.
CLEARLY, LATER = 2.0, 1.2
#: How long a sequence runs before each of its passes while the device is busy anyway.
GPU_LEAD = 0.02
#: The clock counts as steady when three passes in a row differ by less, or after so many seconds of trying.
STEADY, PATIENCE = 0.02, 1.0
#: Less than this is not called a win, however small the spread: timers have a resolution.
LEAST = 0.005


class OutOfTimeError(Exception):
    """The deadline has passed; what was begun has no result."""


@dataclass(frozen=True)
class RaceOptions:
    """How races are run. rounds: of the heats and of the final, each. seed: of inputs and of the order in a round.

    timestamps: False forces the wall clock around each pass; otherwise the device's own clock is used if it has one.
    deadline: of `time.perf_counter`, after which nothing is begun, and what is not done has no result.
    """

    rounds: int = ROUNDS
    seed: int = 0
    timestamps: bool | None = None
    deadline: float | None = None

    def check_time(self) -> None:
        """Raises OutOfTimeError if the deadline has passed."""
        if self.deadline is not None and time.perf_counter() >= self.deadline:
            raise OutOfTimeError


USUAL = RaceOptions()


@dataclass(frozen=True)
class Race:
    """winner, default, rival: places in the list; the rival is the fastest of the others, the default itself where all
    have left. default_samples, samples: seconds of one turn of the default and of the rival in the deciding rounds,
    in pairs; of the heats where there is no rival. heats: samples by candidate. faster, spread: see `gain`.
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
    turns: int | None = None,
    default: int = 0,
    options: RaceOptions = USUAL,
) -> Race:
    """Time sequences of dispatches that all do the same. turns: how often each of them does it, by default at every
    dispatch; samples are the seconds of a turn. Raises `DeviceLostError`, and ValueError for less than
    `FEWEST` rounds, which have no spread; OutOfTimeError.
    """
    if options.rounds < FEWEST:
        raise ValueError(f"a race has at least {FEWEST} rounds, not {options.rounds}")
    shuffle = random.Random(options.seed).shuffle
    with device.errors(), Stopwatch(device, timestamps=options.timestamps) as watch:
        entrants = [Repeated(watch, recorder, turns or len(recorder)) for recorder in recorders]
        heats: list[list[float]] = [[] for _ in entrants]
        running = list(range(len(entrants)))

        def round_of(places: Iterable[int], samples) -> None:
            if not device.adapter.is_cpu:
                settle(entrants[default])
            order = list(places)
            shuffle(order)
            for at in order:
                options.check_time()
                samples[at].append(entrants[at].sample())

        for turn in range(options.rounds):
            round_of(running, heats)
            if turn in (0, 2):
                running = _remaining(running, heats, default, CLEARLY if turn == 0 else LATER)
        rivals = [at for at in running if at != default]
        rival = min(rivals, key=lambda at: statistics.median(heats[at]), default=default)
        finals = {default: heats[default]}  # where all others have left
        if rival != default:
            finals = {default: [], rival: []}
            for _ in range(options.rounds):
                round_of(finals, finals)
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


def entry_of(
    found: Race,
    case: str,
    wgsl: str,
    default: tuple[str, Mapping[str, int]],
    winner: tuple[str, Mapping[str, int]],
    *,
    failed: Sequence[str] = (),
    seed: int,
) -> Entry:
    """What is remembered of a race. case, wgsl: see `Entry`; default, winner: variants with their tunables."""
    stays = found.winner == found.default
    return Entry(
        case=case,
        wgsl=wgsl,
        variant=winner[0],
        tunables=dict(winner[1]),
        default_variant=default[0],
        default_tunables=dict(default[1]),
        seconds=statistics.median(found.default_samples if stays else found.samples),
        default_seconds=statistics.median(found.default_samples),
        faster=0.0 if stays else found.faster,
        spread=None if found.rival == found.default else found.spread,
        rounds=len(found.samples),
        clock=found.clock,
        measured=len(found.heats),
        failed=tuple(failed),
        seed=seed,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def gain(default: Sequence[float], rival: Sequence[float]) -> tuple[float, float]:
    """How much faster the rival is, and how far that spreads, both as default / rival - 1.

    Median and interquartile range over rounds of log(default / rival): what both share in a round cancels, and a
    large ratio that wanders by half is still a large ratio.
    """
    ratios = [math.log(a / b) for a, b in zip(default, rival, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return math.expm1(middle), math.expm1(high - low)


def wins(faster: float, spread: float) -> bool:
    """Whether a rival takes the default's place."""
    return faster > max(spread, LEAST)


def _remaining(running: list[int], heats: list[list[float]], default: int, factor: float) -> list[int]:
    """By each one's best sample: other load only ever adds time."""
    best = min(min(heats[at]) for at in running)
    return [at for at in running if at == default or min(heats[at]) <= factor * best]


class Repeated:
    """A sequence of so many turns, repeated in a pass until that is long enough for the clock. span: seconds of it
    once; warm: seconds that it runs before each of its passes, while the device is busy anyway."""

    def __init__(self, watch: Stopwatch, recorder: Recorder, turns: int):
        is_cpu = watch.device.adapter.is_cpu
        self.warm, wanted = (CPU_WARM, CPU_PASS) if is_cpu else (GPU_LEAD, GPU_PASS)
        self._watch, self._recorder, self._turns = watch, recorder, turns
        watch.busy(recorder, 1, self.warm)
        self.span = watch.seconds(recorder, 1)
        if self.span <= 0 and watch.clock == TIMESTAMPS:  # some drivers have queries that never tick
            watch.clock = WALL
            self.span = watch.seconds(recorder, 1)
        most = max(1, MOST_DISPATCHES // len(recorder))
        self._repeats = min(most, max(1, round(wanted / max(self.span, 1e-9))))

    def busy(self, seconds: float) -> None:
        self._watch.busy(self._recorder, self._repeats, seconds)

    def sample(self) -> float:
        """Seconds of one turn, in a pass right behind a warm one."""
        if self.span < self.warm:  # else the run in front of the timed one warms enough
            self.busy(self.warm)
        return self._watch.seconds(self._recorder, self._repeats) / (self._repeats * self._turns)


def settle(each: Repeated) -> None:
    """Keep a GPU busy until its clock is steady: an idle one runs at a fraction of its frequency."""
    until = time.perf_counter() + PATIENCE
    each.busy(GPU_WARM)
    last = [each.sample() for _ in range(3)]
    while max(last) > (1 + STEADY) * min(last) and time.perf_counter() < until:
        last = [*last[1:], each.sample()]
