"""Appending keys and values to the cache, in place."""

from __future__ import annotations

import torch

from ..numerics import TORCH_TYPES, random_tensor
from ..pair import Cost, Port, Variant, ceil_div, kernel
from ..state import NO_RING, RING, STATE, appended, rows_state, slot_file

#: Sequences, keys or values, heads of keys and values, positions, elements a head.
CACHE = Port(("sequences", 2, "kv_heads", "capacity", "head_dim"))


def append_inputs(  # many parameters: one for each option of `Kernel.inputs`
    seed=0,
    tokens=3,
    kv_heads=2,
    head_dim=8,
    capacity=16,
    position=4,
    sequences=2,
    sequence=1,
    valid=None,
    scattered=False,
    ring=False,
    sinks=0,
    x_dtype="f32",
    y_dtype="f32",
) -> dict:
    generator = torch.Generator().manual_seed(seed)
    width = kv_heads * head_dim
    rows = {"capacity": capacity, "position": position, "sequences": sequences, "sequence": sequence}
    return {
        "k": random_tensor(generator, (tokens, width), x_dtype),
        "v": random_tensor(generator, (tokens, width), x_dtype),
        "kv": torch.zeros(sequences, 2, kv_heads, capacity, head_dim, dtype=TORCH_TYPES[x_dtype]),
        "state": rows_state(seed, tokens, valid=valid, scattered=scattered, **rows),
        "ring": ring,
        "sinks": sinks,
    }


@kernel(
    reads={"k": Port(("tokens", "width")), "v": Port(("tokens", "width")), "kv": CACHE, "state": STATE},
    writes={"kv": CACHE},
    updates={"kv": "kv"},
    params=RING,
    defaults=NO_RING,
    variants={
        "elements": Variant(
            "cache/kv_append",
            grid=lambda c: (ceil_div(c["width"], 64), c["tokens"], 1),
            library=lambda c: (slot_file(c),),
        )
    },
    make_inputs=append_inputs,
    tolerance=lambda arguments, expected: {"kv": torch.zeros_like(expected["kv"], dtype=torch.float64)},
    cost=lambda s: Cost(8 * s["tokens"] * s["width"], 8 * s["tokens"] * s["width"], 0),
)
def kv_append(k, v, kv, state, ring=False, sinks=0):
    """kv with token t of k and v [tokens, kv_heads * head_dim] at position state[t, 0] of its sequence, for the real
    ones; in place. ring, sinks: where positions lie (`state.slots_of`)."""
    _, _, heads, capacity, head_dim = kv.shape
    for sequence, rows, slots in appended(state, capacity, ring, sinks):
        for part, tensor in enumerate((k, v)):
            new = tensor[rows].view(len(rows), heads, head_dim).transpose(0, 1)
            kv[sequence, part, :, slots] = new.to(kv.dtype)
    return kv
