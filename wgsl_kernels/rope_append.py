"""Rotary embedding and append behind one product of q, k and v: `rope_append` into a cache of floats or of INT8.

    stacked_qkv       linear (q, k, v), rope (q), rope (k), kv_append
    stacked_qkv_bias  the same with a bias each
    stacked_qkv_norm  the same with `head_norm` in front of `rope`

become `linear` over the stack of q, k and v, whose result is wide enough to fill a GPU where k and v alone are not, and
`rope_append`. They hold for steps of many tokens, and for one where `norm_qkv` does not: it has no biases, and a head
that is normalised is a workgroup's. The norm in front then goes into the product (`norm_linear`).
"""

from __future__ import annotations

from dataclasses import replace

import torch

from .composition import Facts, Match, rule
from .head_norm import head_norm
from .kv8 import CACHE8, SCALES8, append_bounds, kv8_append, random_cache
from .kv_append import CACHE, kv_append
from .layout import KV8
from .makers import handing_on
from .norm_linear import turned_and_appended
from .numerics import EPS32, TORCH_TYPES, random_tensor
from .pair import Context, Cost, Kernel, Port, Variant, register
from .reduce import lanes_default, reduction
from .rope import STATE, head_dim_of, paired, rope, rope_inputs

#: What a call has all or nothing of.
BIASES, NORMS = ("q_bias", "k_bias", "v_bias"), ("q_norm", "k_norm")


def _optional(shape: str, binding: int) -> Port:
    return Port((shape,), "f32", optional=True, binding=binding)


READS = {
    "x": Port(("tokens", "rows"), binding=0),
    "table": Port(("capacity", "rotated"), "f32", binding=4),
    "kv": replace(CACHE, binding=5),
    "state": Port(STATE.shape, STATE.dtype, uniform=True, binding=8),
    "q_bias": _optional("width", 9),
    "k_bias": _optional("kv_width", 10),
    "v_bias": _optional("kv_width", 11),
    "q_norm": _optional("head_dim", 9),
    "k_norm": _optional("head_dim", 10),
}
Q = Port(("tokens", "width"), binding=6)


def _entries(x, kv_heads, head_dim, q_bias, k_bias, v_bias, q_norm, k_norm, eps) -> list[torch.Tensor]:
    """q, k and v of x [tokens, rows] with biases and norms, not turned."""
    width = kv_heads * head_dim
    parts = list(x.split([x.shape[1] - 2 * width, width, width], dim=-1))
    for at, bias in enumerate((q_bias, k_bias, v_bias)):
        parts[at] = parts[at] if bias is None else parts[at] + bias.to(x.dtype)
    for at, norm in enumerate((q_norm, k_norm)):
        parts[at] = parts[at] if norm is None else head_norm.reference(parts[at], eps, norm)
    return parts


def _reference(
    x,
    table,
    kv,
    state,
    q_bias=None,
    k_bias=None,
    v_bias=None,
    q_norm=None,
    k_norm=None,
    eps=None,
    passed=0,
):
    """q [tokens, heads * head_dim], turned, and kv with keys, turned, and values of the step's real tokens, in place.

    x [tokens, rows]: of a token its queries, keys and values, without their biases and the norms of their heads.
    """
    q, k, v = _entries(x, kv.shape[2], kv.shape[4], q_bias, k_bias, v_bias, q_norm, k_norm, eps)
    q, k = (rope.reference(part, table, state, passed) for part in (q, k))
    return q, kv_append.reference(k, v, kv, state)


def _reference8(x, table, kv, kv_scales, state, head_dim, passed=0, eps=None, **given):
    """`rope_append` into an INT8 cache: kv [sequences, 2, kv_heads, capacity, words], kv_scales [..., capacity]."""
    parts = (given.get(name) for name in (*BIASES, *NORMS))
    q, k, v = _entries(x, kv.shape[2], head_dim, *parts, eps)
    q, k = (rope.reference(part, table, state, passed) for part in (q, k))
    return q, *kv8_append.reference(k, v, kv, kv_scales, state, head_dim)


def _bounds(arguments, kv_heads: int, head_dim: int) -> list[torch.Tensor]:
    """Bounds of the errors of q, k and v [tokens, width], f64: a product or two, a sum, and the norm of a head."""
    given = (arguments.get(name) for name in (*BIASES, *NORMS))
    given = (None if each is None else each.double() for each in given)
    parts = _entries(arguments["x"].double(), kv_heads, head_dim, *given, arguments.get("eps"))
    rotated, relative = arguments["table"].shape[1], 32 if "q_norm" in arguments else 6
    pairs = [paired(part.abs(), rotated, head_dim) for part in parts[:2]]
    return [relative * EPS32 * each + 1e-30 for each in (*pairs, parts[2].abs())]


