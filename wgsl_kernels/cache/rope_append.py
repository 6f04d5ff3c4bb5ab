"""Rotary embedding and append behind one product of q, k and v, into a cache of floats or of INT8.

    stacked_qkv       linear (q, k, v), rope (q), rope (k), kv_append
    stacked_qkv_bias  the same with a bias each
    stacked_qkv_norm  the same with `head_norm` in front of `rope`
    interleaved_qkv   `stacked_qkv` of a rotation that is interleaved
    interleaved_qkv_norm  the same with a `head_norm` without a weight behind `rope`

become `linear` over the stack of q, k and v, whose result is wide enough to fill a GPU where k and v alone are not, and
`rope_append`, or `norm_rope_append`. They hold for steps of many tokens, and for one where `norm_qkv` does not: it has
no biases, and a head that is normalised is a workgroup's. The norm in front then goes into the product (`norm_linear`).
A rotation leaves the mean square of a head as it is, so that a norm without a weight may stand on either side of it
(Llama 4).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch

from ..attention.rope import head_dim_of, paired, rope, rope_inputs
from ..composition import Facts, Match, rule
from ..layout import KV8
from ..linear.norm_qkv import turned_and_appended
from ..makers import Maker, handing_on
from ..norm.head_norm import head_norm
from ..numerics import EPS32, TORCH_TYPES, random_tensor
from ..pair import Context, Cost, Kernel, Port, Variant, register
from ..reduce import lanes_default, reduction
from ..state import NO_RING, RING, STATE, rows_state, slot_file
from .kv8 import CACHE8, SCALES8, append_bounds, kv8_append, random_cache
from .kv_append import CACHE, kv_append

READS = {
    "x": Port(("tokens", "rows"), binding=0),
    "table": Port(("positions", "rotated"), "f32", binding=4),
    "kv": replace(CACHE, binding=5),
    "state": replace(STATE, binding=8),
}
BIASES = {
    "q_bias": Port(("width",), "f32", optional=True, binding=9),
    "k_bias": Port(("kv_width",), "f32", optional=True, binding=10),
    "v_bias": Port(("kv_width",), "f32", optional=True, binding=11),
}
NORMS = {
    name: Port(("head_dim",), "f32", optional=True, binding=9 + at)
    for at, name in enumerate(("q_norm", "k_norm"))
}
Q = Port(("tokens", "width"), binding=6)


def _entries(
    x, kv_heads, head_dim, q_bias, k_bias, v_bias, q_norm, k_norm, eps
) -> list[torch.Tensor]:  # many parameters: the operands and parameters of the op
    """q, k and v of x [tokens, rows] with biases, and norms where there is an eps, not turned."""
    width = kv_heads * head_dim
    parts = list(x.split([x.shape[1] - 2 * width, width, width], dim=-1))
    for at, bias in enumerate((q_bias, k_bias, v_bias)):
        parts[at] = parts[at] if bias is None else parts[at] + bias.to(x.dtype)
    if eps is not None:
        for at, norm in enumerate((q_norm, k_norm)):
            parts[at] = head_norm.reference(parts[at], eps, norm, head_dim)
    return parts


def _reference(  # many parameters: the operands and parameters of the op
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
    interleaved=False,
    ring=False,
    sinks=0,
):  # many parameters: the operands and parameters of the op
    """q [tokens, heads * head_dim], turned, and kv with keys, turned, and values of the step's real tokens, in place.

    x [tokens, rows]: of a token its queries, keys and values, without their biases and the norms of their heads.
    """
    q, k, v = _entries(x, kv.shape[2], kv.shape[4], q_bias, k_bias, v_bias, q_norm, k_norm, eps)
    q, k = (rope.reference(part, table, state, passed, interleaved) for part in (q, k))
    return q, kv_append.reference(k, v, kv, state, ring, sinks)


def _reference8(
    x,
    table,
    kv,
    kv_scales,
    state,
    head_dim,
    passed=0,
    interleaved=False,
    eps=None,
    ring=False,
    sinks=0,
    **given,
):  # many parameters: the operands and parameters of the op
    """`rope_append` into an INT8 cache: kv [sequences, 2, kv_heads, capacity, words], kv_scales [..., capacity]."""
    parts = (given.get(name) for name in (*BIASES, *NORMS))
    q, k, v = _entries(x, kv.shape[2], head_dim, *parts, eps=eps)
    q, k = (rope.reference(part, table, state, passed, interleaved) for part in (q, k))
    return q, *kv8_append.reference(k, v, kv, kv_scales, state, head_dim, ring, sinks)


def _entries_in_f64(arguments, kv_heads: int, head_dim: int) -> list[torch.Tensor]:
    given = (arguments.get(name) for name in (*BIASES, *NORMS, "eps"))
    return _entries(arguments["x"].double(), kv_heads, head_dim, *given)


def _bounds(arguments, kv_heads: int, head_dim: int) -> list[torch.Tensor]:
    """Bounds of the errors of q, k and v [tokens, width], f64: a product or two, a sum, and the norm of a head."""
    parts = _entries_in_f64(arguments, kv_heads, head_dim)
    rotated, relative = arguments["table"].shape[1], 32 if "eps" in arguments else 6
    interleaved = arguments.get("interleaved", False)
    pairs = [paired(part.abs(), rotated, head_dim, interleaved) for part in parts[:2]]
    return [relative * EPS32 * each + 1e-30 for each in (*pairs, parts[2].abs())]


def _tolerance(arguments, expected) -> dict:
    kv = arguments["kv"]
    q, k, v = _bounds(arguments, kv.shape[2], kv.shape[4])
    cache = torch.zeros(kv.shape, dtype=torch.float64)
    placed = (arguments.get("ring", False), arguments.get("sinks", 0))
    return {"q": q, "kv": kv_append.reference(k, v, cache, arguments["state"], *placed)}


def _tolerance8(arguments, expected) -> dict:
    kv_heads, head_dim = arguments["kv"].shape[2], arguments["head_dim"]
    _, k, v = _entries_in_f64(arguments, kv_heads, head_dim)
    turn = (arguments.get("passed", 0), arguments.get("interleaved", False))
    k = rope.reference(k, arguments["table"], arguments["state"], *turn)
    q, *errors = _bounds(arguments, kv_heads, head_dim)
    return {"q": q, **append_bounds((k, v), arguments, expected, errors)}


def _made(  # many parameters: one for each option of `Kernel.inputs`
    seed=0,
    heads=2,
    kv_heads=1,
    head_dim=16,
    capacity=32,
    positions=0,
    position=5,
    valid=None,
    sequences=2,
    sequence=1,
    scattered=False,
    interleaved=False,
    ring=False,
    sinks=0,
    x_dtype="f32",
    **options,
) -> dict:
    """positions: of the table, as many as the cache has slots if 0."""
    given = {"heads": heads + 2 * kv_heads, "head_dim": head_dim, "x_dtype": x_dtype, **options}
    made = rope_inputs(seed, positions=positions or capacity, **given)
    rows = {"capacity": capacity, "position": position, "sequences": sequences, "sequence": sequence}
    made["state"] = rows_state(seed, len(made["x"]), valid=valid, scattered=scattered, **rows)
    made["kv"] = torch.zeros(sequences, 2, kv_heads, capacity, head_dim, dtype=TORCH_TYPES[x_dtype])
    return made | {"interleaved": interleaved, "ring": ring, "sinks": sinks}


_inputs = handing_on(_made, rope_inputs)


def _bias_inputs(seed=0, q_bias=False, k_bias=False, v_bias=False, **options) -> dict:
    made = _inputs(seed=seed, **options)
    generator = torch.Generator().manual_seed(seed)
    kv_width = made["kv"].shape[2] * made["kv"].shape[4]
    widths = (made["x"].shape[1] - 2 * kv_width, kv_width, kv_width)
    for name, wanted, width in zip(BIASES, (q_bias, k_bias, v_bias), widths, strict=True):
        if wanted:
            made[name] = random_tensor(generator, (width,), "f32")
    return made


def _norm_inputs(seed=0, eps=1e-6, head_dim=16, weight=True, **options) -> dict:
    generator = torch.Generator().manual_seed(seed)
    norms = {name: torch.rand(head_dim, generator=generator) + 0.5 for name in NORMS if weight}
    return {**_inputs(seed=seed, head_dim=head_dim, **options), **norms, "eps": eps}


def _inputs8(make_inputs: Maker, seed=0, **options) -> dict:
    made = make_inputs(seed=seed, **options)
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


def _refuse(context: Context) -> str | None:
    for together in (BIASES, NORMS):
        bound = [name for name in together if name in context.types]
        if 0 < len(bound) < len(together):
            return f"{', '.join(together)} come together, not {', '.join(bound)} alone"
    return None


def _refuse8(context: Context) -> str | None:
    return kv8_append.variants["heads"].refuse(context) or _refuse(context)


def _variants(append: tuple[str, ...], normed: bool, refuse) -> dict[str, Variant]:
    """append: the library files with `append` and `finish`. normed: whether queries and keys are."""

    def library(context: Context) -> tuple[str, ...]:
        norms = "none" if not normed else "qk" if "q_norm" in context.types else "plain"
        bias = "bias/qkv" if "q_bias" in context.types else "bias/none"
        pairs = "head_pairs/neighbours" if context["interleaved"] else "head_pairs/halves"
        return bias, f"head_norms/{norms}", pairs, slot_file(context), *append, reduction(context)

    return {
        "heads": Variant(
            "cache/rope_append",
            grid=lambda c: (c["rows"] // c["head_dim"], c["tokens"], 1),
            tunables={"workgroup": (32, 8, 16, 64, 128)},
            defaults=lanes_default,
            library=library,
            refuse=refuse,
        )
    }


def _pair(op: str, more: dict[str, Port], params: dict[str, type], make_inputs: Maker) -> Kernel:
    """Both pairs of an op, of which that into a cache of floats is given. more, params: what it takes beside x."""
    into_floats = Kernel(
        op=op,
        reference=_reference,
        reads={**READS, **more},
        writes={"q": Q, "kv": CACHE},
        updates={"kv": "kv"},
        params={**params, "passed": int, "interleaved": bool, **RING},
        defaults={"passed": 0, "interleaved": False, **NO_RING},
        derive=_derive,
        variants=_variants(("append/cache", "finish/none"), "eps" in params, _refuse),
        make_inputs=make_inputs,
        tolerance=_tolerance,
        cost=_cost,
    )
    quants = {"kv": replace(CACHE8, binding=2), "kv_scales": replace(SCALES8, binding=3)}
    register(
        replace(
            into_floats,
            form={"kv": KV8},
            reference=_reference8,
            reads={**into_floats.reads, **quants},
            writes={"q": Q, "kv": CACHE8, "kv_scales": SCALES8},
            updates={"kv": "kv", "kv_scales": "kv_scales"},
            params={**into_floats.params, "head_dim": int},
            variants=_variants(
                ("append/waiting", "new_quad/waiting", "finish/kv8"), "eps" in params, _refuse8
            ),
            make_inputs=handing_on(partial(_inputs8, make_inputs), make_inputs),
            tolerance=_tolerance8,
            values=_reference,
        )
    )
    return register(into_floats)


rope_append = _pair("rope_append", BIASES, {}, handing_on(_bias_inputs, _inputs))
norm_rope_append = _pair("norm_rope_append", NORMS, {"eps": float}, handing_on(_norm_inputs, _inputs))


def _product(p, x, q, k, v):
    return p.linear(x=x, weight="+".join((q, k, v)))


def stacked_qkv(
    p, x, q, k, v, table, kv, state, *, passed, ring, sinks
):  # many parameters: the operands and parameters of the op
    """Queries, turned, and the cache with the step's keys, turned, and values."""
    return turned_and_appended(p, x, q, k, v, table, kv, state, passed=passed, ring=ring, sinks=sinks)


