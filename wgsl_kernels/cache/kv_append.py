"""Appending keys and values to the cache, in place."""

from __future__ import annotations

import torch

from ..attention.rope import STATE, make_state
from ..numerics import TORCH_TYPES, random_tensor
from ..pair import Cost, Port, Variant, ceil_div, kernel

#: Sequences, keys or values, heads of keys and values, positions, elements a head.
CACHE = Port(("sequences", 2, "kv_heads", "capacity", "head_dim"))


def _make_inputs(  # many parameters: one for each option of `Kernel.inputs`
    seed=0,
    tokens=3,
    kv_heads=2,
    head_dim=8,
    capacity=16,
    position=4,
    sequences=2,
    sequence=1,
    valid=None,
    x_dtype="f32",
    y_dtype="f32",
) -> dict:
    generator = torch.Generator().manual_seed(seed)
    width = kv_heads * head_dim
    return {
        "k": random_tensor(generator, (tokens, width), x_dtype),
        "v": random_tensor(generator, (tokens, width), x_dtype),
        "kv": torch.zeros(sequences, 2, kv_heads, capacity, head_dim, dtype=TORCH_TYPES[x_dtype]),
        "state": make_state(position, tokens if valid is None else valid, sequence),
    }


@kernel(
    reads={"k": Port(("tokens", "width")), "v": Port(("tokens", "width")), "kv": CACHE, "state": STATE},
    writes={"kv": CACHE},
    updates={"kv": "kv"},
    variants={
        "elements": Variant(
            "cache/kv_append",
            grid=lambda c: (ceil_div(c["width"], 64), c["tokens"], 1),
        )
    },
    make_inputs=_make_inputs,
    tolerance=lambda arguments, expected: {"kv": torch.zeros_like(expected["kv"], dtype=torch.float64)},
    cost=lambda s: Cost(8 * s["tokens"] * s["width"], 8 * s["tokens"] * s["width"], 0),
)
def kv_append(k, v, kv, state):
    """kv with token t of k and v [tokens, kv_heads * head_dim] at position state[0] + t, for t < state[1]; in place."""
    _, _, heads, capacity, head_dim = kv.shape
    position, valid, sequence, _ = state.tolist()
    count = max(0, min(valid, k.shape[0], capacity - position))
    for part, tensor in enumerate((k, v)):
        rows = tensor[:count].view(count, heads, head_dim).transpose(0, 1)
        kv[sequence, part, :, position : position + count] = rows.to(kv.dtype)
    return kv