def _tolerance(arguments, expected) -> dict:
    kv = arguments["kv"]
    q, k, v = _bounds(arguments, kv.shape[2], kv.shape[4])
    cache = torch.zeros(kv.shape, dtype=torch.float64)
    return {"q": q, "kv": kv_append.reference(k, v, cache, arguments["state"])}


def _tolerance8(arguments, expected) -> dict:
    kv_heads, head_dim = arguments["kv"].shape[2], arguments["head_dim"]
    given = (arguments.get(name) for name in (*BIASES, *NORMS))
    _, k, v = _entries(arguments["x"].double(), kv_heads, head_dim, *given, arguments.get("eps"))
    k = rope.reference(k, arguments["table"], arguments["state"], arguments.get("passed", 0))
    q, *errors = _bounds(arguments, kv_heads, head_dim)
    return {"q": q, **append_bounds((k, v), arguments, expected, errors)}


def _make_inputs(
    seed=0,
    heads=2,
    kv_heads=1,
    head_dim=16,
    q_bias=False,
    k_bias=False,
    v_bias=False,
    q_norm=False,
    k_norm=False,
    eps=1e-6,
    valid=None,
    sequences=2,
    sequence=1,
    x_dtype="f32",
    **options,
) -> dict:
    generator = torch.Generator().manual_seed(seed)
    made = rope_inputs(seed, heads=heads + 2 * kv_heads, head_dim=head_dim, x_dtype=x_dtype, **options)
    capacity, width = made["table"].shape[0], kv_heads * head_dim
    made["kv"] = torch.zeros(sequences, 2, kv_heads, capacity, head_dim, dtype=TORCH_TYPES[x_dtype])
    made["state"][1] = made["x"].shape[0] if valid is None else valid
    made["state"][2] = sequence
    lengths = {"q_bias": heads * head_dim, "k_bias": width, "v_bias": width}
    for name, wanted in zip(BIASES, (q_bias, k_bias, v_bias), strict=True):
        if wanted:
            made[name] = random_tensor(generator, (lengths[name],), "f32")
    for name, wanted in zip(NORMS, (q_norm, k_norm), strict=True):
        if wanted:
            made[name] = torch.rand(head_dim, generator=generator) + 0.5
    return {**made, "eps": eps} if q_norm or k_norm else made


def _make_inputs8(seed=0, **options) -> dict:
    made = rope_append.make_inputs(seed=seed, **options)
    sequences, _, kv_heads, capacity, head_dim = made.pop("kv").shape
    cache = random_cache(torch.Generator().manual_seed(seed), sequences, kv_heads, capacity, head_dim)
    return {**made, **cache, "head_dim": head_dim}


def _derive(s) -> dict:
    found = head_dim_of(s)
    if {"rows", "kv_heads"} <= set(s) and "head_dim" in found:
        found["kv_width"] = s["kv_heads"] * found["head_dim"]
        found["width"] = s["rows"] - 2 * found["kv_width"]
    return found


def _cost(s) -> Cost:
    count = s["tokens"] * s["rows"]
    return Cost(4 * count, 4 * count, 3 * count)


def _whole(context: Context) -> str | None:
    """Why what is bound cannot be added and multiplied, or None."""
    for names in (BIASES, NORMS):
        if len(bound := [name for name in names if name in context.types]) not in (0, len(names)):
            return f"{', '.join(names)} come together, not {', '.join(bound)} alone"
    if {"q_bias", "q_norm"} <= set(context.types):
        return "heads have biases or norms, not both"
    return None


def _refuse8(context: Context) -> str | None:
    return kv8_append.variants["heads"].refuse(context) or _whole(context)


