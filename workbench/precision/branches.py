"""One window through the float model and, from each group on, through its variants.

Where a group is about to be read the run branches: for each format the rest of the plan runs with that group's
dequantized weights. So nothing before the change is computed twice, and only one window's activations are in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import replace

import numpy as np
import torch

from eval.protocols import Window
from workbench.formats.spec import WeightFormat
from workbench.models.families import architecture_of
from workbench.plan.count import step_cost
from workbench.plan.plan import Plan, step_sizes
from workbench.precision.against import Baseline
from workbench.precision.groups import Group
from workbench.precision.meter import Meter
from workbench.precision.requantized import Requantized
from workbench.runtime.step import Step
from workbench.runtime.torch_executor import TorchCache, TorchExecutor

#: With no matrix larger than this (weights), threads wait for each other longer than they compute.
ONE_THREAD = 1 << 22
#: Kinds of work, for the meter: operations of the plan; comparisons of logits; weights to quantize, and to restore.
RUN, COMPARE, RESTORE, QUANTIZE = "run", "compare", "restore", "quantize"
#: Called as told(group, sums of KL in each format [formats]) when a group is measured.
Told = Callable[[int, np.ndarray], None]


class Branches:
    """stored: the format of each group in each of its variants, [groups][formats]. kept: whether packed candidates stay
    in memory; by default where quantizing takes longer than running the model."""

    def __init__(
        self,
        source,
        groups: Sequence[Group],
        stored: Sequence[Sequence[WeightFormat]],
        quantizer: str,
        kept: bool | None = None,
    ):
        config = architecture_of(source.config)
        self.executor = TorchExecutor(source, config)
        self.plan: Plan = self.executor.plan("all")
        self.groups, self._stored = groups, stored
        self._names = {weight.tensor: weight.name for weight in self.plan.weights.values()}
        self._own = {weight.tensor: weight.format for weight in self.plan.weights.values()}
        # Rounding to nearest takes no longer than a hundredth of a run, and packed weights take memory.
        self._kept = quantizer != "rtn" if kept is None else kept
        made: dict | None = {} if self._kept else None
        self._sources = [
            Requantized(
                source,
                {
                    tensor: formats[f]
                    for group, formats in zip(groups, stored, strict=True)
                    for tensor in group.tensors
                },
                quantizer,
                made,
            )
            for f in range(len(stored[0]))
        ]
        self.small = all(w.rows * w.columns <= ONE_THREAD for w in self.plan.weights.values())
        first = {}
        for index, call in enumerate(self.plan.calls):
            first.setdefault(call.inputs.get("weight"), index)
        #: The call that reads each group first.
        self.starts = [min(first[self._names[tensor]] for tensor in group.tensors) for group in groups]

    def work(self, windows: Sequence[Window], done: Collection[int] = ()) -> dict[Hashable, float]:
        """What measuring the windows will take, by kind; done: groups of the first that are measured already."""
        ahead: dict[Hashable, float] = {}

        def add(kind: Hashable, amount: float) -> None:
            ahead[kind] = ahead.get(kind, 0.0) + amount

        for n, window in enumerate(windows):
            costs = self._costs(len(window.ids) - 1)
            wanted = [g for g in range(len(self.groups)) if n or g not in done]
            if not wanted:
                continue
            # The float model once to its end, and once more up to the last group.
            add(RUN, 2 * costs[0] - costs[max(self.starts[g] for g in wanted)])
            for g in wanted:
                group = self.groups[g]
                for f in self._changed(g):
                    kind, made_before = (QUANTIZE, f), self._kept and n > (1 if g in done else 0)
                    add(kind, 0 if made_before else group.weights)
                    add(RESTORE, group.weights)
                    add(RUN, costs[self.starts[g]])
                    add(COMPARE, window.scored)
        return ahead

    def window(self, window: Window, meter: Meter, done: Collection[int], told: Told) -> None:
        """Measure the groups of a window that are not `done`, in the order of the plan."""
        if len(done) == len(self.groups):
            return
        ids, end = window.ids[:-1], len(self.plan.calls)
        costs = self._costs(len(ids))
        cache = TorchCache(len(ids))
        inputs = self.executor.inputs(Step.following(ids, cache.position), cache.adapters)
        rows = slice(window.first_scored - 1, None)
        with meter.doing(RUN, costs[0]):
            logits = self._finish(dict(inputs), cache, range(end), {})
            baseline = Baseline(logits[rows], window.targets)
        at = 0
        for g, start in sorted(enumerate(self.starts), key=lambda each: each[1]):
            if g in done:
                continue
            with meter.doing(RUN, costs[at] - costs[start]):
                self.executor.advance(self.plan, inputs, cache, range(at, start), keep={"logits"})
            at = start
            sums = np.zeros(len(self._sources))
            for f in self._changed(g):
                weights = self._weights(self.groups[g], f, meter)
                with meter.doing(RUN, costs[start]):
                    logits = self._finish(dict(inputs), cache, range(start, end), weights)
                with meter.doing(COMPARE, window.scored):
                    sums[f] = baseline.compare(logits[rows])[0].sum()
                meter.tell()
            told(g, sums)

    def _finish(self, env: dict, cache: TorchCache, calls: range, weights: dict) -> torch.Tensor:
        # A layer that runs again writes its keys and values anew before it reads them: the cache can be shared.
        self.executor.advance(self.plan, env, cache, calls, keep={"logits"}, weights=weights)
        return env["logits"]

    def _changed(self, g: int) -> list[int]:
        """The formats that are not the source's own."""
        return [
            f
            for f, fmt in enumerate(self._stored[g])
            if any(
                replace(fmt, order="low-first") not in (self._own[tensor], WeightFormat("f32"))
                for tensor in self.groups[g].tensors
            )
        ]

    def _weights(self, group: Group, f: int, meter: Meter) -> dict[str, torch.Tensor]:
        """The dequantized matrices of a group in a format, by the plan's names."""
        found = {}
        for tensor, (rows, columns) in group.tensors.items():
            made_before = self._sources[f].has_made(tensor)
            with meter.doing((QUANTIZE, f), 0 if made_before else rows * columns):
                quantized = self._sources[f].tensor(tensor)
            with meter.doing(RESTORE, rows * columns):
                found[self._names[tensor]] = torch.from_numpy(quantized.dequantize())
        return found

    def _costs(self, tokens: int) -> list[float]:
        """Floating-point operations from each call to the end of the plan."""
        sizes = step_sizes(tokens, tokens)
        each = [step_cost(replace(self.plan, calls=(call,)), sizes).flops for call in self.plan.calls]
        return list(np.cumsum(each[::-1])[::-1])
