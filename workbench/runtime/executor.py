"""What runs the plans of a model: `WgpuExecutor` through the WGSL kernels, `TorchExecutor` through their references."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np

from workbench.models.architecture import Architecture
from workbench.models.source import Source
from workbench.plan.plan import Ring

from .edits import Edits
from .plans import Plans
from .sampling import Drawn
from .step import Step


class Sequential:
    """What an executor that runs steps does for one sequence."""

    def run(
        self: Executor,
        head: str,
        ids: np.ndarray,
        cache: Any,
        targets: np.ndarray | None = None,
        keep: Iterable[str] = (),
        edit: Edits | None = None,
        hold: Iterable[str] = (),
    ) -> dict[str, Any]:
        """See `Executor.run`."""
        step = Step.following(ids, cache.position)
        results = self.run_step(head, step, cache, targets, keep, edit, hold)
        cache.position += len(step)
        return results


class Executor(Protocol):
    """backend: "wgpu" or "torch". activations, cache: what they are stored as. chunks: rows that steps of one
    sequence are prepared for, the largest first.

    A cache is the executor's own (`workbench.runtime.cache.Cache`), and no other takes it.
    """

    backend: str
    source: Source
    config: Architecture
    plan: Plans
    activations: str
    cache: str
    chunks: tuple[int, ...]

    @property
    def device_name(self) -> str:
        """For people."""
        ...

    def with_ring(self, ring: Ring | None) -> Executor:
        """The same weights, held once, in plans that see what `ring` says; None for what the model sees by itself."""
        ...

    def new_cache(self, capacity: int, sequences: int = 1) -> Any:
        """Keys and values of sequences of at most `capacity` positions. Raises `OutOfMemoryError`."""

    def free_cache(self, cache: Any) -> None:
        """Give a cache's memory back; it cannot be used afterwards."""

    def copy_sequence(self, cache: Any, source: int, target: int, count: int) -> None:
        """Let a sequence of a cache hold the first `count` positions of another one, which has them. Raises
        `OutOfMemoryError`."""
        ...

    def chunk(self, remaining: int, cache: Any = None) -> int:
        """How many of the remaining tokens the next step takes, in a cache of one sequence unless one is given."""
        ...

    def run(
        self,
        head: str,
        ids: np.ndarray,
        cache: Any,
        targets: np.ndarray | None = None,
        keep: Iterable[str] = (),
        edit: Edits | None = None,
        hold: Iterable[str] = (),
    ) -> dict[str, Any]:
        """One step over `ids` at the cache's position, which moves on: the results of the plan with that head, and the
        activations in `keep`, as arrays; those in `hold` as rows (`workbench.runtime.rows`) until the next step.

        Raises `EditError` and `CacheFullError`, with the position as it was.
        """
        ...

    def run_step(
        self,
        head: str,
        step: Step,
        cache: Any,
        targets: np.ndarray | None = None,
        keep: Iterable[str] = (),
        edit: Edits | None = None,
        hold: Iterable[str] = (),
    ) -> dict[str, Any]:
        """As `run`, over rows of any sequences of the cache, wherever they stand; no position moves."""
        ...

    def greedy_rows(self, step: Step, count: int, cache: Any) -> np.ndarray:
        """Tokens [count, rows]: what follows each row, greedily, one behind the other. No position moves."""
        ...

    def stream(
        self,
        head: str,
        first: int,
        count: int,
        cache: Any,
        options: Any = None,
        seen: np.ndarray | None = None,
        *,
        ahead: bool = True,
    ) -> Iterator[list[Drawn]]:
        """The `count` tokens that follow token `first`, as many at a time as come back together
        (`workbench.runtime.streaming.stream`)."""
        ...

    def holding(self) -> AbstractContextManager:
        """While it is open, nobody else's step overwrites rows."""
        ...
