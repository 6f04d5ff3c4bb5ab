"""What the caches of both executors have in common: how many positions there are, and how many are taken."""

from __future__ import annotations

import numpy as np

from workbench.errors import CacheFullError, WorkbenchError


class Cache:
    """Keys and values of some sequences. capacity: positions of each; position: where the next token of the first one
    goes, the only one that most caches have."""

    def __init__(self, capacity: int, sequences: int = 1):
        self.capacity, self.sequences, self.position = capacity, sequences, 0
        self.freed = False

    def require(self, count: int) -> None:
        """Room for `count` more tokens of the first sequence; raises `CacheFullError`, and `WorkbenchError` for a cache
        that was given back."""
        self.require_places(np.array([self.position, self.position + count - 1]))

    def require_places(self, positions: np.ndarray) -> None:
        """That the cache has these positions; raises as `require` does."""
        if self.freed:
            raise WorkbenchError("this cache was given back; make a new one")
        first, last = int(positions.min()), int(positions.max())
        if first < 0 or last >= self.capacity:
            raise CacheFullError(
                f"{last - first + 1} tokens from position {first} do not fit into a cache of {self.capacity}"
            )
