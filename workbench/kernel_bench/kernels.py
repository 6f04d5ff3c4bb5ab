"""Kernels at sizes of real models on this machine's adapter: times, and shares of what it reaches at most.

The ceilings (reading, copying, arithmetic: WGSL like the rest) are measured first on the same device, peers in the
same rounds as the kernels. Records are long (rows.py).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from wgsl_kernels import KernelUsageError
from workbench.errors import WorkbenchError
from workbench.files.writing import write_json
from workbench.runtime.device import Device, open_device
from workbench.show.progress import Console, Progress
from workbench.show.table import Table

from .ceilings import measure_ceilings
from .compare import compare
from .comparison import PASSED, Comparison, VariantResult
from .peers import check_names
from .request import CPU_SHAPES, GPU_SHAPES, LM_HEAD_HOST_BYTES, Request, format_of
from .rows import record


def run(
    request: Request,
    *,
    output: str | Path | None = "runs/bench/kernels.json",
    console: Progress | None = None,
    device: Device | None = None,
) -> tuple[list[Comparison], dict[str, Any]]:
    """Compare kernels over shapes: (comparisons, their record), which is written to `output` unless that is None.

    The file grows with each comparison, so that a run that is cut off leaves what it has; a roofline comes beside it,
    with the ending .png. Kernels that read the same weights share the peers' figures, which the record has once.
    Raises WorkbenchError for what cannot be asked for, NoAdapterError.
    """
    console, device = console or Console(), device or open_device()
    check_names(request.peers)
    calls = list(request.calls(request.shapes or _shapes(device, console)))
    console.say(f"ceilings of {device.name}")
    ceilings = measure_ceilings(device, request.rounds, request.seed)
    for line in ceilings.lines():
        console.say(line)
    path = None if output is None else Path(output)
    values = record([], ceilings.comparisons, request.to_json())
    found: list[Comparison] = []
    layers: dict[tuple, tuple[VariantResult, ...]] = {}
    keys = [(format_of(pair) or pair.name, *sorted(sizes.items())) for pair, sizes in calls]
    for (pair, sizes), layer in zip(calls, keys, strict=True):
        try:
            found.append(
                compare(
                    pair,
                    request.seed,
                    [n for n in pair.variants if request.variants is None or n in request.variants],
                    rounds=request.rounds,
                    read_ceiling=ceilings.read,
                    compute_ceilings=ceilings.compute,
                    peers=() if layer in layers else request.peers,
                    device=device,
                    **sizes,
                )
            )
        except (KernelUsageError, ValueError) as error:
            raise WorkbenchError(f"{pair.name} at {sizes}: {error}") from error
        values = record(found, ceilings.comparisons, request.to_json())
        if path is not None:
            write_json(path, values)
        layers.setdefault(layer, found[-1].peers)
        best = found[-1].fastest
        told = f"{best.variant} {best.seconds * 1e6:.1f} us" if best else "nothing passed"
        console.say(f"{pair.name} {found[-1].shape}: {told}")
        for peer in found[-1].peers:
            time = f"{peer.timing.median * 1e6:.1f} us" if peer.timing else f"{peer.status}: {peer.detail}"
            console.say(f"    {peer.variant}: {time}")
    if path is not None and found:
        save_roofline(found, path.with_suffix(".png"))
        console.say(f"saved in {path}")
    return [replace(each, peers=layers[key]) for each, key in zip(found, keys, strict=True)], values


def save_roofline(found: Sequence[Comparison], path: Path) -> None:
    """Write the roofline of what was timed, if anything was."""
    if any(each.fastest and each.fastest.flops for each in found):
        from .roofline import roofline

        roofline(found).save(path)


def _shapes(device: Device, console: Progress) -> Sequence[tuple[int, int]]:
    """Those that this machine is up to."""
    if device.adapter.is_cpu:
        return CPU_SHAPES
    if host_bytes() >= LM_HEAD_HOST_BYTES:
        return GPU_SHAPES
    rows, columns = GPU_SHAPES[-1]
    needed = f"its reference needs {LM_HEAD_HOST_BYTES >> 30} GiB of this machine's memory"
    console.say(f"{rows}x{columns} is left out: {needed}")
    return GPU_SHAPES[:-1]


def host_bytes() -> int:
    """This machine's memory; 0 where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 0


def table(found: Sequence[Comparison]) -> Table:
    """All variants under one head, and below what has not passed and how the times were made."""
    if not found:
        return Table((), [], notes=["nothing was compared: no kernel takes these formats and shapes"])
    rows = []
    for each in found:
        both = (*each.results, *each.peers)
        rows += [[each.kernel, each.shape, *each.cells(result)] for result in both]
    timed = [each for each in found if each.fastest]
    notes = (timed or found)[0].legend()
    if len({each.rotated_bytes for each in timed if each.copies > 1}) > 1:
        least = min(each.rotated_bytes for each in timed)
        notes.append(f"copies differ from row to row, and are {least / 1e6:.2g} MB or more")
    for each in found:
        place = f"{each.kernel} {each.shape}"
        notes += [f"{place}: {line}" for line in each.standings()]
        notes += [
            f"{place}, {r.variant}: {r.status}: {r.detail}"
            for r in (*each.results, *each.peers)
            if r.status != PASSED
        ]
    return Table(["kernel", "shape", *found[0].head()], rows, "llllr", notes=["", *notes])