def _stacked(
    p, x, q, k, v, table, kv, state, *, passed, ring, sinks
):  # many parameters: the operands and parameters of the op
    given = {"table": table, "kv": kv, "state": state, "passed": passed, "ring": ring, "sinks": sinks}
    return p.rope_append(x=_product(p, x, q, k, v), **given)


def stacked_qkv_bias(
    p, x, q, k, v, q_bias, k_bias, v_bias, table, kv, state, *, passed, ring, sinks
):  # many parameters: the operands and parameters of the op
    """Queries, turned, and the cache with the step's keys, turned, and values, all with biases."""
    biases = (q_bias, k_bias, v_bias)
    q, k, v = (p.linear(x=x, weight=m, bias=b) for m, b in zip((q, k, v), biases, strict=True))
    q, k = (p.rope(x=each, table=table, state=state, passed=passed) for each in (q, k))
    return q, p.kv_append(k=k, v=v, kv=kv, state=state, ring=ring, sinks=sinks)


def _stacked_bias(
    p, x, q, k, v, q_bias, k_bias, v_bias, table, kv, state, *, passed, ring, sinks
):  # many parameters: the operands and parameters of the op
    given = {"table": table, "kv": kv, "state": state, "passed": passed, "ring": ring, "sinks": sinks}
    given |= {"q_bias": q_bias, "k_bias": k_bias, "v_bias": v_bias}
    return p.rope_append(x=_product(p, x, q, k, v), **given)


