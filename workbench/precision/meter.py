"""How much of a measurement is done, in time: work of several kinds, each at the pace that it was seen to take."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager

#: Called as progress(done, total): done / total is a share of the time.
Progress = Callable[[float, float], None]


class Meter:
    """Tells how much is done: by a bar with the time left, or to a function.

    progress: True for a bar, or a function. total: what all of it is told as. ahead: work of each kind, in a unit of
    its own (operations, weights), such that equal amounts of a kind take equal times. What a kind takes is known once
    some of it was done; until then it is taken to be as fast as its family (kinds that are tuples with one beginning).
    """

    def __init__(
        self,
        progress: bool | Progress,
        total: float,
        ahead: Mapping[Hashable, float],
        clock: Callable[[], float] = time.perf_counter,
        text: str = "measuring groups",
    ) -> None:
        self._told = progress if callable(progress) else None
        self._shown, self._text, self._bar = progress is True, text, None
        self._total, self._clock = total, clock
        self._ahead = dict(ahead)
        self._done: defaultdict[Hashable, float] = defaultdict(float)
        self._seconds: defaultdict[Hashable, float] = defaultdict(float)
        self._share = 0.0

    def __enter__(self) -> Meter:
        if self._shown:
            from tqdm.auto import tqdm

            form = "{desc}: {percentage:3.0f}%|{bar}| {elapsed} gone, {remaining} left"
            # No smoothing: the share is one of the whole time already.
            self._bar = tqdm(total=1.0, desc=self._text, bar_format=form, smoothing=0)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._ahead.clear()  # what rounding left of it
            self.tell()
        if self._bar is not None:
            self._bar.close()

    @contextmanager
    def doing(self, kind: Hashable, amount: float) -> Iterator[None]:
        """The block does so much of a kind of work."""
        began = self._clock()
        yield
        self._seconds[kind] += self._clock() - began
        self._done[kind] += amount
        self._ahead[kind] = max(0.0, self._ahead.get(kind, 0.0) - amount)

    @property
    def left(self) -> float:
        """Seconds that the work ahead will take, at the pace of each kind so far."""
        return sum(amount * self._pace(kind) for kind, amount in self._ahead.items())

    def _pace(self, kind: Hashable) -> float:
        """Seconds a unit; of a kind that was not met yet, those of its family (the first of a tuple)."""
        if self._done.get(kind):
            return self._seconds[kind] / self._done[kind]
        family = [
            each
            for each in self._done
            if isinstance(each, tuple) and isinstance(kind, tuple) and each[0] == kind[0]
        ]
        done = sum(self._done[each] for each in family)
        return sum(self._seconds[each] for each in family) / done if done else 0.0

    def tell(self) -> None:
        """Say how far it is; what the function raises ends the measurement. A share never falls."""
        spent, left = sum(self._seconds.values()), self.left
        self._share = max(self._share, spent / (spent + left) if spent + left else 1.0)
        if self._told:
            self._told(self._share * self._total, self._total)
        if self._bar is not None:
            self._bar.update(self._share - self._bar.n)
