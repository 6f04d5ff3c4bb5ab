"""What the caches of both executors have in common: how many positions there are, and how many are taken."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from workbench.errors import CacheFullError, WorkbenchError
from workbench.plan.plan import RING_ROWS, Ring

from .step import Step

#: More than any device holds a position of; what fewer take of memory is counted where it is allocated.
MOST_SEQUENCES = 2**26


class Cache:
    """Keys and values of some sequences. capacity: positions of each; position: where the next token of the first one
    goes, the only one that most caches have.

    rings: those of its layers. They have slots for what a token sees and for the rows of a step; what has gone round is
    lost, so `furthest` is kept: how far each sequence has been written. adapters: which of those that are loaded each
    sequence has, from 1 on, and 0 for none; adapter: which they begin with. Raises `WorkbenchError` for a number of
    sequences that no device runs.
    """

    def __init__(self, capacity: int, sequences: int = 1, rings: Sequence[Ring] = (), adapter: int = 0):
        if not 1 <= sequences <= MOST_SEQUENCES:
            raise WorkbenchError(f"a cache of {sequences} sequences; allowed: 1 to {MOST_SEQUENCES}")
        self.capacity, self.sequences, self.position = capacity, sequences, 0
        self.adapters = np.full(sequences, adapter, np.uint32)
        self.rings = tuple(ring for ring in rings if ring.slots(capacity) < capacity)
        self.furthest = np.zeros(sequences, np.int64)
        self.freed = False

    @property
    def longest(self) -> int:
        """Rows of one sequence in a step at most."""
        return RING_ROWS if self.rings else self.capacity

    def holds(self, position: int, sequence: int = 0) -> bool:
        """Whether a sequence can go on at a position: whether all that is seen from there is still in the rings."""
        furthest = int(self.furthest[sequence])
        if self.rings and position > furthest:
            return False
        return all(
            first + ring.slots(self.capacity) - ring.sinks >= furthest
            for ring, first in self._seen_behind_sinks(position)
        )

    def _seen_behind_sinks(self, position: int) -> Iterator[tuple[Ring, int]]:
        """Rings of which a token at a position sees what was written behind the sinks, and where that begins."""
        for ring in self.rings:
            first = max(ring.sinks, position - ring.window + 1)
            if first < position:
                yield ring, first

    def require(self, count: int) -> None:
        """Room for `count` more tokens of the first sequence; raises `CacheFullError`, and `WorkbenchError` for a cache
        that was given back, or that no longer has what they see."""
        self._require_places(self.position, self.position + count - 1)
        self._require_held(self.position, 0)

    def take(self, step: Step, steps: int = 1) -> None:
        """Room for the rows of a step, which are about to be written, and for those of more steps of as many behind
        them; raises as `require` does."""
        self._require_places(int(step.positions.min()), int(step.positions.max()) + steps - 1)
        if not self.rings:
            return
        for sequence in np.unique(step.sequences).tolist():
            positions = step.positions[step.sequences == sequence]
            if len(positions) > self.longest:
                raise WorkbenchError(
                    f"a step adds {len(positions)} rows to sequence {sequence}; allowed: {self.longest}, since its "
                    "window bounds its cache"
                )
            self._require_held(int(positions[0]), sequence)
            self.reach(int(positions[0]), len(positions) + steps - 1, sequence)

    def reach(self, position: int, count: int, sequence: int = 0) -> None:
        """Note that `count` positions of a sequence are written from one on. Where that sees nothing but sinks, it is
        another text: what the rings hold behind them is seen no more."""
        another = not any(self._seen_behind_sinks(position))
        before = 0 if another else int(self.furthest[sequence])
        self.furthest[sequence] = max(before, position + count)

    def _require_places(self, first: int, last: int) -> None:
        if self.freed:
            raise WorkbenchError("this cache was given back; make a new one")
        if first < 0 or last >= self.capacity:
            raise CacheFullError(
                f"{last - first + 1} tokens from position {first} do not fit into a cache of {self.capacity}"
            )

    def _require_held(self, position: int, sequence: int) -> None:
        if not self.holds(position, sequence):
            raise WorkbenchError(
                f"sequence {sequence} has come to position {self.furthest[sequence]}, and its window bounds its cache: "
                f"what position {position} sees is no longer there; feed its text again from the beginning"
            )
