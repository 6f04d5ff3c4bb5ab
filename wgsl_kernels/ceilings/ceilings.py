"""What a device gives at most: pairs that no plan calls and no name lists.

`READ_SWEEP` and `COPY` move memory, `FMA_F32`, `FMA_F16` and `DP4A` compute. Other kernels' bandwidths and rates are
shares of what these reach on the same device in the same run.
"""

from __future__ import annotations

from functools import partial

import torch

from ..pair import Cost, Kernel, Port, Variant

#: Loads of 16 bytes a thread of the sweep: many threads with few loads each, or fewer with more.
FEW_STEPS, MANY_STEPS = 8, 32
SWEEP_STEPS = (FEW_STEPS, MANY_STEPS)
SWEEP_WORKGROUPS = (64, 128, 256)
#: Numbers of words that sweep and copy take are multiples of this: full workgroups of 256 threads.
UNIT = 256 * MANY_STEPS * 4
#: Threads of the pairs that compute are multiples of a workgroup; numbers a thread works on.
COMPUTE_UNIT, COMPUTE_WIDTH = 256, 16
#: The largest number that f16 counts to in ones, less what the pairs start from.
MOST_STEPS = 2048 - 64


def _words(generator: torch.Generator, count: int) -> torch.Tensor:
    return torch.randint(-(2**31), 2**31 - 1, (count,), generator=generator, dtype=torch.int32)


def _wrapped(sums: torch.Tensor) -> torch.Tensor:
    """i64 modulo 2^32 as the i32 with the same bits."""
    sums = sums & 0xFFFFFFFF
    return torch.where(sums > 2**31 - 1, sums - 2**32, sums).to(torch.int32)


def _sweep_inputs(seed=0, elements=UNIT, steps=MANY_STEPS) -> dict:
    if elements % UNIT:
        raise ValueError(f"elements = {elements} is not a multiple of {UNIT}")
    if steps not in SWEEP_STEPS:
        raise ValueError(f"steps = {steps} is none of {SWEEP_STEPS}")
    return {"x": _words(torch.Generator().manual_seed(seed), elements), "steps": steps}


def _copy_inputs(seed=0, elements=UNIT) -> dict:
    return {"x": _sweep_inputs(seed, elements)["x"]}


def _sums(x, steps):
    """x [elements] words -> sums [threads] modulo 2^32; thread t adds the vectors of four t, t + threads, ..."""
    return _wrapped(x.view(steps, -1, 4).sum((0, 2), dtype=torch.int64))


def _copy(x):
    """y = x, words."""
    return x.clone()


