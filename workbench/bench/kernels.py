"""Kernels at sizes of real models on this machine's adapter: times, and shares of the memory's bandwidth.

The ceilings (a read-only sweep and a copy, WGSL like the rest) are measured first on the same device. Records are
long: one metric a row with its samples and everything that is needed to repeat it.
"""

from __future__ import annotations

import inspect
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import wgsl_kernels
from wgsl_kernels import Kernel, KernelUsageError
from wgsl_kernels.ceilings import COPY, READ_SWEEP
from workbench.errors import WorkbenchError
from workbench.runtime.device import Device, open_device

from .compare import ROUNDS, compare
from .comparison import PASSED, Comparison, VariantResult, align, plain
from .console import Console
from .records import write_json

KERNELS = (
    *(f"linear_{fmt}" for fmt in ("f16", "int8", "int4", "int2")),
    *(f"linear_a8_{fmt}" for fmt in ("int8", "int4", "int2")),
)
#: Matrices of an 8B Llama (attention output, gate and up, down, LM head), and what a CPU does in a minute.
GPU_SHAPES = ((4096, 4096), (14336, 4096), (4096, 14336), (128256, 4096))
CPU_SHAPES = ((256, 256), (1024, 1024))
#: The reference of the LM head is computed in f64, which takes so much of the host's memory.
LM_HEAD_HOST_BYTES = 40 << 30
#: Columns that share a scale, as models are quantized by default.
BLOCKS = {"int8": 128, "int4": 128, "int2": 256}
#: Words that the ceilings move: 256 MiB on a GPU, 16 MiB on a CPU.
GPU_WORDS, CPU_WORDS = 64 << 20, 4 << 20


def parse_shape(text: str) -> tuple[int, int]:
    """ "4096x14336" -> (rows, columns); raises ValueError."""
    rows, separator, columns = text.lower().partition("x")
    if not separator or not (rows.isdecimal() and columns.isdecimal() and int(rows) and int(columns)):
        raise ValueError(f"{text!r} is not a shape such as 4096x14336 (rows, columns)")
    return int(rows), int(columns)


def sizes_for(
    kernel: Kernel, tokens: int | None, shapes: Sequence[tuple[int, int]], block: int | None
) -> Iterator[dict[str, int]]:
    """What to call `Kernel.inputs` with: one set of sizes a shape, or one alone where a kernel has no such shape."""
    # A format's kernels take their inputs' sizes through functools.partial, whose signature has them all.
    taken = inspect.signature(kernel.make_inputs).parameters
    sizes = {}
    if tokens is not None and "tokens" in taken:
        sizes["tokens"] = tokens
    if fmt := next((f for f in BLOCKS if kernel.name.endswith(f"_{f}")), None):
        sizes["block"] = block or BLOCKS[fmt]
    if not {"rows", "columns"} <= set(taken):
        yield sizes
        return
    for rows, columns in shapes:
        yield {**sizes, "rows": rows, "columns": columns}


def run(
    kernels: Sequence[str] = KERNELS,
    *,
    tokens: int = 1,
    shapes: Sequence[tuple[int, int]] | None = None,
    block: int | None = None,
    variants: Sequence[str] | None = None,
    rounds: int = ROUNDS,
    seed: int = 0,
    output: str | Path = "runs/bench/kernels.json",
    console: Console | None = None,
    device: Device | None = None,
) -> list[Comparison]:
    """Compare kernels over shapes; prints a table on stdout and writes the records to `output`.

    shapes: (rows, columns), default `GPU_SHAPES` or `CPU_SHAPES`. block: columns a scale, default `BLOCKS`.
    variants: names; a kernel's own of them are compared, all by default. Raises WorkbenchError for a name that is
    not there, NoAdapterError.
    """
    console, device = console or Console(), device or open_device()
    try:
        pairs = [wgsl_kernels.get(name) for name in kernels]
    except KernelUsageError as error:
        raise WorkbenchError(str(error)) from error
    known = {name for pair in pairs for name in pair.variants}
    if unknown := set(variants or ()) - known:
        raise WorkbenchError(
            f"no variant is named {sorted(unknown)[0]!r}; there are {', '.join(sorted(known))}"
        )
    if not shapes:
        shapes = CPU_SHAPES if device.adapter.is_cpu else GPU_SHAPES
        if not device.adapter.is_cpu and host_bytes() < LM_HEAD_HOST_BYTES:
            rows, columns = GPU_SHAPES[-1]
            needed = f"its reference needs {LM_HEAD_HOST_BYTES >> 30} GiB of this machine's memory"
            console.say(f"{rows}x{columns} is left out: {needed}")
            shapes = GPU_SHAPES[:-1]
    console.say(f"ceilings of {device.name}")
    ceilings = measure_ceilings(device, rounds, seed)
    for each in ceilings:
        console.say(f"{each.kernel}: {each.fastest.gb_per_s:.1f} GB/s ({each.label})")
    read = ceilings[0].fastest.gb_per_s * 1e9
    found = []
    for pair in pairs:
        wanted = [name for name in pair.variants if variants is None or name in variants]
        for sizes in sizes_for(pair, tokens, shapes, block) if wanted else ():
            try:
                found.append(
                    compare(pair, seed, wanted, rounds=rounds, read_ceiling=read, device=device, **sizes)
                )
            except (KernelUsageError, ValueError) as error:
                raise WorkbenchError(f"{pair.name} at {sizes}: {error}") from error
            best = found[-1].fastest
            told = f"{best.variant} {best.timing.median * 1e6:.1f} us" if best else "nothing passed"
            console.say(f"{pair.name} {shape_of(found[-1])}: {told}")
    path = Path(output)
    path.parent.mkdir(parents=True, exist_ok=True)
    requested = {"kernels": list(kernels), "tokens": tokens, "shapes": shapes, "block": block}
    requested |= {"variants": variants, "rounds": rounds, "seed": seed}
    write_json(path, record(found, ceilings, requested))
    print(f"\n{table(found)}", flush=True)
    console.say(f"saved in {path}")
    return found


