"""`norm_qkv`: norm, q/k/v projections, rotary embedding and append in one dispatch of a decode step, a format each.

    norm_qkv  rms_norm, linear (q), linear (k), linear (v), rope (q), rope (k), kv_append

Rows of q, k and v are stacked in one set of planes. The reference is the composition of the references that it
replaces.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch

from ..attention.rope import head_dim_of, paired, random_table
from ..cache.kv_append import CACHE, kv_append
from ..composition import Facts, Match, fusion
from ..layout import KV8
from ..lora.lent import composed_with_adapters
from ..lora.low_rank import LORA_B, LORA_X, LOW_RANK_DEFAULTS, LOW_RANK_PARAMS, low_rank_inputs
from ..numerics import TORCH_TYPES
from ..pair import Kernel, Port, register
from ..state import NO_RING, RING, STATE, rows_state, slot_file
from ..weights import WEIGHT_FORMATS, quant_params, weight_ports, weight_sizes, with_planes
from .norm_linear import (
    NORM,
    X,
    behind_a_norm,
    bound_behind_a_norm,
    inputs_behind_a_norm,
    shared_parts,
    variant_behind_a_norm,
)


def turned_and_appended(
    p, normed, q, k, v, table, kv, state, *, passed, ring, sinks
):  # many parameters: the operands and parameters of the op
    """Queries, turned, and the cache with the step's keys, turned, and values."""
    queries, keys, values = (p.linear(x=normed, weight=matrix) for matrix in (q, k, v))
    queries, keys = (p.rope(x=each, table=table, state=state, passed=passed) for each in (queries, keys))
    return queries, p.kv_append(k=keys, v=values, kv=kv, state=state, ring=ring, sinks=sinks)


def _float_cache(facts: Facts, match: Match) -> bool:
    return match.label("kv") != KV8 and behind_a_norm(facts, match)


@fusion(stack=("q", "k", "v"), where=_float_cache)
def norm_qkv(
    p, x, norm, q, k, v, table, kv, state, *, eps, passed, ring, sinks
):  # many parameters: the operands and parameters of the op
    """q [tokens, heads * head_dim], turned, and the cache with keys and values of the step's real tokens appended."""
    normed = p.rms_norm(x=x, weight=norm, eps=eps)
    placed = {"ring": ring, "sinks": sinks}
    return turned_and_appended(p, normed, q, k, v, table, kv, state, passed=passed, **placed)


def qkv_rows(weight, kv, **_) -> list[int]:
    """Rows of q, k and v: the cache says how many heads keys and values have."""
    width = kv.shape[2] * kv.shape[4]
    return [weight.shape[0] - 2 * width, width, width]


def qkv_inputs(  # many parameters: one for each option of `Kernel.inputs`
    fmt,
    seed=0,
    tokens=1,
    heads=2,
    kv_heads=1,
    head_dim=16,
    passed=0,
    columns=64,
    capacity=32,
    positions=0,
    position=5,
    valid=None,
    sequences=2,
    sequence=1,
    scattered=False,
    ring=False,
    sinks=0,
    eps=1e-5,
    adapters=0,
    slices=1,
    x_dtype="f32",
    y_dtype="f32",
    **options,
) -> dict:
    """positions: of the table, as many as the cache has slots if 0. adapters: how many of them add to q, k and v;
    slices: of their `lora_x`."""
    generator = torch.Generator().manual_seed(seed)
    rows = (heads + 2 * kv_heads) * head_dim
    places = {"capacity": capacity, "position": position, "sequences": sequences, "sequence": sequence}
    made = inputs_behind_a_norm(fmt, generator, tokens, rows, columns, x_dtype, eps, options)
    starts = (heads * head_dim, (heads + kv_heads) * head_dim)
    state = rows_state(seed, tokens, valid=valid, scattered=scattered, **places)
    added = low_rank_inputs(generator, tokens, rows, adapters, starts, slices=slices)
    if added:
        state[:, 1] *= added.pop("state")[:, 1]  # real ones have an adapter
    return {
        **made,
        "table": random_table(head_dim - passed, positions or capacity),
        "passed": passed,
        "kv": torch.zeros(sequences, 2, kv_heads, capacity, head_dim, dtype=TORCH_TYPES[x_dtype]),
        "state": state,
        **added,
        "ring": ring,
        "sinks": sinks,
    }


def qkv_tolerance(bound, arguments) -> dict:
    """From the bound of the product, f64 [tokens, rows]. The rotation mixes pairs of rows; q and k have entries up to
    |a| + |b| of a pair's."""
    kv, state = arguments["kv"], arguments["state"]
    mixed = 2 * paired(bound, arguments["table"].shape[1], kv.shape[4])
    kv_width = kv.shape[2] * kv.shape[4]
    q, k, v = mixed.split([mixed.shape[-1] - 2 * kv_width, kv_width, kv_width], dim=-1)
    cache = torch.zeros(kv.shape, dtype=torch.float64)
    placed = (arguments.get("ring", False), arguments.get("sinks", 0))
    return {"q": q, "kv": kv_append.reference(k, v, cache, state, *placed)}


def qkv_derive(fmt: str, s) -> dict:
    found = {**head_dim_of(s), **weight_sizes(fmt)}
    if {"rows", "kv_heads"} <= set(s) and "head_dim" in found:
        found["width"] = s["rows"] - 2 * s["kv_heads"] * found["head_dim"]
    return found


def qkv_ports(fmt: str) -> tuple[dict[str, Port], dict[str, Port]]:
    """What `norm_qkv` reads and writes."""
    reads = {
        "x": X,
        **weight_ports(fmt),
        "norm": NORM,
        "table": Port(("positions", "rotated"), "f32", binding=4),
        "kv": Port(CACHE.shape, binding=5),
        "state": replace(STATE, binding=8),
        "lora_x": LORA_X,
        "lora_b": LORA_B,
    }
    return reads, {"q": Port(("tokens", "width"), binding=6), "kv": CACHE}


def norm_qkv_pair(fmt: str) -> Kernel:
    """The pair for one weight format."""
    reads, writes = qkv_ports(fmt)
    return register(
        Kernel(
            op="norm_qkv",
            form={"weight": fmt},
            reference=composed_with_adapters(norm_qkv, rows=qkv_rows),
            reads=reads,
            writes=writes,
            updates={"kv": "kv"},
            params={**quant_params(fmt), "eps": float, "passed": int, **RING, **LOW_RANK_PARAMS},
            defaults={"passed": 0, **NO_RING, **LOW_RANK_DEFAULTS},
            variants={
                "gemv": variant_behind_a_norm(
                    "linear/norm_qkv",
                    fmt,
                    lambda c: c["rows"] // 2,
                    rows_per_unit=2,
                    library=lambda c: ("append/cache", slot_file(c)),
                )
            },
            make_inputs=with_planes(fmt, qkv_inputs),
            tolerance=lambda arguments, expected: qkv_tolerance(
                bound_behind_a_norm(fmt, arguments), arguments
            ),
            derive=partial(qkv_derive, fmt),
            **shared_parts(fmt),
        )
    )


#: The pairs by weight format; others are made from them.
NORM_QKV = {fmt: norm_qkv_pair(fmt) for fmt in WEIGHT_FORMATS}
