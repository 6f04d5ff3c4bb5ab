"""What rounding is worth, and random tensors to measure it with."""

from __future__ import annotations

from collections.abc import Callable

import torch

EPS32 = 2.0**-24  # half a unit in the last place of 1.0, the relative error of one f32 rounding
EPS16 = 2.0**-11

TORCH_TYPES = {
    "f32": torch.float32,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "u32": torch.int32,
    "i8": torch.int8,
}


def random_tensor(generator: torch.Generator, shape: tuple[int, ...], dtype: str = "f32") -> torch.Tensor:
    """Standard normal numbers, rounded to `dtype`."""
    return torch.randn(shape, generator=generator).to(TORCH_TYPES[dtype])


#: Numbers of a piece that `by_rows` hands out: its copies in f64 stay within a few times 16 MB.
PIECE = 1 << 21


def by_rows(function: Callable[..., tuple], *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """What a function of tensors with as many rows gives, some rows at a time, put together again."""
    rows, width = tensors[0].shape
    step = max(1, PIECE // max(1, width))
    parts = [function(*(t[at : at + step] for t in tensors)) for at in range(0, rows, step)]
    return tuple(torch.cat(part) for part in zip(*parts, strict=True))


def type_name(tensor: torch.Tensor) -> str:
    """The project's name for a tensor's element type."""
    for name, dtype in TORCH_TYPES.items():
        if tensor.dtype == dtype:
            return name
    raise TypeError(f"{tensor.dtype} is not a type that kernels take")
