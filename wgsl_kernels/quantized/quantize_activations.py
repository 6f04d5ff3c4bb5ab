"""Activations to INT8, by a scale found a block (dynamic) or given (static)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..layout import A8, INT8_BLOCK
from ..numerics import EPS32, random_tensor
from ..pair import Cost, Port, Variant, ceil_div, kernel
from ..weights import unpack


def _make_inputs(
    seed=0, tokens=3, width=64, block=32, static_scale=0.0, stride=1, x_dtype="f32", y_dtype="f32"
) -> dict:
    generator = torch.Generator().manual_seed(seed)
    return {
        "x": random_tensor(generator, (tokens, width), x_dtype),
        "block": block,
        "static_scale": static_scale,
        "stride": stride,
    }


def near_half(
    x: torch.Tensor, scales: torch.Tensor, block: int, error: float | torch.Tensor = 0.0
) -> torch.Tensor:
    """1 where x / scale lies on a half within its rounding, so that a quant may differ by one; else 0.

    x f64 [tokens, width], scales f64 [tokens, blocks] -> f64 [tokens, blocks * block]. error: of x, absolute, before
    it is quantized: a number or [tokens, width]. The scale is off by that of the block's largest, relatively.
    """
    blocks = scales.shape[1]

    def blocked(values: torch.Tensor) -> torch.Tensor:
        return F.pad(values, (0, blocks * block - x.shape[1])).view(-1, blocks, block)

    error = blocked(torch.as_tensor(error, dtype=torch.float64).expand(x.shape))
    steps = scales.clamp(min=1e-300).unsqueeze(-1)
    ratio = blocked(x) / steps
    relative = 8 * EPS32 + error.amax(-1, keepdim=True) / (127 * steps)
    reach = ratio.abs() * relative + error / steps + 1e-12
    return ((ratio - ratio.floor() - 0.5).abs() < reach).double().flatten(1)


def quantized_tolerance(
    x: torch.Tensor, scales: torch.Tensor, block: int, stride: int, error: float | torch.Tensor = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Bounds (of quants in the order of their words, of scales) where x f64 [tokens, width], off by `error`, is
    quantized. A scale is a division of the block's largest."""
    quants = _ordered(near_half(x, scales, block, error), stride)
    largest = torch.as_tensor(error, dtype=torch.float64).expand(x.shape)
    padded = F.pad(largest, (0, scales.shape[1] * block - x.shape[1])).view(*scales.shape, block)
    return quants, 4 * EPS32 * scales + padded.amax(-1) / 127


def _tolerance(arguments, expected) -> dict:
    x, scales = arguments["x"].double(), expected["scales"].double()
    quants, off = quantized_tolerance(
        x, scales, arguments.get("block", INT8_BLOCK), arguments.get("stride", 1)
    )
    return {"quants": quants, "scales": off}


def _ordered(q: torch.Tensor, stride: int) -> torch.Tensor:
    """Columns [tokens, width] in the order of the words' bytes: of each 4 * stride, j, j + stride, ... for each j."""
    return q.unflatten(1, (-1, 4, stride)).transpose(2, 3).flatten(1)


def _derive(s) -> dict:
    block = s.get("block", INT8_BLOCK)
    blocks = ceil_div(s["width"], block)
    return {"static_scale": 0.0, "stride": 1, "block": block, "words": blocks * block // 4, "blocks": blocks}


@kernel(
    reads={"x": Port(("tokens", "width"))},
    writes={
        "quants": Port(("tokens", "words"), "u32", packed=8, of="y"),
        "scales": Port(("tokens", "blocks"), "f32", of="y"),
    },
    form={"y": A8},
    values=lambda **given: rounded(**given),
    params={"block": int, "static_scale": float, "stride": int},
    variants={
        "blocks": Variant(
            "quantized/quantize_activations",
            grid=lambda c: (ceil_div(ceil_div(c["width"], c["block"]), 64), c["tokens"], 1),
        )
    },
    make_inputs=_make_inputs,
    tolerance=_tolerance,
    cost=lambda s: Cost(4 * s["tokens"] * s["width"], s["tokens"] * s["width"], 3 * s["tokens"] * s["width"]),
    derive=_derive,
)
def quantize_activations(x, block=INT8_BLOCK, static_scale=0.0, stride=1):
    """x [tokens, width] -> words of four INT8 [tokens, padded width / 4] and scales [tokens, blocks].

    q = clamp(round(x / scale), -127, 127); scale = max |x| / 127 of each block, or `static_scale` where it is > 0.
    A width that is not a multiple of `block` is padded with zeros. stride: of each 4 * stride columns, word j holds
    columns j, j + stride, j + 2 * stride and j + 3 * stride; `block` is a multiple of 4 * stride.
    """
    tokens, width = x.shape
    blocks = ceil_div(width, block)
    padded = F.pad(x, (0, blocks * block - width)).view(tokens, blocks, block)
    if static_scale > 0:
        scales = torch.full((tokens, blocks), static_scale, dtype=x.dtype)
    else:
        scales = padded.abs().amax(-1) / 127
    inverse = torch.where(scales > 0, 1 / scales, torch.zeros_like(scales)).unsqueeze(-1)
    q = (padded * inverse).round().clamp(-127, 127).to(torch.int64).flatten(1)
    q = _ordered(q, stride)
    lanes = (q & 255).view(tokens, -1, 4) << torch.tensor([0, 8, 16, 24])
    words = lanes.sum(-1)
    return torch.where(words > 2**31 - 1, words - 2**32, words).to(torch.int32), scales


def rounded(x, block=INT8_BLOCK, static_scale=0.0) -> torch.Tensor:
    """x [tokens, width] in INT8 and back, in its own type."""
    words, scales = quantize_activations.reference(x, block, static_scale)
    q = unpack_activations(words).to(scales.dtype).unflatten(1, (-1, block))
    return (q * scales.unsqueeze(-1)).flatten(1)[:, : x.shape[1]]


def unpack_activations(words: torch.Tensor, stride: int = 1) -> torch.Tensor:
    """Words [tokens, padded width / 4] -> signed numbers [tokens, padded width] in their natural order."""
    return unpack(words, 8).unflatten(1, (-1, stride, 4)).transpose(2, 3).flatten(1)
