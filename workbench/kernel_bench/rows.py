"""The long records of kernel benchmarks: one metric a row, with its samples and all that is needed to repeat it."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from .arithmetic import arithmetic
from .comparison import Comparison, VariantResult, plain

KIND, VERSION = "workbench-kernels", 2
#: Statistics of an output's error, and their units.
ERRORS = {"max_abs": "", "rms": "", "sqnr": "dB", "worst": "bounds", "off": "elements"}


def record(
    found: Sequence[Comparison], ceilings: Sequence[Comparison], requested: Mapping[str, Any]
) -> dict[str, Any]:
    """JSON values: what was asked for, and one row a metric of each variant and peer, the ceilings first."""
    return {
        "kind": KIND,
        "version": VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": {"system": platform.platform(), "machine": platform.machine(), "cpus": os.cpu_count()},
        "requested": plain(requested),
        "rows": [
            plain(row)
            for each in [*ceilings, *found]
            for result in (*each.results, *each.peers)
            for row in metric_rows(each, result)
        ],
    }


def metric_rows(found: Comparison, result: VariantResult) -> Iterator[dict[str, Any]]:
    """The rows of one variant or peer: its status, its errors, and where it passed its times with samples."""
    common = {
        "kernel": found.kernel,
        "variant": result.variant,
        "peer": result in found.peers,
        "tunables": result.tunables,
        "sizes": found.sizes,
        "types": found.types,
        "status": result.status,
        "detail": result.detail,
        "chosen": result.chosen,
        "device": found.device,
        "label": found.label,
        "seed": found.seed,
        "wgsl_sha256": result.wgsl_sha256,
        "reference_sha256": found.reference_sha256,
        "provenance": found.provenance,
    }
    yield {**common, "metric": "status", "unit": "", "value": result.status}
    for errors in result.errors:
        for name, unit in ERRORS.items():
            value = getattr(errors, name)
            yield {**common, "output": errors.output, "metric": f"error.{name}", "unit": unit, "value": value}
    timing = result.timing
    if timing is None:
        return
    megahertz = timing.mhz or None
    common |= {
        "clock": timing.clock,
        "gpu_mhz": statistics.median(megahertz) if megahertz else None,
        "warm_seconds": timing.warm,
        "dispatches": timing.dispatches,
        "copies": found.copies,
        "rotated_bytes": found.rotated_bytes,
        "dependent": True,
    }
    samples = timing.samples
    yield _sampled(common, "time", "s", timing.median, samples)
    if megahertz:
        yield _sampled(common, "gpu clock", "MHz", statistics.median(megahertz), megahertz)
    rate = found.compute_ceilings.get(arithmetic(result.wgsl) or "", 0)
    for metric, unit, amount in (
        ("bandwidth", "byte/s", result.bytes),
        ("compute", "flop/s", result.flops),
        ("read share", "", result.bytes / found.read_ceiling if found.read_ceiling else 0),
        ("compute share", "", result.flops / rate if rate else 0),
    ):
        if amount:
            yield _sampled(common, metric, unit, amount / timing.median, [amount / s for s in samples])


def _sampled(
    common: Mapping, metric: str, unit: str, value: float, samples: Sequence[float]
) -> dict[str, Any]:
    return {
        **common,
        "metric": metric,
        "unit": unit,
        "value": value,
        "low": min(samples),
        "high": max(samples),
        "samples": list(samples),
    }
