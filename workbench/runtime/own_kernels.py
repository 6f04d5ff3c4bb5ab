"""Kernels that a model runs in place of the registered ones: where they run, and the record of them."""

from __future__ import annotations

import hashlib
from typing import Any

from wgsl_kernels.library import Library
from workbench.errors import WorkbenchError


def where_used(executor: Any, library: Library, capacity: int) -> list[tuple[str, str, str]]:
    """For each variant that the library has and the registered kernels have not: (what, variant, where it runs).

    Raises WorkbenchError where none of them runs, since another kernel takes their place or the model has no such op.
    """
    steps = {
        what: executor.lowered(head, n, capacity).steps
        for what, head, n in (
            ("a decoded token", "greedy", 1),
            (f"a prefill of {executor.chunks[0]} tokens", "last", executor.chunks[0]),
        )
    }
    found, used = [], 0
    for kernel, variants in library.changed().items():
        for variant in variants:
            counts = {
                what: sum(each.kernel.name == kernel and each.variant == variant for each in all_)
                for what, all_ in steps.items()
            }
            used += sum(counts.values())
            said = ", ".join(f"{n} of {len(steps[what])} dispatches of {what}" for what, n in counts.items())
            found.append((kernel, variant, said))
    if not used:
        there = sorted({each.kernel.name for all_ in steps.values() for each in all_})
        names = ", ".join(library.changed()) or "nothing that is not registered"
        raise WorkbenchError(
            f"library changes {names}, and this model runs none of it; it runs {', '.join(there)}"
        )
    return found


def record(library: Library) -> dict[str, dict[str, str]]:
    """By pair and variant, the sha256 of the WGSL that is not the registered one; JSON values."""
    return {
        kernel: {name: hashlib.sha256(each.body().encode()).hexdigest() for name, each in variants.items()}
        for kernel, variants in library.changed().items()
    }
