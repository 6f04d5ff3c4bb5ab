"""A model of which a device runs the first layers and the references the others: for one that no device can hold whole.

What the last layer on the device hands on is read back once a step; the references go on from there. Each half has keys
and values of its own layers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from workbench.errors import WorkbenchError
from workbench.plan.parts import outputs, part
from workbench.plan.plan import Plan, Ring

from .cache import Cache
from .edits import Edits, check_edits
from .executor import Sequential
from .plans import Plans
from .sampling import Drawn
from .step import Step
from .torch_executor import TorchExecutor


class _Front(Plans):
    """The first layers of a model's plans, with what they hand on as the result. Of heads it needs the inputs alone."""

    def __init__(self, plans: Plans, layers: int) -> None:
        self._plans = plans
        plan = plans("all")
        self.handed = outputs(plan)[layers - 1]
        self.first = replace(part(plan, 0, layers, kind="activation"), results=(self.handed,))

    def __call__(self, head: str) -> Plan:
        return self.first if head in ("all", "first") else self._plans(head)


class _Rest(Plans):
    """The other layers, and what is behind them."""

    def __init__(self, plans: Plans, layers: int) -> None:
        self._plans, self._layers, self._cut = plans, layers, {}

    def __call__(self, head: str) -> Plan:
        if head not in self._cut:
            self._cut[head] = part(self._plans(head), self._layers, kind="input")
        return self._cut[head]


class _RestExecutor(TorchExecutor):
    """ask: gives what the layers on the device hand on in a step, by name."""

    ask: Callable[[Step], dict[str, np.ndarray]]

    def inputs(self, step: Step, adapters: np.ndarray) -> dict[str, torch.Tensor]:
        handed = {name: torch.from_numpy(x.astype(np.float32)) for name, x in self.ask(step).items()}
        return super().inputs(step, adapters) | {name: x.to(self.compute) for name, x in handed.items()}


class SplitCache(Cache):
    """Caches of both halves, which hold the same positions."""

    def __init__(self, front: Any, rest: Any) -> None:
        super().__init__(front.capacity, front.sequences)
        self.halves = self.front, self.rest = front, rest
        self.adapters = rest.adapters = front.adapters

    @property
    def longest(self) -> int:
        return min(each.longest for each in self.halves)

    def holds(self, position: int, sequence: int = 0) -> bool:
        return all(each.holds(position, sequence) for each in self.halves)


