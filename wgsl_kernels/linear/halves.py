"""f16 arithmetic in products of integer weights with f16 activations, for few tokens: variants made from those in f32.

A weight less its format's implied zero-point is exact in f16. Products round to f16, and so do sums of the few that a
thread adds up within a piece of a row; what pieces add up to is f32 as elsewhere. Where all activations of a piece have
16,376 or more, a quarter of what f16 holds, such a sum may overflow.

Products behind a norm stay in f32: in a model they read the residual stream, which is f32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch

from ..numerics import EPS16
from ..pair import Context, Variant
from ..weights import dequantize_planes, is_quantized


def _library(variant: Variant, context: Context) -> tuple[str, ...]:
    return tuple(f"{n}_in_f16" if n.startswith("pieces/") else n for n in variant.library(context))


def _refuse(variant: Variant, context: Context) -> str | None:
    if context.types["x"] != "f16":
        return "it multiplies f16 activations, and these are f32"
    if context["columns"] % 8:
        return f"{context['columns']} columns are not a multiple of 8"
    return variant.refuse(context)


def in_f16(variant: Variant, tolerance: Callable[..., dict]) -> Variant:
    """`variant`, a product with integer weights in f32, in f16 arithmetic. tolerance: its errors' bounds."""
    return replace(
        variant,
        library=lambda c: _library(variant, c),
        refuse=lambda c: _refuse(variant, c),
        tolerance=tolerance,
        why=f"{variant.why}; f16 activations, fewer operations than in f32",
    )


def pays(fmt: str, variant: str, context: Context) -> bool:
    """Whether `variant` is faster in f16 arithmetic where nothing was measured: with f16 activations on a GPU, but not
    for INT8 and one token, which waits for its weights either way (H100)."""
    if not is_quantized(fmt) or (fmt, variant) == ("int8", "gemv"):
        return False
    adapter = context.adapter
    f16 = adapter.f16 and context.types.get("x") == "f16" and context["columns"] % 8 == 0
    return f16 and not adapter.is_cpu


def bound(fmt: str, x: torch.Tensor, planes: Mapping) -> torch.Tensor:
    """Bound of the error that f16 arithmetic adds to x W^T, f64 [tokens, rows]; x f64 [tokens, columns].

    For numbers that do not repeat along a row: errors of equal products add up instead. Rounding errors are taken as
    independent (Higham and Mary 2019, "A new approach to probabilistic rounding error analysis"): one of relative size
    u = 2^-11 has a variance of at most u^2 / 3 of the square of the partial sum it hits. Of n products of one sign and
    size these squares are 1, 4, ... n^2 of a product's, and each product rounds once itself: with n = 8 at most, a
    standard deviation of 3 u sqrt(sum of the squares of all products). Six of them are allowed. Where f16 has no
    smaller numbers its errors stay as they are at 2^-14: a thousandth of a weight's step and of x stand for that.
    """
    columns = x.shape[1]
    parts = {name: value for name, value in planes.items() if name not in ("zeros", "offsets")}
    centred = dequantize_planes(fmt, parts, columns, dtype=torch.float64)
    zero = (dequantize_planes(fmt, planes, columns, dtype=torch.float64) - centred).abs()
    one = torch.full_like(planes["scales"].double(), -1.0 / planes.get("zero_unit", 1.0))
    step = dequantize_planes(
        fmt,
        {**parts, "quants": torch.zeros_like(parts["quants"]), "zeros": one},
        columns,
        dtype=torch.float64,
    )
    squares = (x.abs() + 2.0**-10).square() @ (centred.abs() + zero + 2.0**-10 * step).square().T
    return 18 * EPS16 * squares.sqrt()
