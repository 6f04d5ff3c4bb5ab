"""Whether a device has the memory for a model, before anything is allocated; and what would fit where it has not.

WebGPU tells nobody how much memory a device has. It is known of NVIDIA GPUs through the driver's library, and of
software adapters, which take the host's; of others nothing is refused here, and an allocation that fails says so.
"""

from __future__ import annotations

from pathlib import Path

from workbench.errors import OutOfMemoryError
from workbench.formats.spec import WeightFormat
from workbench.plan.count import kind_bytes
from workbench.plan.parts import part
from workbench.plan.plan import Plan, PlanError, step_sizes

from .device import Device
from .executor import Executor
from .nvml import find_gpu

#: Formats that are named where a model does not fit in its own.
SMALLER = ("int8", "int4", "int2")
_MEMORY = Path("/proc/meminfo")


def free_bytes(device: Device) -> int | None:
    """What a device can still allocate; None where nothing says."""
    if device.adapter.is_cpu:
        try:
            lines = _MEMORY.read_text().splitlines()
        except OSError:
            return None
        return next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")), None)
    gpu = find_gpu(device.info["device"])
    return None if gpu is None else gpu.free_bytes()


def needed_bytes(plan: Plan, capacity: int) -> tuple[int, int]:
    """(weights, cache of one sequence) of a plan or a part of one, without activations, which are small beside them."""
    return kind_bytes(plan, "weight", {}), kind_bytes(plan, "cache", step_sizes(1, capacity))


def require_fits(device: Device, executor: Executor, capacity: int, layers: int | None) -> None:
    """Raises `OutOfMemoryError` for a model whose weights, with a cache of `capacity` positions, are more than a device
    has; it says how much that is, and what would fit. layers: of the model that run there; None for all."""
    free = free_bytes(device)
    if free is None:
        return
    whole = executor.plan("last")
    plan = whole if layers is None else part(whole, 0, layers, kind="activation")
    weights, cache = needed_bytes(plan, capacity)
    if weights + cache <= free:
        return
    of = "" if layers is None else f" of {layers} layers"
    fitting = [
        *_shorter(plan, capacity, free - weights),
        *_cache_in_int8(executor, capacity, layers, free - weights),
        *_formats(plan, free - cache),
        *_fewer_layers(whole, executor.config.layers if layers is None else layers, capacity, free),
    ]
    raise OutOfMemoryError(
        f"{device.name} has {_mb(free)} left, and the weights{of} take {_mb(weights)} and a cache of {capacity} "
        f"positions {_mb(cache)}; what would fit: {'; '.join(fitting) or 'nothing of this model'}"
    )


def _shorter(plan: Plan, capacity: int, room: int) -> list[str]:
    """A cache of fewer positions; found by halving, since windows bound some layers' caches."""
    low, high = 0, capacity
    while high - low > 1:
        middle = (low + high) // 2
        fits = kind_bytes(plan, "cache", step_sizes(1, middle)) <= room
        low, high = (middle, high) if fits else (low, middle)
    return [f"max_tokens={low}"] if low else []


def _cache_in_int8(executor: Executor, capacity: int, layers: int | None, room: int) -> list[str]:
    if executor.cache == "int8":
        return []
    plan = executor.config.build(
        executor.source.describe,
        head="last",
        activations=executor.activations,
        cache="int8",
        ring=executor.plan.ring,
    )
    if layers is not None:
        plan = part(plan, 0, layers, kind="activation")
    return ["cache='int8'"] if needed_bytes(plan, capacity)[1] <= room else []


def _formats(plan: Plan, room: int) -> list[str]:
    """Weights in fewer bits, as far as they are matrices."""
    matrices = [buffer for buffer in plan.of_kind("weight") if buffer.is_matrix]
    rest = kind_bytes(plan, "weight", {}) - sum(_bytes_of(plan, buffer.name) for buffer in matrices)
    found = []
    for name in SMALLER:
        format = WeightFormat(name)
        bits = sum(b.rows * b.columns * format.bits_per_weight(b.rows, b.columns) for b in matrices)
        if (size := rest + int(bits / 8)) <= room:
            found.append(f"weights in {name} (workbench quantize --format {name}), about {_mb(size)}")
    return found


def _bytes_of(plan: Plan, name: str) -> int:
    return kind_bytes(Plan({name: plan.buffers[name]}, (), ()), "weight", {})


def _fewer_layers(plan: Plan, layers: int, capacity: int, free: int) -> list[str]:
    """As many layers as fit, the others through the references."""
    try:
        fitting = [
            n
            for n in range(1, layers)
            if sum(needed_bytes(part(plan, 0, n, kind="activation"), capacity)) <= free
        ]
    except PlanError:  # its layers hand on more than one activation
        return []
    if not fitting:
        return []
    return [f"device_layers={fitting[-1]} of {layers}, in Python, with the others through the references"]


def _mb(nbytes: int) -> str:
    return f"{nbytes / 1e6:,.1f} MB"
