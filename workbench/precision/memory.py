"""Which formats fit into a memory: the forecast of the plan, tier by tier, from 16 bits down."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from wgsl_kernels import Adapter
from workbench.convert.suited import suited
from workbench.errors import WorkbenchError
from workbench.formats.spec import WeightFormat
from workbench.models.families import architecture_of
from workbench.plan.count import plane_bytes
from workbench.precision.allocation import Allocation, allocation_of
from workbench.precision.groups import unquantized_plan
from workbench.precision.knapsack import pareto_front
from workbench.precision.requantized import Requantized
from workbench.precision.sensitivity import TIERS, float_tier
from workbench.precision.table import SensitivityTable
from workbench.runtime.choices import DEFAULT_MAX_TOKENS
from workbench.runtime.device import adapter_missing, aligned, open_device
from workbench.runtime.info import Forecast, forecast

MIB = 1 << 20
#: What WebGPU promises of a storage buffer's binding; it decides how large prefill chunks are.
PROMISED_BINDING = 128 * MIB


@dataclass(frozen=True)
class Fit:
    """The highest tier that fits. format: its format. forecast: bytes that the wgpu backend will hold.

    max_tokens: positions of the cache that were counted. tiers: every tier and its total bytes. reason: why this one.
    """

    format: WeightFormat
    forecast: Forecast
    max_tokens: int
    tiers: tuple[tuple[WeightFormat, int], ...]
    reason: str


def total(expected: Forecast) -> int:
    """Bytes held while generating: weights, cache, activations."""
    return expected.weights + expected.cache + expected.generation


def expect(
    source, formats: Mapping[str, WeightFormat], max_tokens: int | None = None, activations: str = "f32"
) -> tuple[Forecast, int]:
    """The forecast of a source with its matrices in `formats`, and the positions of the cache counted in it."""
    config = architecture_of(source.config)
    capacity = max_tokens or min(config.context_length, DEFAULT_MAX_TOKENS)
    if adapter_missing() is None:
        device = open_device()
        adapter, binding = device.adapter, device.binding_bytes
    else:
        adapter, binding = Adapter(), PROMISED_BINDING
    return forecast(Requantized(source, formats), config, activations, capacity, (adapter, binding)), capacity


def fit_memory(
    source,
    limit: int,
    *,
    max_tokens: int | None = None,
    activations: str = "f32",
    choose: Callable[[WeightFormat], Mapping[str, WeightFormat]] | None = None,
) -> Fit:
    """The highest of the tiers (16 bits, INT8, INT4, INT2) whose forecast fits into `limit` bytes.

    max_tokens: positions of the key/value cache; default the model's context, at most 8192. choose: formats by
    checkpoint name for a tier, where some matrices are to have another format. Raises WorkbenchError, with the
    forecast of the smallest tier, if none fits.
    """
    matrices = [weight.tensor for weight in unquantized_plan(source).weights.values()]
    tiers = []
    for fmt in (float_tier(source), *map(WeightFormat, TIERS)):
        asked = choose(fmt) if choose else dict.fromkeys(matrices, fmt)
        formats = {name: each.format for name, each in suited(source, asked).items()}
        expected, capacity = expect(source, formats, max_tokens, activations)
        tiers.append((fmt, total(expected)))
        if total(expected) <= limit:
            reason = f"{_parts(expected, capacity)}, within {limit / MIB:,.1f} MiB"
            if len(tiers) > 1:
                above, too_much = tiers[-2]
                reason += f"; {above} would take {too_much / MIB:,.1f} MiB"
            return Fit(fmt, expected, capacity, tuple(tiers), reason)
    raise WorkbenchError(_too_small([fmt for fmt, _ in tiers], expected, capacity, limit))


def fit_allocation(
    table: SensitivityTable,
    source,
    limit: int,
    *,
    max_tokens: int | None = None,
    activations: str = "f32",
) -> Allocation:
    """The allocation of least predicted KL whose forecast fits into `limit` bytes.

    Solved over the bytes that a device holds, which are padded, rather than those of the files. Raises WorkbenchError
    if none fits.
    """
    held = device_bytes(table, source)
    smallest = [int(f) for f in held.argmin(1)]
    expected, capacity = expect(
        source, allocation_of(table, smallest, "the least").formats, max_tokens, activations
    )
    least = int(held.min(1).sum())
    front = pareto_front(held.tolist(), table.kl.tolist())
    point = front.within_bytes(limit - total(expected) + least)
    if point is None:
        raise WorkbenchError(_too_small(table.formats, expected, capacity, limit))
    found = allocation_of(table, front.choices(point), f"{limit:,} bytes of memory")
    expected, capacity = expect(source, found.formats, max_tokens, activations)
    return replace(found, target=f"{found.target}, of which {_parts(expected, capacity)}")


def device_bytes(table: SensitivityTable, source) -> np.ndarray:
    """int64 [groups, formats]: what a device holds of each group in each format, rows and buffers padded."""
    config = architecture_of(source.config)
    held = np.zeros((len(table.groups), len(table.formats)), np.int64)
    for f in range(len(table.formats)):
        formats = {
            tensor: stored[f]
            for group, stored in zip(table.groups, table.stored, strict=True)
            for tensor in group.tensors
        }
        plan = config.build(Requantized(source, formats).describe)
        for g, group in enumerate(table.groups):
            buffers = [buffer for buffer in plan.of_kind("weight") if buffer.tensor in group.tensors]
            held[g, f] = sum(aligned(n) for buffer in buffers for n in plane_bytes(buffer, {}).values())
    return held


def _too_small(formats: Iterable[WeightFormat], expected: Forecast, capacity: int, limit: int) -> str:
    return (
        f"--fit-memory: even the smallest of {', '.join(map(str, formats))} takes {_parts(expected, capacity)}, "
        f"more than {limit / MIB:,.1f} MiB; a smaller cache (--max-tokens) takes less"
    )


def _parts(f: Forecast, capacity: int) -> str:
    return (
        f"{total(f) / MIB:,.1f} MiB to generate (weights {f.weights / MIB:,.1f}, cache of {capacity} tokens "
        f"{f.cache / MIB:,.1f}, activations {f.generation / MIB:,.1f})"
    )