class SplitExecutor(Sequential):
    """device: a model's executor on a device (`WgpuExecutor`), of which `layers` layers are used.

    Raises `WorkbenchError` for a number that leaves nothing to either half, and `PlanError` for a model whose layers
    hand on more than one activation.
    """

    backend = "split"

    def __init__(self, device: Any, layers: int) -> None:
        self.source, self.config, self.plan = device.source, device.config, device.plan
        self.activations, self.cache, self.chunks = device.activations, device.cache, device.chunks
        self.device, self.layers, self._whole = device.device, layers, device
        require_layers(layers, self.config.layers)
        plans = _Front(self.plan, layers)
        self._front, self._handed = device.with_plans(plans), plans.handed
        self._rest = _RestExecutor(self.source, self.config, activations=self.activations, cache=self.cache)
        self._rest.plan = _Rest(self.plan, layers)

    @property
    def device_name(self) -> str:
        behind = self.config.layers - self.layers
        return f"{self._front.device_name} ({self.layers} layers), {self._rest.device_name} ({behind})"

    def with_ring(self, ring: Ring | None) -> SplitExecutor:
        """See `Executor.with_ring`."""
        return SplitExecutor(self._whole.with_ring(ring), self.layers)

    def new_cache(self, capacity: int, sequences: int = 1) -> SplitCache:
        """See `Executor.new_cache`."""
        return SplitCache(
            self._front.new_cache(capacity, sequences), self._rest.new_cache(capacity, sequences)
        )

    def free_cache(self, cache: SplitCache) -> None:
        """See `Executor.free_cache`."""
        cache.freed = True
        self._front.free_cache(cache.front)
        self._rest.free_cache(cache.rest)

    def copy_sequence(self, cache: SplitCache, source: int, target: int, count: int) -> None:
        """See `Executor.copy_sequence`."""
        for executor, half in ((self._front, cache.front), (self._rest, cache.rest)):
            executor.copy_sequence(half, source, target, count)
            half.furthest[target] = half.furthest[source]

    def chunk(self, remaining: int, cache: SplitCache | None = None) -> int:
        """See `Executor.chunk`."""
        front, rest = (None, None) if cache is None else cache.halves
        return min(self._front.chunk(remaining, front), self._rest.chunk(remaining, rest))

    def run_step(
        self,
        head: str,
        step: Step,
        cache: SplitCache,
        targets: np.ndarray | None = None,
        keep: Iterable[str] = (),
        edit: Edits | None = None,
        hold: Iterable[str] = (),
    ) -> dict[str, Any]:
        """See `Executor.run_step`; rows that are held are those of the references."""
        cache.take(step)
        keep, edits = self.plan(head).check_names(keep), check_edits(self.plan(head), edit)
        here = {name for name in (*keep, *edits) if name in self._front.plan("first").arrays}
        kept: dict[str, np.ndarray] = {}

        def ask(step: Step) -> dict[str, np.ndarray]:
            names = [name for name in keep if name in here]
            own = {name: each for name, each in edits.items() if name in here}
            kept.update(self._front.run_step("first", step, cache.front, keep=names, edit=own))
            return {self._handed: kept[self._handed]}

        behind = [name for name in keep if name not in here]
        own = {name: each for name, each in edits.items() if name not in here}
        found = self._asking(ask).run_step(head, step, cache.rest, targets, behind, own, hold)
        return found | {name: kept[name] for name in keep if name in here}

    def greedy_rows(self, step: Step, count: int, cache: SplitCache) -> np.ndarray:
        """See `Executor.greedy_rows`."""
        return self._asking(self._plain(cache)).greedy_rows(step, count, cache.rest)

    def stream(
        self,
        head: str,
        first: int,
        count: int,
        cache: SplitCache,
        options: Any = None,
        seen: np.ndarray | None = None,
        *,
        ahead: bool = True,
    ) -> Iterator[list[Drawn]]:
        """See `Executor.stream`; a token at a time, and nothing runs ahead."""
        cache.require(count)
        cache.rest.position = cache.position
        rest = self._asking(self._plain(cache))
        return rest.stream(head, first, count, cache.rest, options, seen, ahead=ahead)

    def holding(self) -> AbstractContextManager:
        """See `Executor.holding`."""
        return self._rest.holding()

    def _asking(self, ask: Callable[[Step], dict[str, np.ndarray]]) -> _RestExecutor:
        """The references with what was asked for of the device in this call."""
        made = copy.copy(self._rest)
        made.ask = ask
        return made

    def _plain(self, cache: SplitCache) -> Callable[[Step], dict[str, np.ndarray]]:
        return lambda step: self._front.run_step("first", step, cache.front)


def require_split(layers: int, of: int, backend: str, library: Any) -> None:
    """Raises `WorkbenchError` for what `device_layers` of `load` cannot be, or cannot be together with."""
    require_layers(layers, of)
    if backend != "wgpu":
        raise WorkbenchError(
            f"device_layers is {layers}, and backend {backend} runs no layer on a device; allowed: wgpu"
        )
    if library is not None:
        raise WorkbenchError("device_layers and a library of kernels do not go together; leave one out")


def require_layers(layers: int, of: int) -> None:
    """Raises `WorkbenchError` for a number of layers that leaves nothing to either half."""
    if isinstance(layers, bool) or not isinstance(layers, int) or not 0 < layers < of:
        raise WorkbenchError(
            f"device_layers is {layers!r}; allowed: 1 to {of - 1} of the {of} layers, None for all of them"
        )