def _variants(append: tuple[str, ...], refuse) -> dict[str, Variant]:
    """append: the library files with `append` and `finish`."""

    def library(context: Context) -> tuple[str, ...]:
        norms = ("norms_qk", "head_factor") if "q_norm" in context.types else ("norms_none",)
        bias = "bias_qkv" if "q_bias" in context.types else "bias_none"
        sums = (reduction(context),) if len(norms) > 1 or "to_bytes" in append else ()
        return "state", "head_pairs", bias, *norms, *append, *sums

    return {
        "heads": Variant(
            "rope_append",
            grid=lambda c: (c["rows"] // c["head_dim"], c["tokens"], 1),
            tunables={"workgroup": (32, 8, 16, 64, 128)},
            defaults=lanes_default,
            library=library,
            refuse=refuse,
        )
    }


rope_append = register(
    Kernel(
        op="rope_append",
        reference=_reference,
        reads=READS,
        writes={"q": Q, "kv": CACHE},
        updates={"kv": "kv"},
        params={"eps": float, "passed": int},
        defaults={"passed": 0},
        derive=_derive,
        variants=_variants(("append_cache", "finish_float"), _whole),
        make_inputs=handing_on(_make_inputs, rope_inputs),
        tolerance=_tolerance,
        cost=_cost,
    )
)
register(
    replace(
        rope_append,
        form={"kv": KV8},
        reference=_reference8,
        reads={**READS, "kv": replace(CACHE8, binding=2), "kv_scales": replace(SCALES8, binding=3)},
        writes={"q": Q, "kv": CACHE8, "kv_scales": SCALES8},
        updates={"kv": "kv", "kv_scales": "kv_scales"},
        params={**rope_append.params, "head_dim": int},
        variants=_variants(("to_bytes", "append_head_kv8", "finish_kv8"), _refuse8),
        make_inputs=handing_on(_make_inputs8, rope_append.make_inputs),
        tolerance=_tolerance8,
        values=_reference,
    )
)


def _behind_stack(p, x, q, k, v, **given):
    return p.rope_append(x=p.linear(x=x, weight="+".join((q, k, v))), **given)


def stacked_qkv(p, x, q, k, v, table, kv, state, *, passed):
    """Queries, turned, and the cache with the step's keys, turned, and values."""
    return turned_and_appended(p, x, q, k, v, table, kv, state, passed=passed)


def _stacked(p, x, q, k, v, table, kv, state, *, passed):
    return _behind_stack(p, x, q, k, v, table=table, kv=kv, state=state, passed=passed)


def stacked_qkv_bias(p, x, q, k, v, q_bias, k_bias, v_bias, table, kv, state, *, passed):
    """Queries, turned, and the cache with the step's keys, turned, and values, all with biases."""
    biases = (q_bias, k_bias, v_bias)
    q, k, v = (p.linear(x=x, weight=m, bias=b) for m, b in zip((q, k, v), biases, strict=True))
    q, k = (p.rope(x=each, table=table, state=state, passed=passed) for each in (q, k))
    return q, p.kv_append(k=k, v=v, kv=kv, state=state)


def _stacked_bias(p, x, q, k, v, q_bias, k_bias, v_bias, table, kv, state, *, passed):
    biases = dict(zip(BIASES, (q_bias, k_bias, v_bias), strict=True))
    return _behind_stack(p, x, q, k, v, table=table, kv=kv, state=state, passed=passed, **biases)


def stacked_qkv_norm(p, x, q, k, v, q_norm, k_norm, table, kv, state, *, eps, passed):
    """Queries, turned, and the cache with the step's keys, turned, and values; queries and keys normed head by head."""
    q, k, v = (p.linear(x=x, weight=matrix) for matrix in (q, k, v))
    q, k = (p.head_norm(x=x, weight=norm, eps=eps) for x, norm in ((q, q_norm), (k, k_norm)))
    q, k = (p.rope(x=each, table=table, state=state, passed=passed) for each in (q, k))
    return q, p.kv_append(k=k, v=v, kv=kv, state=state)


def _stacked_norm(p, x, q, k, v, q_norm, k_norm, table, kv, state, *, eps, passed):
    given = {"table": table, "kv": kv, "state": state, "q_norm": q_norm, "k_norm": k_norm}
    return _behind_stack(p, x, q, k, v, **given, eps=eps, passed=passed)


def _pays(facts: Facts, match: Match) -> bool:
    """Three dispatches or four fewer, and k and v share the waves of workgroups of q."""
    return True


STACKED_QKV = tuple(
    rule(before, after, stack=("q", "k", "v"), usual=_pays)
    for before, after in ((stacked_qkv, _stacked), (stacked_qkv_bias, _stacked_bias))
)
#: Tried before `head_norm_rope` takes its calls away.
STACKED_QKV_NORM = rule(stacked_qkv_norm, _stacked_norm, stack=("q", "k", "v"), usual=_pays)
