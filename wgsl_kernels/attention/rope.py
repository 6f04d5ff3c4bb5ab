"""Rotary position embedding (Su et al. 2021), in the half-split form of most checkpoints or interleaved; its angles.

`inverse_frequencies` covers the scalings that Llama models use: default, linear (position interpolation, Chen et
al. 2023) and llama3 (frequency bands, Llama 3.1). The kernel reads a table of cosines and sines.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch

from ..makers import handing_on
from ..numerics import EPS32, random_tensor
from ..pair import Cost, KernelUsageError, Port, Variant, ceil_div, kernel
from ..state import STATE, rows_state


def inverse_frequencies(head_dim: int, theta: float, scaling: Mapping | None = None) -> np.ndarray:
    """Angle a position of each pair, f32 [head_dim / 2]; raises `ValueError` for an unknown scaling.

    scaling: None, or a mapping with `rope_type` (`type` in older files) "default", "linear" with `factor`, or
    "llama3" with `factor`, `low_freq_factor`, `high_freq_factor`, `original_max_position_embeddings`.
    """
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    frequencies = (1.0 / np.power(np.float32(theta), exponents)).astype(np.float32)
    scaling = scaling or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "default":
        return frequencies
    if kind == "linear":
        return frequencies / np.float32(scaling["factor"])
    if kind == "llama3":
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        context = scaling["original_max_position_embeddings"]
        wavelengths = 2 * math.pi / frequencies
        smooth = (context / wavelengths - low) / (high - low)
        blended = (1 - smooth) * frequencies / scaling["factor"] + smooth * frequencies
        scaled = np.where(wavelengths > context / low, frequencies / scaling["factor"], frequencies)
        medium = (wavelengths <= context / low) & (wavelengths >= context / high)
        return np.where(medium, blended, scaled).astype(np.float32)
    raise ValueError(f"rope scaling {kind!r} is not known; default, linear and llama3 are")


def rope_table(frequencies: np.ndarray, positions: int) -> np.ndarray:
    """Cosines, then sines, f32 [positions, head_dim]. Angles are rounded to f32, as in Llama's own code."""
    angles = np.arange(positions, dtype=np.float32)[:, None] * frequencies[None, :]
    angles = angles.astype(np.float64)
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def head_dim_of(s: Mapping) -> dict:
    """Sizes of a call that rotates: head_dim = rotated + passed, once `rotated` is known.

    Raises `KernelUsageError` where another operand has heads of another size.
    """
    if "rotated" not in s:
        return {}
    passed = s.get("passed", 0)
    found = s["rotated"] + passed
    if s.get("head_dim", found) != found:
        raise KernelUsageError(
            f"heads of {s['head_dim']} where {s['rotated']} dimensions are rotated and {passed} passed"
        )
    return {"head_dim": found}


def rope_inputs(  # many parameters: one for each option of `Kernel.inputs`
    seed=0,
    tokens=3,
    heads=2,
    head_dim=16,
    passed=0,
    positions=32,
    position=5,
    sequences=2,
    scattered=False,
    x_dtype="f32",
    y_dtype="f32",
) -> dict:
    """Random x, the table of head_dim - passed dimensions, and a state: of one run, or rows of all sequences."""
    generator = torch.Generator().manual_seed(seed)
    rows = {"capacity": positions, "position": position, "sequences": sequences, "scattered": scattered}
    return {
        "x": random_tensor(generator, (tokens, heads * head_dim), x_dtype),
        "table": random_table(head_dim - passed, positions),
        "state": rows_state(seed, tokens, **rows),
        "passed": passed,
    }


def random_table(rotated: int, positions: int) -> torch.Tensor:
    """The table of some embedding of so many dimensions."""
    return torch.from_numpy(rope_table(inverse_frequencies(rotated, 10000.0), positions))


def _make_inputs(interleaved=False, back_to=0, **options) -> dict:
    return {**rope_inputs(**options), "interleaved": interleaved, "back_to": back_to}


def paired(bound: torch.Tensor, rotated: int, head_dim: int, interleaved: bool = False) -> torch.Tensor:
    """For bounds of the entries of x [tokens, width] the sum of those that are turned into each other."""
    turned, passed = bound.unflatten(-1, (-1, head_dim)).split([rotated, head_dim - rotated], -1)
    a, b = pairs_of(turned, interleaved)
    return torch.cat([joined(a + b, a + b, interleaved), passed], -1).flatten(-2)


def pairs_of(x: torch.Tensor, interleaved: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Both of each pair of x [..., rotated]: of its halves, or of neighbours."""
    if interleaved:
        return x[..., ::2], x[..., 1::2]
    first, second = x.chunk(2, dim=-1)
    return first, second


def joined(a: torch.Tensor, b: torch.Tensor, interleaved: bool) -> torch.Tensor:
    """The inverse of `pairs_of`."""
    return torch.stack([a, b], -1).flatten(-2) if interleaved else torch.cat([a, b], dim=-1)


def _tolerance(arguments, expected) -> dict:
    rotated = arguments["table"].shape[1]
    pairs = paired(
        arguments["x"].double().abs(),
        rotated,
        rotated + arguments.get("passed", 0),
        arguments.get("interleaved", False),
    )
    return {"y": 4 * EPS32 * pairs + 1e-30}


@kernel(
    reads={"x": Port(("tokens", "width")), "table": Port(("positions", "rotated"), "f32"), "state": STATE},
    writes={"y": Port(("tokens", "width"))},
    params={"passed": int, "interleaved": bool, "back_to": int},
    defaults={"passed": 0, "interleaved": False, "back_to": 0},
    derive=head_dim_of,
    variants={
        "pairs": Variant(
            "attention/rope",
            grid=lambda c: (
                ceil_div(c["width"] // c["head_dim"] * (c["rotated"] // 2 + c["passed"]), 64),
                c["tokens"],
                1,
            ),
        )
    },
    make_inputs=handing_on(_make_inputs, rope_inputs),
    tolerance=_tolerance,
    cost=lambda s: Cost(
        4 * s["tokens"] * s["width"], 4 * s["tokens"] * s["width"], 3 * s["tokens"] * s["width"]
    ),
)
def rope(x, table, state, passed=0, interleaved=False, back_to=0):
    """Rotate x [tokens, heads * head_dim]: token t stands at position state[t, 0]; table [positions, rotated].

    passed: dimensions at the end of each head that stay as they are (partial rotation), head_dim = rotated + passed.
    interleaved: pairs are neighbours (2i, 2i + 1), as in Llama 4, instead of (i, i + rotated / 2).
    back_to: x is rotated already, and what stands behind this position is turned back to it; 0 for x that is not.
    """
    tokens, width = x.shape
    last, rotated = table.shape[0] - 1, table.shape[1]
    positions = state[:, 0].long()
    positions = (positions - back_to).clamp(min=0, max=last) if back_to else positions.clamp(max=last)
    cos, sin = table.to(x.dtype)[positions].unsqueeze(1).chunk(2, dim=-1)
    sin = -sin if back_to else sin
    turned, rest = x.view(tokens, -1, rotated + passed).split([rotated, passed], dim=-1)
    a, b = pairs_of(turned, interleaved)
    turned = joined(a * cos - b * sin, b * cos + a * sin, interleaved)
    return torch.cat([turned, rest], dim=-1).reshape(tokens, width)
