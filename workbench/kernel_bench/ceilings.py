"""What this device reaches at most, measured with the kernels in the same run: reading, copying, arithmetic."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from wgsl_kernels.ceilings.ceilings import COMPUTE, COPY, READ_SWEEP, SWEEP_STEPS, UNIT
from workbench.errors import WorkbenchError
from workbench.known import known
from workbench.runtime.device import Device

from .compare import ROUNDS, compare
from .comparison import PASSED, UNSUPPORTED, Comparison

#: Words that sweep and copy move: so many that starting a dispatch (about 2 us) weighs little on a GPU.
GPU_WORDS, CPU_WORDS = 192 << 20, 2 << 20
#: Threads and steps of the pairs that compute: a few hundred microseconds.
GPU_THREADS, GPU_STEPS = 1 << 21, 512
CPU_THREADS, CPU_STEPS = 4096, 64


@dataclass(frozen=True)
class Ceilings:
    """read, copy: bytes a second, of the fastest variant. compute: operations a second by arithmetic ("f32 FMA",
    "f16 FMA", "DP4A"), those that the device has. comparisons: what they were taken from."""

    read: float
    copy: float
    compute: dict[str, float]
    comparisons: tuple[Comparison, ...]

    def lines(self) -> list[str]:
        """What to print of them."""
        sweep = max(self.comparisons[: len(SWEEP_STEPS)], key=_best)
        fastest = f"{known(sweep.fastest).variant}, {sweep.sizes['steps']} steps"
        rates = ", ".join(f"{name} {rate / 1e12:.3g} Tera-op/s" for name, rate in self.compute.items())
        return [
            f"reads {self.read / 1e9:.1f} GB/s ({fastest}), copies {self.copy / 1e9:.1f} GB/s",
            f"arithmetic: {rates}",
        ]


def measure_ceilings(device: Device, rounds: int = ROUNDS, seed: int = 0) -> Ceilings:
    """Time the sweep's forms, the copy and the arithmetic; raises WorkbenchError if one does not do what it should."""
    software = device.adapter.is_cpu
    words = CPU_WORDS if software else min(GPU_WORDS, device.binding_bytes // 4 // UNIT * UNIT)
    threads, steps = (CPU_THREADS, CPU_STEPS) if software else (GPU_THREADS, GPU_STEPS)
    found = [
        compare(READ_SWEEP, seed, rounds=rounds, device=device, elements=words, steps=each)
        for each in SWEEP_STEPS
    ]
    found.append(compare(COPY, seed, rounds=rounds, device=device, elements=words))
    compute = {}
    for name, pair in COMPUTE.items():
        each = compare(pair, seed, rounds=rounds, device=device, threads=threads, steps=steps)
        found.append(each)
        if each.fastest:
            compute[name] = each.fastest.flops / each.fastest.seconds
    for each in found:
        for result in each.results:
            if result.status not in (PASSED, UNSUPPORTED):
                raise WorkbenchError(f"{each.kernel}/{result.variant}: {result.status}: {result.detail}")
    sweeps = len(SWEEP_STEPS)
    return Ceilings(max(map(_best, found[:sweeps])), _best(found[sweeps]), compute, tuple(found))


_known: WeakKeyDictionary[Device, Ceilings] = WeakKeyDictionary()
_lock = threading.Lock()


def known_ceilings(device: Device) -> Ceilings:
    """Those of a device, measured at the first call of this process; raises as `measure_ceilings` does."""
    with _lock:
        if device not in _known:
            _known[device] = measure_ceilings(device)
        return _known[device]


def _best(found: Comparison) -> float:
    """Bytes a second of the fastest variant."""
    return known(known(found.fastest).gb_per_s) * 1e9
