"""`norm_qkv_rows`, a weight format each: `norm_qkv` in front of an INT8 cache.

    norm_qkv_rows  rms_norm, linear (q), linear (k), linear (v), rope (q), rope (k)

It leaves keys and values side by side in f32, and the append stays a call of its own, `kv8_append_rows`: a scale needs
the largest number of a whole head, whose rows several workgroups compute (one workgroup a head would leave most of a
GPU idle), and with zero-points the two planes of the cache would make nine storage buffers, where browsers promise
eight.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from .linear import linear_reference
from .norm_linear import norm_qkv  # noqa: F401  the pairs that these are made from
from .pair import REGISTRY, Context, Kernel, Port, register
from .rms_norm import rms_norm
from .rope import make_state, rope
from .weights import WEIGHT_FORMATS


def _reference(x, weight, norm, table, state, eps, kv_heads, **_):
    """q [tokens, heads * head_dim] and rows [tokens, 2 * kv_heads * head_dim], keys beside values; q and keys turned.

    The weight's rows are those of q, k and v, in this order.
    """
    kv_width = kv_heads * table.shape[1]
    y = linear_reference(rms_norm.reference(x, norm, eps), weight)
    q, k, v = y.split([y.shape[-1] - 2 * kv_width, kv_width, kv_width], dim=-1)
    q, k = (rope.reference(each, table, state) for each in (q, k))
    return q, torch.cat([k, v], -1)


def norm_qkv_rows(fmt: str) -> Kernel:
    """The pair for one weight format: `norm_qkv` but for where keys and values go."""
    whole = REGISTRY[f"norm_qkv_{fmt}"]
    gemv = whole.variants["gemv"]

    def library(context: Context) -> tuple[str, ...]:
        return tuple("append_rows" if name == "append_cache" else name for name in gemv.library(context))

    def make_inputs(kv_heads=1, **options) -> dict:
        arguments = whole.inputs(kv_heads=kv_heads, **options)
        del arguments["kv"]
        return {**arguments, "kv_heads": kv_heads}

    def tolerance(arguments, expected) -> dict:
        """That of `norm_qkv` over an empty cache with room for the step, read back row by row."""
        tokens, head_dim = arguments["x"].shape[0], arguments["table"].shape[1]
        given = {name: value for name, value in arguments.items() if name != "kv_heads"}
        cache = torch.zeros(1, 2, arguments["kv_heads"], tokens, head_dim)
        bounds = whole.tolerance({**given, "kv": cache, "state": make_state(0, tokens)}, expected)
        return {"q": bounds["q"], "rows": bounds["kv"][0].permute(2, 0, 1, 3).flatten(1)}

    def derive(sizes) -> dict:
        both = 2 * sizes["kv_heads"] * sizes["head_dim"] if {"kv_heads", "head_dim"} <= set(sizes) else None
        return {**whole.derive(sizes), **({} if both is None else {"both": both})}

    reads = {name: port for name, port in whole.reads.items() if name != "kv"}
    return register(
        replace(
            whole,
            name=f"norm_qkv_rows_{fmt}",
            reference=_reference,
            reads=reads,
            writes={"q": whole.writes["q"], "rows": Port(("tokens", "both"), "f32", binding=5)},
            updates={},
            params={**whole.params, "kv_heads": int},
            variants={"gemv": replace(gemv, library=library)},
            make_inputs=make_inputs,
            tolerance=tolerance,
            derive=derive,
        )
    )


for _format in WEIGHT_FORMATS:
    norm_qkv_rows(_format)
