"""Comparing what a kernel wrote with its reference, which is computed in f64 from the same stored values."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from wgsl_kernels import Kernel
from wgsl_kernels.numerics import EPS16
from wgsl_kernels.weights import unpack

#: Half a step between f16 numbers near zero.
TINY16 = 2.0**-25
SHOWN = 5


def doubles(arguments: Mapping) -> dict:
    """The same arguments with floating-point tensors in f64, which holds their stored values exactly."""
    return {
        name: value.double() if isinstance(value, torch.Tensor) and value.dtype.is_floating_point else value
        for name, value in arguments.items()
    }


def expectation(kernel: Kernel, arguments: Mapping) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Output -> (expected numbers, bound of the absolute error), both f64, before rounding of the output."""
    expected = kernel.run_reference(doubles(arguments))
    bounds = kernel.tolerance(arguments, expected)
    return {
        name: (comparable(kernel, name, expected[name]), bounds[name].double().expand(bounds[name].shape))
        for name in expected
    }


def comparable(kernel: Kernel, output: str, tensor: torch.Tensor) -> torch.Tensor:
    """An output as f64 numbers; packed quants become one number each."""
    if kernel.name == "quantize_activations" and output == "quants":
        tensor = unpack(tensor, 8)
    return tensor.double()


def widen(expected: torch.Tensor, bound: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The bound with the rounding of an output to `dtype` added."""
    if dtype != torch.float16:
        return bound
    return bound + EPS16 * (expected.abs() + bound) + TINY16


def mismatches(got: torch.Tensor, expected: torch.Tensor, bound: torch.Tensor) -> str | None:
    """None if |got - expected| <= bound everywhere; else how many are off, the first, the worst ratio."""
    if got.shape != expected.shape:
        return f"shape {tuple(got.shape)} where {tuple(expected.shape)} is expected"
    error = (got - expected).abs()
    off = ~(error <= bound)  # a NaN is off
    if not off.any():
        return None
    ratio = (error / bound.clamp(min=1e-300)).nan_to_num(nan=float("inf"))
    first = [
        f"    {at}: got {got[at]:.9g}, expected {expected[at]:.9g}, bound {bound[at]:.3g}"
        for at in map(tuple, off.nonzero()[:SHOWN].tolist())
    ]
    return "\n".join(
        [f"{int(off.sum())} of {off.numel()} are off, max error over bound {ratio.max():.3g}; first:", *first]
    )
