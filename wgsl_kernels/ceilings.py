"""What a device's memory gives at most: `READ_SWEEP` and `COPY`, pairs that no plan calls and no name lists.

Other kernels' bandwidths are shares of what these reach on the same device in the same run.
"""

from __future__ import annotations

import torch

from .pair import Cost, Kernel, Port, Variant

#: Loads of 16 bytes a thread of the sweep.
STEPS = 32
#: Numbers of words that both pairs take are multiples of this: workgroups of 256 threads, all of them full.
UNIT = 256 * STEPS * 4


def _make_inputs(seed=0, elements=UNIT) -> dict:
    if elements % UNIT:
        raise ValueError(f"elements = {elements} is not a multiple of {UNIT}")
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(-(2**31), 2**31 - 1, (elements,), generator=generator, dtype=torch.int32)
    return {"x": words}


def _sums(x):
    """x [elements] words -> sums [threads] modulo 2^32; thread t adds the vectors of four t, t + threads, ..."""
    sums = x.view(STEPS, -1, 4).sum((0, 2), dtype=torch.int64) & 0xFFFFFFFF
    return torch.where(sums > 2**31 - 1, sums - 2**32, sums).to(torch.int32)


def _copy(x):
    """y = x, words."""
    return x.clone()


READ_SWEEP = Kernel(
    name="read_sweep",
    reference=_sums,
    reads={"x": Port(("elements",), "u32")},
    writes={"sums": Port(("threads",), "u32")},
    variants={"sweep": Variant("read_sweep", grid=lambda c: (c["threads"] // 256, 1, 1))},
    make_inputs=_make_inputs,
    tolerance=lambda arguments, expected: {"sums": torch.zeros(expected["sums"].shape)},
    cost=lambda s: Cost(4 * s["elements"], 4 * s["elements"] / (4 * STEPS), 0),
    derive=lambda s: {"threads": s["elements"] // (4 * STEPS), "steps": STEPS},
)

COPY = Kernel(
    name="copy",
    reference=_copy,
    reads={"x": Port(("elements",), "u32")},
    writes={"y": Port(("elements",), "u32")},
    variants={"copy": Variant("copy", grid=lambda c: (c["elements"] // 4096, 1, 1))},
    make_inputs=_make_inputs,
    tolerance=lambda arguments, expected: {"y": torch.zeros(expected["y"].shape)},
    cost=lambda s: Cost(4 * s["elements"], 4 * s["elements"], 0),
)