def _sweep(workgroup: int, loads: int) -> Variant:
    return Variant(
        "ceilings/read_sweep" if loads == 4 else f"ceilings/read_sweep_{loads}",
        grid=lambda c: (c["threads"] // workgroup, 1, 1),
        tunables={"workgroup": (workgroup,)},
        refuse=lambda c: "more than 65535 workgroups" if c["threads"] // workgroup > 65535 else None,
        why=f"{loads} loads in flight, {workgroup} threads a workgroup",
    )


READ_SWEEP = Kernel(
    op="read_sweep",
    reference=_sums,
    reads={"x": Port(("elements",), "u32")},
    writes={"sums": Port(("threads",), "u32")},
    variants={
        f"{loads} loads x {workgroup}": _sweep(workgroup, loads)
        for loads in (4, 8)
        for workgroup in SWEEP_WORKGROUPS
    },
    make_inputs=_sweep_inputs,
    tolerance=lambda arguments, expected: {"sums": torch.zeros(expected["sums"].shape)},
    cost=lambda s: Cost(4 * s["elements"], s["elements"] / s["steps"], 0),
    params={"steps": int},
    derive=lambda s: {"threads": s["elements"] // (4 * s["steps"])},
)

COPY = Kernel(
    op="copy",
    reference=_copy,
    reads={"x": Port(("elements",), "u32")},
    writes={"y": Port(("elements",), "u32")},
    variants={"copy": Variant("ceilings/copy", grid=lambda c: (c["elements"] // 4096, 1, 1))},
    make_inputs=_copy_inputs,
    tolerance=lambda arguments, expected: {"y": torch.zeros(expected["y"].shape)},
    cost=lambda s: Cost(4 * s["elements"], 4 * s["elements"], 0),
)


def _check_compute(threads: int, steps: int) -> None:
    if threads % COMPUTE_UNIT or steps % 4 or not 0 < steps <= MOST_STEPS:
        raise ValueError(
            f"threads = {threads} is a multiple of {COMPUTE_UNIT}, steps = {steps} one of 4 up to {MOST_STEPS}"
        )


def _float_inputs(dtype: torch.dtype, seed=0, threads=COMPUTE_UNIT, steps=64) -> dict:
    """Small whole numbers, which stay exact in both types; y = x + 1, over and over."""
    _check_compute(threads, steps)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(-8, 9, (threads,), generator=generator).to(dtype)
    return {"x": x, "factors": torch.tensor([1.0, 1.0], dtype=dtype), "steps": steps}


def _multiply_adds(x, factors, steps):
    """x [threads] -> y [threads]: the sum of 16 numbers, four each of x, x + 1, x + 2 and x + 3, after `steps` times
    v = v * factors[0] + factors[1], where factors[0] is 1."""
    if factors[0] != 1:
        raise ValueError("the closed form is that of a factor of 1")
    last = x.unsqueeze(-1) + torch.arange(4, dtype=x.dtype) + steps * factors[1]
    return 4 * last.sum(-1)


def _multiply_add(name: str, dtype: torch.dtype, port: str) -> Kernel:
    return Kernel(
        op=name,
        reference=_multiply_adds,
        reads={"x": Port(("threads",), port), "factors": Port((2,), port)},
        writes={"y": Port(("threads",), "f32")},
        variants={"vectors": Variant(f"ceilings/{name}", grid=lambda c: (c["threads"] // 256, 1, 1))},
        make_inputs=partial(_float_inputs, dtype),
        tolerance=lambda arguments, expected: {"y": torch.zeros(expected["y"].shape)},
        cost=lambda s: Cost(
            4 * s["threads"], 4 * s["threads"], 2 * COMPUTE_WIDTH * s["steps"] * s["threads"]
        ),
        params={"steps": int},
    )


def _dot_inputs(seed=0, threads=COMPUTE_UNIT, steps=64) -> dict:
    """Few different words, since the reference takes each step by itself."""
    _check_compute(threads, steps)
    generator = torch.Generator().manual_seed(seed)
    words = _words(generator, 64).repeat(threads // 64)
    return {"x": words, "factor": _words(generator, 1), "steps": steps}


def _lanes(words: torch.Tensor) -> torch.Tensor:
    """i64 words -> their four signed bytes [..., 4]."""
    lanes = (words.unsqueeze(-1) >> torch.tensor([0, 8, 16, 24])) & 255
    return torch.where(lanes > 127, lanes - 256, lanes)


def _dot_products(x, factor, steps):
    """x [threads] words -> y [threads] modulo 2^32: the sum of the 16 words x, x + 1, ... after `steps` times
    v = v + dot(bytes of v, bytes of factor)."""
    different, places = x.to(torch.int64).unique(return_inverse=True)
    v = different.unsqueeze(-1) + torch.arange(COMPUTE_WIDTH)
    m = _lanes(factor.to(torch.int64))
    for _ in range(steps):
        v = (v + (_lanes(v) * m).sum(-1)) & 0xFFFFFFFF
    return _wrapped(v.sum(-1))[places]


FMA_F32 = _multiply_add("fma_f32", torch.float32, "f32")
FMA_F16 = _multiply_add("fma_f16", torch.float16, "float")
DP4A = Kernel(
    op="dp4a",
    reference=_dot_products,
    reads={"x": Port(("threads",), "u32"), "factor": Port((1,), "u32")},
    writes={"y": Port(("threads",), "u32")},
    variants={"vectors": Variant("ceilings/dp4a", grid=lambda c: (c["threads"] // 256, 1, 1))},
    make_inputs=_dot_inputs,
    tolerance=lambda arguments, expected: {"y": torch.zeros(expected["y"].shape)},
    cost=lambda s: Cost(4 * s["threads"], 4 * s["threads"], 8 * COMPUTE_WIDTH * s["steps"] * s["threads"]),
    params={"steps": int},
)

#: The pairs that compute, by what their operations are called.
COMPUTE = {"f32 FMA": FMA_F32, "f16 FMA": FMA_F16, "DP4A": DP4A}
