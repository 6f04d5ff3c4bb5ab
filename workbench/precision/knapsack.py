"""The multiple-choice knapsack, solved exactly for every budget at once.

Each group takes exactly one of its options (bytes, cost); bytes and costs add up. A partial solution that another
one beats or equals in both can be dropped, since whatever completes it completes the other as well (dominance:
Nemhauser and Ullmann 1969; for multiple choice Dudzinski and Walukiewicz 1987). What is left after the last group
is the whole Pareto front: for any budget of bytes its last point that fits is the optimum, and for any bound on the
cost its first point that keeps it.

The number of points is at most the number of different sums of bytes. Layers of equal shape share their sums, so
real models stay far below the number of combinations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, eq=False)
class Front:
    """Optimal totals: nbytes int64 [points] strictly rising, cost f64 [points] strictly falling."""

    nbytes: np.ndarray
    cost: np.ndarray
    _steps: list[tuple[np.ndarray, np.ndarray]] = field(repr=False)  # a group: (parent, option) a point
    _order: list[int] = field(repr=False)  # the group of each step

    def __len__(self) -> int:
        return len(self.nbytes)

    def choices(self, point: int) -> list[int]:
        """The option that each group takes at a point of the front."""
        chosen = [0] * len(self._steps)
        for group, (parents, options) in zip(reversed(self._order), reversed(self._steps), strict=True):
            chosen[group] = int(options[point])
            point = int(parents[point])
        return chosen

    def within_bytes(self, budget: int) -> int | None:
        """The point of least cost with at most `budget` bytes; None if nothing is so small."""
        fitting = int(np.searchsorted(self.nbytes, budget, side="right"))
        return fitting - 1 if fitting else None

    def within_cost(self, bound: float) -> int | None:
        """The point of fewest bytes with at most `bound` cost; None if nothing is so good."""
        first = int(np.searchsorted(-self.cost, -bound, side="left"))
        return first if first < len(self) else None


def pareto_front(nbytes: Sequence[Sequence[int]], cost: Sequence[Sequence[float]]) -> Front:
    """The front of one option a group: nbytes[g][o] integers >= 0, cost[g][o] finite.

    Of equal solutions always the same one is kept. Raises ValueError for empty groups, lengths that differ and costs
    that are not finite.
    """
    groups = [
        (np.asarray(sizes, np.int64), np.asarray(costs, np.float64))
        for sizes, costs in zip(nbytes, cost, strict=True)
    ]
    for index, (sizes, costs) in enumerate(groups):
        if sizes.ndim != 1 or not len(sizes) or sizes.shape != costs.shape or not np.isfinite(costs).all():
            raise ValueError(f"group {index}: needs options with bytes and a finite cost each")
    total, loss = np.zeros(1, np.int64), np.zeros(1)
    steps = []
    # Groups of one shape one after another share their sums for longer, so there are fewer of them on the way.
    order = sorted(range(len(groups)), key=lambda group: groups[group][0].max())
    for sizes, costs in (groups[group] for group in order):
        sums = (sizes[:, None] + total).ravel()
        losses = (costs[:, None] + loss).ravel()
        # A run of rising sums an option: the stable sort merges runs, which takes a quarter of the time of sorting.
        rising = np.argsort(sums, kind="stable")
        ordered = losses[rising]
        better = np.ones(len(rising), bool)
        better[1:] = ordered[1:] < np.minimum.accumulate(ordered)[:-1]
        kept = rising[better]
        # Of those that are left with equal sums the last one costs least.
        kept = kept[np.append(np.diff(sums[kept]) > 0, True)]
        steps.append(((kept % len(total)).astype(np.int32), (kept // len(total)).astype(np.int16)))
        total, loss = sums[kept], losses[kept]
    return Front(total, loss, steps, order)