def stacked_qkv_norm(
    p, x, q, k, v, q_norm, k_norm, table, kv, state, *, eps, passed, ring, sinks
):  # many parameters: the operands and parameters of the op
    """Queries, turned, and the cache with the step's keys, turned, and values; queries and keys normed head by head."""
    q, k, v = (p.linear(x=x, weight=matrix) for matrix in (q, k, v))
    q, k = (p.head_norm(x=x, weight=norm, eps=eps) for x, norm in ((q, q_norm), (k, k_norm)))
    q, k = (p.rope(x=each, table=table, state=state, passed=passed) for each in (q, k))
    return q, p.kv_append(k=k, v=v, kv=kv, state=state, ring=ring, sinks=sinks)


def _stacked_norm(
    p, x, q, k, v, q_norm, k_norm, table, kv, state, *, eps, passed, ring, sinks
):  # many parameters: the operands and parameters of the op
    given = {"table": table, "kv": kv, "state": state, "q_norm": q_norm, "k_norm": k_norm}
    more = {"eps": eps, "passed": passed, "ring": ring, "sinks": sinks}
    return p.norm_rope_append(x=_product(p, x, q, k, v), **given, **more)


def interleaved_qkv(
    p, x, q, k, v, table, kv, state, *, ring, sinks
):  # many parameters: the operands and parameters of the op
    """Queries, turned, and the cache with the step's keys, turned, and values; the rotation is interleaved."""
    q, k, v = (p.linear(x=x, weight=matrix) for matrix in (q, k, v))
    q, k = (p.rope(x=each, table=table, state=state, interleaved=True) for each in (q, k))
    return q, p.kv_append(k=k, v=v, kv=kv, state=state, ring=ring, sinks=sinks)


