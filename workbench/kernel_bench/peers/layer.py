"""A linear layer as peers take it: the same activations, quants, scales and zero-points as the WGSL kernel reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from wgsl_kernels import Kernel
from wgsl_kernels.layout import A8
from wgsl_kernels.linear.linear_a8 import dequantize_activations
from wgsl_kernels.weights import BITS, dequantize_planes, is_quantized


@dataclass(frozen=True)
class Layer:
    """y = x W^T. x [tokens, columns] f32, weight [rows, columns] f32 (dequantized), expected [tokens, rows] f64.

    Of integer weights also words [rows, columns * bits / 32] (lowest bits first), scales [rows, columns / block] f32
    and zeros of the same shape, in the format's own numbers (INT8 signed), None where they are implied; or offsets.
    """

    format: str
    x: torch.Tensor
    weight: torch.Tensor
    expected: torch.Tensor
    block: int = 0
    words: torch.Tensor | None = None
    scales: torch.Tensor | None = None
    zeros: torch.Tensor | None = None
    offsets: torch.Tensor | None = None
    fractional_zeros: bool = False

    @property
    def bits(self) -> int:
        return BITS[self.format]

    @property
    def tokens(self) -> int:
        return self.x.shape[0]

    @property
    def rows(self) -> int:
        return self.weight.shape[0]

    @property
    def columns(self) -> int:
        return self.weight.shape[1]


def layer_of(kernel: Kernel, arguments: Mapping, expected: torch.Tensor | None) -> Layer | None:
    """The layer that a call of a linear kernel computes; None for other kernels and for parts of a layer."""
    if kernel.op != "linear" or expected is None or {"bias", "residual", "out_rows"} & set(arguments):
        return None
    fmt = kernel.form["weight"]
    if kernel.form.get("x") == A8:
        columns = arguments["columns"]
        x = dequantize_activations(fmt, arguments["x"], arguments["x_scales"], columns)
    else:
        x = arguments["x"].float()
        columns = x.shape[1]
    weight = dequantize_planes(fmt, arguments, columns).float()
    if not is_quantized(fmt):
        return Layer(fmt, x, weight, expected)
    block, unit = arguments["block"], arguments.get("zero_unit", 1.0)
    shape = (weight.shape[0], -(-columns // block))
    zeros, offsets = arguments.get("zeros"), arguments.get("offsets")
    return Layer(
        fmt,
        x,
        weight,
        expected,
        block,
        arguments["quants"],
        arguments["scales"].float().expand(shape),
        None if zeros is None else (zeros.float() * unit).expand(shape),
        None if offsets is None else offsets.float().expand(shape),
        unit != 1.0,
    )
