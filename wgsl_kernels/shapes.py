"""Shapes of what a kernel is called with, matched with the names that its ports give them."""

from __future__ import annotations

from collections.abc import Mapping

from .pair import Kernel, KernelUsageError


def sizes_of(kernel: Kernel, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """The length of every name in the shapes of a kernel's ports, from concrete shapes by port.

    Raises `KernelUsageError` naming the first mismatch, a port that is missing, and two that exclude each other.
    """
    sizes: dict[str, int] = {}
    for name, shape in shapes.items():
        port = kernel.reads.get(name) or kernel.writes.get(name)
        if port is None:
            allowed = ", ".join([*kernel.reads, *kernel.writes])
            raise KernelUsageError(f"{kernel.name} has no port {name!r}; it has {allowed}")
        if len(shape) != len(port.shape):
            raise KernelUsageError(
                f"{kernel.name}.{name}: shape {tuple(shape)} where {port.shape} is expected"
            )
        for label, length in zip(port.shape, shape, strict=True):
            expected = label if isinstance(label, int) else sizes.setdefault(label, int(length))
            if expected != length:
                raise KernelUsageError(
                    f"{kernel.name}.{name}: {label} is {length} here and {expected} elsewhere ({dict(shapes)})"
                )
    missing = [n for n, p in kernel.reads.items() if not p.optional and n not in shapes]
    if missing:
        raise KernelUsageError(f"{kernel.name} needs {', '.join(missing)}")
    taken: dict[int, str] = {}
    for name, number in kernel.bindings().items():
        if name in shapes and taken.setdefault(number, name) != name:
            raise KernelUsageError(f"{kernel.name} takes {taken[number]} or {name}, not both")
    return sizes
