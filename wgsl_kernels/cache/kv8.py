"""The key/value cache in INT8 ("kv8"): its layout, and quantizing keys and values where they are appended.

A position of one head of the keys or the values is a row: `words` of four signed bytes, lowest first, padded with zeros
to whole 16 bytes (what one load takes), and one scale in a plane of its own. Symmetric: x = scale * q, scale =
max |x| / 127 over the head.

One scale a head: blocks of 32 dimensions cost the embedded model (heads of 64) no measurably smaller perplexity
(docs/kernels.md), and one scale can be multiplied into a score or a weight, where more would be multiplied into every
dimension. Scales are f32: in f16 those of two neighbouring positions would share a word, which WGSL without shader-f16
cannot write by halves, to save 2 of 132 bytes (heads of 128).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F

from ..layout import KV8, cache_words
from ..makers import handing_on
from ..numerics import EPS32, random_tensor
from ..pair import Cost, Kernel, Port, Variant, register
from ..quantized.quantize_activations import near_half
from ..reduce import lanes_default, reduction
from ..state import NO_RING, RING, STATE, appended, slot_file
from .kv_append import append_inputs, kv_append

#: Sequences, keys or values, heads of keys and values, positions, words of four dimensions.
CACHE8 = Port(("sequences", 2, "kv_heads", "capacity", "words"), "u32", packed=8, of="kv", plane="quants")
#: One scale a row of `CACHE8`.
SCALES8 = Port(("sequences", 2, "kv_heads", "capacity"), "f32", of="kv", plane="scales")


def quantized(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """x [..., head_dim] -> words int32 [..., words] and scales [...] in the type of x."""
    scales = x.abs().amax(-1) / 127
    inverse = torch.where(scales > 0, 1 / scales, torch.zeros_like(scales)).unsqueeze(-1)
    q = (x * inverse).round().clamp(-127, 127).to(torch.int8)
    padding = 4 * cache_words(x.shape[-1]) - x.shape[-1]
    return F.pad(q, (0, padding)).contiguous().view(torch.int32), scales


def dequantized(words: torch.Tensor, scales: torch.Tensor, head_dim: int, dtype: torch.dtype) -> torch.Tensor:
    """scale * q in `dtype`, [..., head_dim], of words [..., words] and scales [...]."""
    q = words.contiguous().view(torch.int8)[..., :head_dim]
    return scales.to(dtype).unsqueeze(-1) * q.to(dtype)


def random_cache(
    generator: torch.Generator, sequences: int, kv_heads: int, capacity: int, head_dim: int
) -> dict:
    """A cache full of standard normal numbers, quantized: `kv` and `kv_scales`."""
    words, scales = quantized(random_tensor(generator, (sequences, 2, kv_heads, capacity, head_dim)))
    return {"kv": words, "kv_scales": scales}


def _append_inputs(joined: bool, seed=0, **options) -> dict:
    """Those of `kv_append` over a full cache; joined: keys and values as one array."""
    made = append_inputs(seed=seed, **options)
    sequences, _, kv_heads, capacity, head_dim = made["kv"].shape
    if joined:
        made["rows"] = torch.cat([made.pop("k"), made.pop("v")], dim=-1)
    generator = torch.Generator().manual_seed(seed + 1)  # other numbers than what is appended
    return {
        **made,
        **random_cache(generator, sequences, kv_heads, capacity, head_dim),
        "head_dim": head_dim,
    }


def _append(k, v, kv, kv_scales, state, head_dim, ring=False, sinks=0):
    """kv and kv_scales with token t of k and v [tokens, kv_heads * head_dim], quantized head by head, at position
    state[t, 0] of its sequence, for the real ones; in place. ring, sinks: where that lies (`state.slots_of`)."""
    for sequence, rows, slots in appended(state, kv.shape[3], ring, sinks):
        for part, tensor in enumerate((k, v)):
            new = tensor[rows].reshape(len(rows), kv.shape[2], head_dim).transpose(0, 1)
            kv[sequence, part, :, slots], scales = quantized(new)
            kv_scales[sequence, part, :, slots] = scales.to(kv_scales.dtype)
    return kv, kv_scales


def _append_rows(rows, kv, kv_scales, state, head_dim, ring=False, sinks=0):
    """`kv_append[kv8]` of rows [tokens, 2 * kv_heads * head_dim]: a token's keys, then its values."""
    k, v = rows.chunk(2, dim=-1)
    return _append(k, v, kv, kv_scales, state, head_dim, ring, sinks)


