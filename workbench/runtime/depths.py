"""A model that can be stopped after some of its layers, a token a step: what it would say there, and its caches filled.

Its parts (`workbench.plan.parts`) run through the kernels or the references, whatever the model runs through; on a
device a token's rows stay there between parts, and only logits come to the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from workbench.errors import WorkbenchError
from workbench.plan.parts import ending, filling, joined, outputs, part
from workbench.plan.plan import Plan

from .plans import Plans
from .step import Step
from .torch_executor import TorchExecutor

if TYPE_CHECKING:
    from .model import Model


class _Parts(Plans):
    """The plans of a model and its parts between depths, by names that `Depths` asks for."""

    def __init__(self, plans: Plans, depths: Sequence[int]) -> None:
        self._plans = plans
        plan = plans("last")
        starts = (0, *depths)
        self._parts = {
            f"to {stop}": joined(part(plan, start, stop), ending(plan, stop))
            for start, stop in zip(starts, depths, strict=False)
        }
        self._parts["to the end"] = part(plan, starts[-1])
        self._parts |= {f"fill from {depth}": filling(plan, depth) for depth in depths}
        found = outputs(plan)
        self.states = {
            found[depth - 1]: replace(plan.buffers[found[depth - 1]], kind="state") for depth in depths
        }

    @property
    def ring(self) -> Any:
        return self._plans.ring

    def __call__(self, head: str) -> Plan:
        if head in self._parts:
            return self._parts[head]
        plan = self._plans(head)
        return replace(plan, buffers={**plan.buffers, **self.states})


class Depths:
    """One sequence of a model, fed token by token, each of which may leave after one of `depths` layers.

    `begin` a token, `deepen` it until it is said well enough, then `leave`. `close` gives the cache back.

    Raises `WorkbenchError` for depths that are none, and `PlanError` for a model whose layers hand on more than one
    activation.
    """

    def __init__(self, model: Model, depths: Sequence[int], capacity: int) -> None:
        layers = model.config.layers
        if not depths or list(depths) != sorted(set(depths)) or not 0 < depths[0] <= depths[-1] < layers:
            raise WorkbenchError(
                f"depths are {list(depths)}; allowed: of 1 to {layers - 1} layers, in ascending order"
            )
        executor: Any = model.executor
        if executor.backend not in ("torch", "wgpu"):
            raise WorkbenchError(
                f"backend {executor.backend} cannot stop after a layer; allowed: wgpu, torch"
            )
        self.depths, self.layers = (*depths, layers), layers
        self._plans = _Parts(executor.plan, depths)
        self._executor = executor if executor.backend == "torch" else executor.with_plans(self._plans)
        self._cache = self._executor.new_cache(capacity)
        self._states: dict[str, torch.Tensor] = {}  # of the references
        self._step = Step.following(np.zeros(1, np.int64), 0)
        self._at = 0

    def close(self) -> None:
        """Give the cache back."""
        self._executor.free_cache(self._cache)

    def reset(self) -> None:
        """Forget the sequence."""
        self._cache.position = 0

    def whole(self, token: int) -> np.ndarray:
        """Logits [vocab] behind the next token, of all layers in one piece."""
        self.begin(token)
        logits = self._run("last")
        self._cache.position += 1
        return logits

    def begin(self, token: int) -> None:
        """The next token; none of its layers has run."""
        self._step, self._at, self._states = Step.following(np.array([token]), self._cache.position), 0, {}

    def deepen(self) -> tuple[int, np.ndarray]:
        """(how many layers have run, logits [vocab] of a model that ended there), another depth further."""
        depth = self.depths[self._at]
        self._at += 1
        return depth, self._run("to the end" if depth == self.layers else f"to {depth}")

    def leave(self) -> None:
        """The token is done: layers that have not run take what it came to for their caches."""
        depth = self.depths[self._at - 1]
        if depth < self.layers:
            self._run(f"fill from {depth}")
        self._cache.position += 1

    def _run(self, head: str) -> np.ndarray:
        """A part; its logits, if it has any."""
        plan = self._plans(head)
        if isinstance(self._executor, TorchExecutor):
            self._cache.take(self._step)
            env = self._executor.inputs(self._step, self._cache.adapters) | self._states
            kept = (*plan.results, *self._plans.states)
            self._executor.advance(plan, env, self._cache, range(len(plan.calls)), keep=kept)
            self._states = {name: env[name] for name in self._plans.states if name in env}
            return env["logits"].numpy()[0] if plan.results else np.zeros(0, np.float32)
        found = self._executor.run_step(head, self._step, self._cache)
        return found["logits"][0] if plan.results else np.zeros(0, np.float32)
