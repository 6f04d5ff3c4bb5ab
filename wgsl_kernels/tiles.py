"""What WebGPU promises a workgroup, and why a tile would not fit into it."""

from __future__ import annotations

#: Invocations of a workgroup, and bytes of its memory, that every WebGPU device has at least.
MOST_THREADS = 256
WORKGROUP_BYTES = 16384


def beyond_a_workgroup(threads: int, nbytes: int) -> str | None:
    """Why so many threads with so much workgroup memory cannot run everywhere, or None."""
    if threads > MOST_THREADS:
        return f"{threads} threads are more than {MOST_THREADS}"
    if nbytes > WORKGROUP_BYTES:
        return f"{nbytes} bytes of workgroup memory are more than {WORKGROUP_BYTES}"
    return None
