"""Each kernel of a running model, judged on the inputs that it saw there.

    found = check_kernels(workbench.load(path, backend="wgpu", dtype="int8"), ids)
    print(found)          # a row a kernel: how many numbers, how far off, how much of its bound that is
    found.within          # whether every number lies within its kernel's bound

Two executions of a model cannot be told apart by their logits where activations are rounded to INT8: a value on the
edge between two quants falls to either side by the last bit of a sum, and everything behind it is rounded anew. So
kernels are compared here on equal inputs: the model runs through its kernels, what each of them read and wrote is
kept, and its reference computes the same call in f64 from what it read. The bound is the kernel's own (`tolerance`),
derived from its arithmetic; for a quant it is one where the value lies on an edge within rounding, else nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from eval.report import Tabular, finite, ran
from wgsl_kernels.judge import Expectation, comparable, judge, widen
from wgsl_kernels.state import make_state
from workbench.dtypes import NUMPY
from workbench.errors import ProtocolError
from workbench.plan.bind import bind
from workbench.plan.count import buffer_bytes
from workbench.plan.plan import Buffer, Call, plane_name, resolve, step_sizes
from workbench.runtime.feeding import Ids, check_ids
from workbench.runtime.weights import matrix_parts, vector

#: What calls of one pass read and wrote at most, in bytes; more is kept in several passes.
PASS_BYTES = 256 << 20


@dataclass(frozen=True)
class KernelCheck:
    """One output of one call. off: numbers (of `elements`) beyond their bound; worst: the largest error over its bound;
    relative: RMS error over the RMS of the reference; differing: quants that are another, None for floats."""

    output: str
    kernel: str
    variant: str
    elements: int
    off: int
    worst: float
    relative: float
    differing: int | None


@dataclass(frozen=True, eq=False)
class KernelChecks(Tabular):
    """Every call in the order in which it ran, step by step."""

    checks: tuple[KernelCheck, ...]
    tokens: int
    provenance: dict[str, Any] = field(repr=False)

    @property
    def caption(self) -> str:
        model = ran(self.provenance["backend"], self.provenance)
        return f"kernels on equal inputs, {model}, {self.tokens} tokens"

    @property
    def within(self) -> bool:
        """Whether every number lies within its bound."""
        return not any(check.off for check in self.checks)

    @property
    def worst(self) -> float:
        """The largest error of a float over its bound; that of a quant on an edge is its bound."""
        return max(check.worst for check in self.checks if check.differing is None)

    def __str__(self) -> str:
        return f"{super().__str__()}\n{self.verdict}"

    @property
    def verdict(self) -> str:
        """One sentence."""
        off, numbers = (sum(getattr(check, name) for check in self.checks) for name in ("off", "elements"))
        quants = [check for check in self.checks if check.differing is not None]
        flipped = sum(check.differing or 0 for check in quants)
        edges = (
            f"; {flipped:,} of {sum(c.elements for c in quants):,} quants fall to the other side of an edge"
        )
        return (
            f"kernels on equal inputs ({self.tokens} tokens): {off:,} of {numbers:,} numbers beyond their bounds, the "
            f"largest error is {self.worst:.2g} of its bound{edges if quants else ''}"
        )

    def beyond(self) -> list[KernelCheck]:
        """What exceeds its bound."""
        return [check for check in self.checks if check.off]

    def rows(self) -> list[dict[str, Any]]:
        grouped: dict[tuple[str, str], list[KernelCheck]] = {}
        for check in self.checks:
            grouped.setdefault((check.kernel, check.variant), []).append(check)
        return [
            {
                "kernel": f"{kernel}/{variant}",
                "outputs": len(found),
                "numbers": f"{sum(check.elements for check in found):,}",
                "beyond the bound": sum(check.off for check in found),
                "error / bound": max(check.worst for check in found),
                "relative RMS": max(check.relative for check in found),
                "quants that differ": _total(check.differing for check in found),
            }
            for (kernel, variant), found in grouped.items()
        ]

    def to_json(self) -> dict[str, Any]:
        return finite(
            {
                "tokens": self.tokens,
                "within": self.within,
                "worst": self.worst,
                "provenance": self.provenance,
                "checks": [asdict(check) for check in self.checks],
            }
        )


def check_kernels(model: Any, ids: Ids) -> KernelChecks:
    """Run `ids` through a model's kernels and judge every call of its device plans on its own inputs.

    The references compute in f64 on the CPU, with one matrix dequantized at a time. Raises ProtocolError for a model
    that does not run through kernels.
    """
    executor = model.executor
    if executor.backend != "wgpu":
        raise ProtocolError("kernels are checked where they run: load the model with backend='wgpu'")
    ids = check_ids(ids, model.vocab_size)
    cache = executor.new_cache(len(ids))
    checks: list[KernelCheck] = []
    try:
        while cache.position < len(ids):
            start = cache.position
            count = executor.chunk(len(ids) - start)
            step = _Step(executor, cache, ids[start : start + count])
            checks += step.checks()
            cache.position = start + count
    finally:
        executor.free_cache(cache)
    return KernelChecks(tuple(checks), len(ids), model.describe_provenance())


class _Step:
    """One step of the device: its calls, what they read and what they wrote."""

    def __init__(self, executor: Any, cache: Any, ids: np.ndarray) -> None:
        self._executor, self._cache, self._ids, self._start = executor, cache, ids, cache.position
        size = min(chunk for chunk in executor.chunks if chunk >= len(ids))
        lowered = executor.device_plan("all", size, cache, ())
        self._plan, self._sizes = lowered.plan, lowered.sizes
        self._variants = {output: s.variant for s in lowered.steps for output in s.call.outputs.values()}

    def _activations(self, call: Call) -> list[Buffer]:
        found = (self._plan.buffers[name] for name in (*call.inputs.values(), *call.outputs.values()))
        return [buffer for buffer in found if buffer.kind == "activation"]

    def _planes(self, call: Call) -> list[str]:
        return [own for buffer in self._activations(call) for own, _, _ in buffer.planes().values()]

    def checks(self) -> Iterator[KernelCheck]:
        before = self._caches()
        for calls in self._passes():
            keep = tuple(dict.fromkeys(name for call in calls for name in self._planes(call)))
            self._cache.position = self._start
            kept = self._executor.run("all", self._ids, self._cache, keep=keep)
            after = self._caches()
            for call in calls:
                yield from self._judged(call, {**after, **kept}, before)

    def _passes(self) -> Iterator[list[Call]]:
        """Calls that are judged from one run, whose activations fit into `PASS_BYTES` together."""
        group: list[Call] = []
        size = 0
        for call in self._plan.calls:
            sizes = {"tokens": len(self._ids)}
            need = sum(buffer_bytes(buffer, sizes) for buffer in self._activations(call))
            if group and size + need > PASS_BYTES:
                yield group
                group, size = [], 0
            group.append(call)
            size += need
        if group:
            yield group

    def _caches(self) -> dict[str, np.ndarray]:
        """Keys and values of every layer, as they lie on the device."""
        sizes = step_sizes(1, self._cache.capacity)
        found = {}
        for buffer in self._executor.plan("all").of_kind("cache"):
            for own, shape, dtype in buffer.planes().values():
                shape = resolve(shape, sizes)
                place = self._cache.buffers[own], NUMPY[dtype], int(np.prod(shape))
                found[own] = self._executor.device.read(*place).reshape(shape)
        return found

    def _judged(
        self, call: Call, found: Mapping[str, np.ndarray], before: Mapping[str, np.ndarray]
    ) -> Iterator[KernelCheck]:
        bound = bind(self._plan, call, self._sizes)
        kernel = bound.kernel
        arguments: dict[str, Any] = dict(bound.params)
        written = set(call.outputs.values())
        for port in kernel.reads:
            if port not in bound.ports:
                continue
            name, plane = bound.ports[port]
            own = plane_name(name, plane)
            source = before if name in written and own in before else found
            arguments[port] = _tensor(source[own]) if own in source else self._given(name, plane)
        variant = self._variants[next(iter(call.outputs.values()))]
        for port, (expected, allowed) in Expectation(kernel, arguments).of(variant).items():
            own = plane_name(*bound.ports[port])
            got = _tensor(found[own])
            error = judge(port, comparable(kernel, port, got), expected, widen(expected, allowed, got.dtype))
            rms = float(expected.square().mean().sqrt())
            yield KernelCheck(
                own,
                kernel.name,
                variant,
                error.elements,
                error.off,
                error.worst,
                0.0 if error.rms == 0 else error.rms / rms if rms else float("inf"),
                error.elements - error.ratios[0] if kernel.writes[port].packed else None,
            )

    def _given(self, name: str, plane: str) -> torch.Tensor:
        """What no call of the plan writes: ids, state, tables and weights."""
        if name == "ids":
            return torch.from_numpy(self._ids.astype(np.int32))
        if name == "state":
            state = make_state(self._start, len(self._ids))
            state[:, 1] += int(self._cache.adapters[0])
            return state
        found = self._plan.buffers[name]
        if found.initial is not None:
            return torch.from_numpy(found.initial.values(found.resolved(step_sizes(1, self._cache.capacity))))
        if not found.is_matrix:
            return torch.from_numpy(np.array(vector(self._executor.source, found)))
        parts = [p[plane] for tensor in found.tensors for _, p in matrix_parts(self._executor.source, tensor)]
        array = parts[0] if found.format.shares(plane) else np.concatenate(parts)
        if found.format.dtype == "bf16":
            return _tensor(array.view(np.int16)).view(torch.bfloat16)
        return _tensor(array)


def _tensor(array: np.ndarray) -> torch.Tensor:
    """A private copy; words as int32, which is how torch holds them."""
    array = np.array(array)
    return torch.from_numpy(array.view(np.int32) if array.dtype == np.uint32 else array)


def _total(counts: Iterable[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known else None
