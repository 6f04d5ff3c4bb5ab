"""Activations to INT8, by a scale found a block (dynamic) or given (static)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .numerics import EPS32, random_tensor
from .pair import Cost, Port, Variant, ceil_div, kernel
from .weights import unpack


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


def _tolerance(arguments, expected) -> dict:
    """Scales are one division; a quant may differ by one only where x / scale lies on a half within its rounding."""
    x, block = arguments["x"].double(), arguments["block"]
    blocks = ceil_div(x.shape[1], block)
    scales = expected["scales"].double()
    ratio = F.pad(x, (0, blocks * block - x.shape[1])).view(-1, blocks, block) / scales.clamp(
        min=1e-300
    ).unsqueeze(-1)
    near_half = ((ratio - ratio.floor() - 0.5).abs() < 8 * EPS32 * ratio.abs() + 1e-12).double().flatten(1)
    near_half = _ordered(near_half, arguments.get("stride", 1))
    return {"quants": near_half, "scales": 4 * EPS32 * scales}


def _ordered(q: torch.Tensor, stride: int) -> torch.Tensor:
    """Columns [tokens, width] in the order of the words' bytes: of each 4 * stride, j, j + stride, ... for each j."""
    return q.unflatten(1, (-1, 4, stride)).transpose(2, 3).flatten(1)


@kernel(
    reads={"x": Port(("tokens", "width"))},
    writes={"quants": Port(("tokens", "words"), "u32"), "scales": Port(("tokens", "blocks"), "f32")},
    params={"block": int, "static_scale": float, "stride": int},
    variants={
        "blocks": Variant(
            "quantize_activations",
            grid=lambda c: (ceil_div(ceil_div(c["width"], c["block"]), 64), c["tokens"], 1),
        )
    },
    make_inputs=_make_inputs,
    tolerance=_tolerance,
    cost=lambda s: Cost(4 * s["tokens"] * s["width"], s["tokens"] * s["width"], 3 * s["tokens"] * s["width"]),
    derive=lambda s: {
        "static_scale": 0.0,
        "stride": 1,
        "words": ceil_div(s["width"], s["block"]) * s["block"] // 4,
        "blocks": ceil_div(s["width"], s["block"]),
    },
)
def quantize_activations(x, block, static_scale=0.0, stride=1):
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


def unpack_activations(words: torch.Tensor, stride: int = 1) -> torch.Tensor:
    """Words [tokens, padded width / 4] -> signed numbers [tokens, padded width] in their natural order."""
    return unpack(words, 8).unflatten(1, (-1, stride, 4)).transpose(2, 3).flatten(1)