def _interleaved(
    p, x, q, k, v, table, kv, state, *, ring, sinks
):  # many parameters: the operands and parameters of the op
    given = {"table": table, "kv": kv, "state": state, "ring": ring, "sinks": sinks}
    return p.rope_append(x=_product(p, x, q, k, v), interleaved=True, **given)


def interleaved_qkv_norm(
    p, x, q, k, v, table, kv, state, *, eps, head_dim, ring, sinks
):  # many parameters: the operands and parameters of the op
    """Queries, turned and normed head by head, and the cache with the step's keys, likewise, and values."""
    q, k, v = (p.linear(x=x, weight=matrix) for matrix in (q, k, v))
    q, k = (p.rope(x=each, table=table, state=state, interleaved=True) for each in (q, k))
    q, k = (p.head_norm(x=each, eps=eps, head_dim=head_dim) for each in (q, k))
    return q, p.kv_append(k=k, v=v, kv=kv, state=state, ring=ring, sinks=sinks)


def _interleaved_norm(
    p, x, q, k, v, table, kv, state, *, eps, head_dim, ring, sinks
):  # many parameters: the operands and parameters of the op
    given = {"table": table, "kv": kv, "state": state, "eps": eps, "ring": ring, "sinks": sinks}
    return p.norm_rope_append(x=_product(p, x, q, k, v), interleaved=True, **given)


def _pays(facts: Facts, match: Match) -> bool:
    """Three dispatches or four fewer, and k and v share the waves of workgroups of q."""
    return True


STACKED_QKV = tuple(
    rule(before, after, stack=("q", "k", "v"), usual=_pays)
    for before, after in (
        (stacked_qkv, _stacked),
        (stacked_qkv_bias, _stacked_bias),
        (interleaved_qkv_norm, _interleaved_norm),
        (interleaved_qkv, _interleaved),
    )
)
#: Tried before `head_norm_rope` takes its calls away.
STACKED_QKV_NORM = rule(stacked_qkv_norm, _stacked_norm, stack=("q", "k", "v"), usual=_pays)
