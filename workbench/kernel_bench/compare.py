"""Comparing a kernel's variants with its PyTorch reference, and timing those that give its numbers.

Weights take turns, and each dispatch of a timing waits for the one before, as in a model (see
`workbench.runtime.rotation`).
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from wgsl_kernels import Kernel, KernelUsageError
from wgsl_kernels.judge import Expectation
from workbench.known import known
from workbench.runtime.device import Device, open_device
from workbench.runtime.launch import Workload, resolve
from workbench.runtime.provenance import surroundings
from workbench.runtime.rotation import Rotation
from workbench.runtime.timing import measure

from .comparison import PASSED, Comparison
from .judging import judge_variant
from .peers import check_names, open_peers
from .peers.layer import layer_of

ROUNDS = 7
#: Seconds that one call may take.
BUDGET = 30.0


def compare(  # many parameters: the options of a measurement, each of its own
    kernel: Kernel | str,
    seed: int = 0,
    variants: Sequence[str] | None = None,
    *,
    y_dtype: str = "f32",
    rounds: int = ROUNDS,
    timestamps: bool | None = None,
    copies: int | None = None,
    read_ceiling: float | None = None,
    compute_ceilings: Mapping[str, float] | None = None,
    peers: Sequence[str] = (),
    budget: float | None = BUDGET,
    device: Device | None = None,
    **sizes: Any,
) -> Comparison:
    """Run variants of a kernel on random inputs, check each against the reference in f64, time those that pass.

        found = workbench.compare("linear[int4]", tokens=1, n=256, k=256, block=128)
        found.table().latex()

    kernel: a pair or a name. variants: names (default: all). sizes: what `Kernel.inputs` takes, such as tokens, n, k
    (or rows, columns), block. y_dtype: of float outputs. rounds: samples a variant, 0 to time nothing. timestamps:
    False forces the wall clock. copies: of the weights, that take turns; by default enough to exceed a GPU's cache,
    and one on a CPU. read_ceiling: bytes a second to compare the bandwidth with; compute_ceilings: operations a
    second by arithmetic (see ceilings.py). peers: of "torch" and "onnxruntime", whose kernels for the same weights
    are checked and timed in the same rounds. budget: seconds that one call may take, None for any; sources of one's
    own are tried in another process first, since one that never ends cannot be stopped.
    Raises `KernelUsageError` for names and sizes that the kernel does not have, `NoAdapterError`, and WorkbenchError
    for an unknown peer.
    """
    check_names(peers)
    kernel, device = resolve(kernel), device or open_device()
    names = list(variants if variants is not None else kernel.variants)
    if unknown := [name for name in names if name not in kernel.variants]:
        raise KernelUsageError(
            f"{kernel.name} has no variant {unknown[0]!r}; it has {', '.join(kernel.variants)}"
        )
    workload = Workload.random(kernel, seed, y_dtype, **sizes)
    sizes, types = workload.sizes, workload.types  # of wrong inputs before anything runs
    expected = Expectation(kernel, workload.arguments)
    judged = [judge_variant(workload, name, expected.of(name), device, budget) for name in names]
    passed = [known(compiled) for compiled, result in judged if result.status == PASSED]
    rotated, timings = 0, []
    with ExitStack() as stack:
        others = []
        if peers:
            layer = layer_of(kernel, workload.arguments, expected.values.get("y"))
            others = open_peers(peers, layer, kernel.name, device.adapter.is_cpu, stack)
        opened = [candidate for _, candidate in others if candidate is not None]
        if passed and rounds > 0:
            with Rotation(device, kernel, workload.arrays, copies) as inputs:
                recorders = inputs.recorders(passed)
                timings = measure(device, recorders, rounds=rounds, timestamps=timestamps, beside=opened)
                copies, rotated = inputs.copies, inputs.nbytes
    mine = dict(zip((each.variant for each in passed), timings, strict=False))
    rest = iter(timings[len(passed) :])
    return Comparison(
        kernel=kernel.name,
        seed=seed,
        sizes=sizes,
        types=types,
        device=device.name,
        label="CPU" if device.adapter.is_cpu else "GPU",
        results=tuple(dataclasses.replace(r, timing=mine.get(r.variant)) for _, r in judged),
        peers=tuple(each.finished(r, next(rest, None)) if each else r for r, each in others),
        reference_source=reference_source(kernel),
        copies=copies or 1,
        rotated_bytes=rotated,
        provenance=surroundings(device),
        read_ceiling=read_ceiling,
        compute_ceilings=dict(compute_ceilings or {}),
    )


def reference_source(kernel: Kernel) -> str:
    """The source of the function that is the reference; its signature where the source is not available."""
    function = kernel.reference
    while isinstance(function, functools.partial):
        function = function.func
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        return f"{getattr(function, '__name__', function)}{inspect.signature(function)}: its source is not at hand"
