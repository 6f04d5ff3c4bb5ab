"""Measuring what each group of matrices costs in each format: one group at a time is swapped, all else stays float.

A window goes once through the float model, call by call. Where a group is about to be read, the run branches: for
each format the rest of the plan runs with that group's dequantized weights, and its logits are compared with the
float ones. So nothing before the change is computed twice, and only one window's activations are in memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eval.protocols import Protocol, Window, protocol
from eval.statistics import divergence
from eval.texts import Tokens
from workbench.allocate.groups import Group, fused_groups, unquantized_plan, vector_bytes
from workbench.allocate.requantized import QUANTIZERS_OF_ONE_MATRIX, Requantized, source_hashes
from workbench.allocate.table import SensitivityTable
from workbench.bench.measure import reference_threads
from workbench.errors import ProtocolError, WorkbenchError
from workbench.formats.spec import WeightFormat
from workbench.models.llama_config import LlamaConfig
from workbench.models.source import open_source
from workbench.plan.count import step_cost
from workbench.plan.plan import Plan
from workbench.runtime.provenance import commit, versions
from workbench.runtime.torch_executor import TorchCache, TorchExecutor

#: Called as progress(done, total): shares of the arithmetic, so that done / total is a share of the time.
Progress = Callable[[float, float], None]
TIERS = ("int8", "int4", "int2")
#: With no matrix larger than this (weights), threads wait for each other longer than they compute.
ONE_THREAD = 1 << 22


def float_tier(source) -> WeightFormat:
    """The dtype in which a source stores its matrices, where that has 16 bits; else f16."""
    stored = {weight.format for weight in unquantized_plan(source).weights.values()}
    return WeightFormat("bf16") if stored == {WeightFormat("bf16")} else WeightFormat("f16")


def default_formats(source) -> tuple[WeightFormat, ...]:
    """The tiers: 16 bits as the source has them, INT8, INT4 and INT2 in their default blocks."""
    return (float_tier(source), *map(WeightFormat, TIERS))


def sensitivity(
    source,
    tokens: Tokens,
    scheme: str | Protocol = "disjoint-512",
    *,
    formats: Sequence[WeightFormat] | None = None,
    quantizer: str = "rtn",
    max_windows: int | None = None,
    path: str | Path | None = None,
    threads: int | None = None,
    progress: bool | Progress = False,
    so_far: Callable[[SensitivityTable], None] | None = None,
) -> SensitivityTable:
    """The KL of every group in every format on calibration text, through the PyTorch references in f32.

    source: an unquantized checkpoint (folder, hub id or opened). tokens: from `eval.texts.encode`. formats: default
    `default_formats`. quantizer: one of `QUANTIZERS_OF_ONE_MATRIX`. max_windows: of the protocol, from the beginning.
    path: a file that is rewritten after every window; if it holds windows of the same measurement already, they are
    not measured again, so a run that was killed goes on. threads: of PyTorch meanwhile; by default one for a model of
    small matrices, as many as PyTorch likes for others. progress: True for a bar with the time left, or a function.
    so_far: called with the table of the windows that are measured, after each. What either function raises ends the
    measurement.

    Raises ProtocolError where text, protocol and model do not fit together, WorkbenchError for a model that is
    quantized already, unknown quantizers and a `path` that holds something else, FormatError and CheckpointError for
    weights that a format cannot hold.
    """
    source = open_source(source)
    windows = _windows(source, tokens, protocol(scheme), max_windows)
    formats = tuple(formats or default_formats(source))
    table = _empty(source, tokens, protocol(scheme), formats, quantizer)
    if path is not None and Path(path).exists():
        table = _stored(Path(path), table)
    if table.windows >= len(windows):
        return table.first(len(windows))
    meter = _Meter(progress, len(windows) - table.windows)
    measured = _Branches(source, table.groups, formats, quantizer)
    with meter, reference_threads(threads or (1 if measured.small else None)):
        for window in windows[table.windows :]:
            began = time.perf_counter()
            sums = measured.window(window, meter)
            table = table.extended(sums, window.scored, time.perf_counter() - began)
            if path is not None:
                table.save(path)
            if so_far:
                so_far(table)
    return table


def _windows(source, tokens: Tokens, scheme: Protocol, most: int | None) -> list[Window]:
    context = LlamaConfig.parse(source.config).context_length
    if scheme.length > context:
        raise ProtocolError(
            f"protocol {scheme.name!r} has windows of {scheme.length} tokens, more than the model's context "
            f"of {context}"
        )
    if most is not None and most < 1:
        raise ProtocolError(f"max_windows is {most}; it must be at least 1, or None for all")
    return scheme.windows(tokens.ids, bos=tokens.bos)[:most]


def _empty(source, tokens: Tokens, scheme: Protocol, formats, quantizer: str) -> SensitivityTable:
    plan = unquantized_plan(source)
    if quantized := [w.tensor for w in plan.weights.values() if w.format.is_quantized]:
        raise WorkbenchError(
            f"{source.path}: tensor {quantized[0]!r} is quantized already; formats are measured on the "
            "unquantized checkpoint"
        )
    if quantizer not in QUANTIZERS_OF_ONE_MATRIX:
        allowed = ", ".join(QUANTIZERS_OF_ONE_MATRIX)
        raise WorkbenchError(f"allocate: quantizer = {quantizer!r}; allowed: {allowed}")
    if len(set(formats)) < len(formats):
        raise WorkbenchError(f"allocate: a format is named twice: {', '.join(map(str, formats))}")
    groups = tuple(fused_groups(plan))
    key: dict[str, Any] = {
        "model": source_hashes(source),
        "tokens_sha256": tokens.sha256,
        "text": tokens.text,
        "protocol": scheme.name,
        "quantizer": quantizer,
        "formats": [str(fmt) for fmt in formats],
        "groups": [group.name for group in groups],
    }
    record = {"model": source.path.name, "versions": versions(), **commit()}
    empty = np.zeros((len(groups), len(formats), 0)), np.zeros(0, np.int64)
    return SensitivityTable(groups, formats, *empty, vector_bytes(plan), key, record)


def _stored(path: Path, wanted: SensitivityTable) -> SensitivityTable:
    """The table in the file, which must be one of the same measurement."""
    found = SensitivityTable.load(path)
    differing = [name for name in wanted.key if found.key.get(name) != wanted.key[name]]
    if differing:
        raise WorkbenchError(
            f"{path}: holds another measurement (other {', '.join(differing)}); remove it or name another file"
        )
    return found


class _Branches:
    """Runs windows through the float model and, from each group on, through its variants."""

    def __init__(self, source, groups: Sequence[Group], formats: Sequence[WeightFormat], quantizer: str):
        config = LlamaConfig.parse(source.config)
        self.executor = TorchExecutor(source, config)
        self.plan: Plan = self.executor.plan("all")
        self.groups, self.formats = groups, formats
        self.vocab_size = config.vocab_size
        self._names = {weight.tensor: weight.name for weight in self.plan.weights.values()}
        self._own = {weight.tensor: weight.format for weight in self.plan.weights.values()}
        made: dict = {}  # packed: a fraction of the float model's size
        self._sources = [
            Requantized(source, dict.fromkeys(self._names, fmt), quantizer, made) for fmt in formats
        ]
        self.small = all(w.shape[0] * w.shape[1] <= ONE_THREAD for w in self.plan.weights.values())
        first = {}
        for index, call in enumerate(self.plan.calls):
            first.setdefault(call.inputs.get("weight"), index)
        #: The call that reads each group first.
        self.starts = [min(first[self._names[tensor]] for tensor in group.tensors) for group in groups]

    def window(self, window: Window, meter: _Meter) -> np.ndarray:
        """Sums of KL over the window's scored tokens, f64 [groups, formats]."""
        if window.ids.max() >= self.vocab_size:
            raise ProtocolError(f"token id {window.ids.max()} is outside the vocabulary of {self.vocab_size}")
        ids, end = window.ids[:-1], len(self.plan.calls)
        costs = self._costs(len(ids))
        meter.window(sum(costs[start] for start in self.starts) * len(self.formats) + 2 * costs[0])
        cache = TorchCache(len(ids))
        inputs = self.executor.inputs(ids, cache)
        baseline = self._finish(dict(inputs), cache, range(end), {})
        meter.add(costs[0])

        sums = np.zeros((len(self.groups), len(self.formats)))
        at = 0
        for g, start in sorted(enumerate(self.starts), key=lambda each: each[1]):
            self.executor.advance(self.plan, inputs, cache, range(at, start), keep={"logits"})
            at = start
            for f in range(len(self.formats)):
                weights = self._weights(self.groups[g], f)
                if weights is not None:
                    logits = self._finish(dict(inputs), cache, range(start, end), weights)
                    rows = slice(window.first_scored - 1, None)
                    sums[g, f] = divergence(logits[rows], baseline[rows], window.targets).kl.sum()
                meter.add(costs[start])
        meter.add(costs[0])
        return sums

    def _finish(self, env: dict, cache: TorchCache, calls: range, weights: dict) -> np.ndarray:
        # A layer that runs again writes its keys and values anew before it reads them: the cache can be shared.
        self.executor.advance(self.plan, env, cache, calls, keep={"logits"}, weights=weights)
        return env["logits"].numpy()

    def _weights(self, group: Group, index: int) -> dict[str, torch.Tensor] | None:
        """The dequantized matrices of a group in a format, by the plan's names; None if they are the source's."""
        fmt = replace(self.formats[index], order="low-first")
        if all(fmt in (self._own[tensor], WeightFormat("f32")) for tensor in group.tensors):
            return None
        found = {}
        for tensor in group.tensors:
            quantized = self._sources[index].tensor(tensor)
            found[self._names[tensor]] = torch.from_numpy(quantized.dequantize())
        return found

    def _costs(self, tokens: int) -> list[float]:
        """Floating-point operations from each call to the end of the plan."""
        sizes = {"tokens": tokens, "capacity": tokens, "sequences": 1, "steps": 1}
        each = [step_cost(replace(self.plan, calls=(call,)), sizes).flops for call in self.plan.calls]
        return list(np.cumsum(each[::-1])[::-1])


class _Meter:
    """Tells how much of the arithmetic is done: by a bar with the time left, or to a function."""

    def __init__(self, progress: bool | Progress, windows: int):
        self._told = progress if callable(progress) else None
        self._windows, self._done, self._window = windows, 0.0, 0.0
        self._shown = progress is True
        self._bar = None

    def __enter__(self) -> _Meter:
        if self._shown:
            from tqdm.auto import tqdm

            form = "{desc}: {percentage:3.0f}%|{bar}| {elapsed} gone, {remaining} left"
            self._bar = tqdm(total=1.0, desc="measuring groups", bar_format=form)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def window(self, flops: float) -> None:
        """A window begins that takes so many operations."""
        self._window = flops

    def add(self, flops: float) -> None:
        self._done += flops / self._window
        if self._told:
            self._told(self._done, self._windows)
        if self._bar is not None:
            self._bar.update(flops / self._window / self._windows)