def measure_ceilings(device: Device, rounds: int = ROUNDS, seed: int = 0) -> list[Comparison]:
    """The read-only sweep and the copy, timed; raises WorkbenchError if either does not do what it should."""
    elements = CPU_WORDS if device.adapter.is_cpu else GPU_WORDS
    found = [compare(k, seed, rounds=rounds, device=device, elements=elements) for k in (READ_SWEEP, COPY)]
    for each in found:
        if each.results[0].status != PASSED:
            raise WorkbenchError(f"{each.kernel}: {each.results[0].status}: {each.results[0].detail}")
    return found


def host_bytes() -> int:
    """This machine's memory; 0 where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 0


def shape_of(found: Comparison) -> str:
    """ "1024x1024, block 128", or all sizes of a kernel without rows and columns."""
    sizes = found.sizes
    if not {"rows", "columns"} <= set(sizes):
        return ", ".join(f"{name}={value:g}" for name, value in sizes.items())
    block = f", block {sizes['block']}" if "block" in sizes else ""
    tokens = f"{sizes['tokens']} x " if sizes.get("tokens", 1) != 1 else ""
    return f"{tokens}{sizes['rows']}x{sizes['columns']}{block}"


def table(found: Sequence[Comparison]) -> str:
    """All variants under one head, and below what has not passed and how the times were made."""
    if not found:
        return "nothing was compared"
    rows = [["kernel", "shape", *found[0].head()]]
    for each in found:
        rows += [[each.kernel, shape_of(each), *each.cells(result)] for result in each.results]
    timed = [each for each in found if each.fastest]
    notes = (timed or found)[0].legend()
    if len({each.rotated_bytes for each in timed if each.copies > 1}) > 1:
        least = min(each.rotated_bytes for each in timed)
        notes.append(f"copies differ from row to row, and are {least / 1e6:.2g} MB or more")
    for each in found:
        notes += [
            f"{each.kernel} {shape_of(each)}, {r.variant}: {r.status}: {r.detail}"
            for r in each.results
            if r.status != PASSED
        ]
    return "\n".join([align(rows, left=4), "", *notes])


def record(
    found: Sequence[Comparison], ceilings: Sequence[Comparison], requested: Mapping[str, Any]
) -> dict[str, Any]:
    """JSON values: what was asked for, and one row a metric of each variant, the ceilings first."""
    return {
        "kind": "workbench-kernels",
        "version": 1,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": {"system": platform.platform(), "machine": platform.machine(), "cpus": os.cpu_count()},
        "requested": plain(requested),
        "rows": [
            plain(row)
            for each in [*ceilings, *found]
            for result in each.results
            for row in metric_rows(each, result)
        ],
    }


def metric_rows(found: Comparison, result: VariantResult) -> Iterator[dict[str, Any]]:
    """The long rows of one variant: its status, its errors, and where it passed its times with samples."""
    common = {
        "kernel": found.kernel,
        "variant": result.variant,
        "tunables": result.tunables,
        "sizes": found.sizes,
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
        for name, unit in (
            ("max_abs", ""),
            ("rms", ""),
            ("sqnr", "dB"),
            ("worst", "bounds"),
            ("off", "elements"),
        ):
            metric = f"error.{name}"
            yield {
                **common,
                "output": errors.output,
                "metric": metric,
                "unit": unit,
                "value": getattr(errors, name),
            }
    timing = result.timing
    if timing is None:
        return
    common |= {
        "clock": timing.clock,
        "warm_seconds": timing.warm,
        "dispatches": timing.dispatches,
        "copies": found.copies,
        "rotated_bytes": found.rotated_bytes,
        "dependent": True,
    }
    samples = timing.samples
    yield _sampled(common, "time", "s", timing.median, samples)
    for metric, unit, amount in (
        ("bandwidth", "byte/s", result.bytes),
        ("compute", "flop/s", result.flops),
        ("read share", "", result.bytes / found.read_ceiling if found.read_ceiling else 0),
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
