"""What the caches of both executors have in common: how many positions there are, and how many are taken."""

from __future__ import annotations

from workbench.errors import CacheFullError, WorkbenchError


class Cache:
    """Keys and values of one sequence. capacity: positions there are; position: where the next token goes."""

    def __init__(self, capacity: int):
        self.capacity, self.position = capacity, 0
        self.freed = False

    def require(self, count: int) -> None:
        """Room for `count` more tokens; raises `CacheFullError`, `WorkbenchError` for a cache that was given back."""
        if self.freed:
            raise WorkbenchError("this cache was given back; make a new one")
        if not 0 <= self.position <= self.capacity - count:
            raise CacheFullError(
                f"{count} tokens from position {self.position} do not fit into a cache of {self.capacity}"
            )