def _append_tolerance(arguments: Mapping, expected: Mapping) -> dict:
    parts = arguments["rows"].chunk(2, dim=-1) if "rows" in arguments else (arguments["k"], arguments["v"])
    return append_bounds(parts, arguments, expected)


def append_bounds(parts, arguments: Mapping, expected: Mapping, errors=(0.0, 0.0)) -> dict:
    """Bounds of `kv` and `kv_scales` where keys and values [tokens, width] are appended, each off by so much before.

    A scale is one division of the head's largest; a quant may differ by one only where x / scale lies on a half within
    its rounding. What is not written stays as it is.
    """
    kv, state, head_dim = arguments["kv"], arguments["state"], arguments["head_dim"]
    quants = torch.zeros(*kv.shape[:4], 4 * kv.shape[4], dtype=torch.float64)
    scales = torch.zeros(kv.shape[:4], dtype=torch.float64)
    placed = appended(state, kv.shape[3], arguments.get("ring", False), arguments.get("sinks", 0))
    for sequence, rows, slots in placed:
        for part, (tensor, error) in enumerate(zip(parts, errors, strict=True)):
            new, off_by = (
                torch.as_tensor(each, dtype=torch.float64)
                .expand(tensor.shape)[rows]
                .reshape(len(rows), kv.shape[2], head_dim)
                .transpose(0, 1)
                for each in (tensor, error)
            )
            largest = expected["kv_scales"][sequence, part][:, slots]
            flat = (each.reshape(-1, head_dim) for each in (new, off_by))
            off = near_half(next(flat), largest.reshape(-1, 1).double(), head_dim, next(flat))
            quants[sequence, part, :, slots, :head_dim] = off.view(new.shape)
            scales[sequence, part, :, slots] = 4 * EPS32 * largest + off_by.amax(-1) / 127
    return {"kv": quants.flatten(1), "kv_scales": scales}


def _append_cost(s: Mapping) -> Cost:
    width = s["kv_heads"] * s["head_dim"]
    return Cost(
        8 * s["tokens"] * width, 2 * s["tokens"] * (width + 4 * s["kv_heads"]), 6 * s["tokens"] * width
    )


def _rows_as_values(rows, kv, state, ring=False, sinks=0):
    return kv_append.reference(*rows.chunk(2, dim=-1), kv, state, ring, sinks)


def _append_kernel(op: str, reference, new: dict[str, Port], derive, values) -> Kernel:
    """The pair that takes keys and values as two arrays, or as one."""
    return register(
        Kernel(
            op=op,
            form={"kv": KV8},
            reference=reference,
            reads={
                **new,
                "kv": replace(CACHE8, binding=2),
                "kv_scales": replace(SCALES8, binding=3),
                "state": replace(STATE, binding=4),
            },
            writes={"kv": CACHE8, "kv_scales": SCALES8},
            updates={"kv": "kv", "kv_scales": "kv_scales"},
            params={"head_dim": int, **RING},
            defaults=NO_RING,
            variants={
                "heads": Variant(
                    "cache/kv8_append",
                    grid=lambda c: (c["kv_heads"], c["tokens"], 2),
                    tunables={"workgroup": (32, 8, 16, 64)},
                    defaults=lanes_default,
                    library=lambda c: (
                        "new_quad/rows" if "rows" in new else "new_quad/two",
                        slot_file(c),
                        reduction(c),
                    ),
                    refuse=lambda c: (
                        f"heads of {c['head_dim']} are not a multiple of 4" if c["head_dim"] % 4 else None
                    ),
                    why="a workgroup a head, since all of a head has one scale",
                )
            },
            make_inputs=handing_on(partial(_append_inputs, "rows" in new), append_inputs),
            tolerance=_append_tolerance,
            cost=_append_cost,
            derive=derive,
            values=values,
        )
    )


kv8_append = _append_kernel(
    "kv_append",
    _append,
    {"k": Port(("tokens", "width"), binding=0), "v": Port(("tokens", "width"), binding=1)},
    lambda s: {},
    kv_append.reference,
)
kv8_append_rows = _append_kernel(
    "kv_append_rows",
    _append_rows,
    {"rows": Port(("tokens", "both"), binding=0)},
    lambda s: {"width": s["kv_heads"] * s["head_dim"]} if {"kv_heads", "head_dim"} <= set(s) else {},
    _rows_as_values,
)
