"""What rounding is worth, and random tensors to measure it with."""

from __future__ import annotations

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


def type_name(tensor: torch.Tensor) -> str:
    """The project's name for a tensor's element type."""
    for name, dtype in TORCH_TYPES.items():
        if tensor.dtype == dtype:
            return name
    raise TypeError(f"{tensor.dtype} is not a type that kernels take")
