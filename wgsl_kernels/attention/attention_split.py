"""Decode attention in two steps: `attention_split` over parts of the cache, `attention_reduce` over the parts.

A single token has one row of queries: a workgroup a head leaves a GPU idle. Splitting the cache fills it
(flash-decoding, Dao et al. 2023). Both together compute what `attention` computes, over a cache of floats
or of INT8.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from workbench.dtypes import ELEMENT_BYTES

from ..cache.kv_append import CACHE
from ..composition import Facts, Match, rule
from ..layout import KV8, cache_words
from ..linear.few_tokens import FEW_TOKENS
from ..makers import handing_on
from ..numerics import EPS32
from ..pair import Context, Cost, Port, Variant, ceil_div, kernel
from ..state import STATE
from ..tiles import WORKGROUP_BYTES
from .attention import (
    BOUNDS,
    Q_SINKS,
    READS8,
    UNBOUNDED,
    as_float,
    attention,
    bounds_library,
    cache_bytes8,
    capped,
    inputs8,
    positions_seen,
    refuse_sinks,
    score_bound,
    seen_cache,
    seen_slots,
)
from .attention_reduce import NONE, STATS, SUMS

#: Positions that a split takes at least: fewer are not worth a workgroup.
LEAST = 32
#: Positions that a split of several rows takes at most: one long sequence beside short ones is not to wait for a few
#: workgroups.
MOST = 512
#: Workgroups of several rows that fill a large GPU and run at once (H200).
FILLING = 512
#: Rows of several sequences in one step that are split at most: more fill a GPU by themselves.
MANY_ROWS = 64


def splits_for(capacity: int, rows: int = 1, groups: int = 1) -> int:
    """Splits that fill a GPU, of `LEAST` positions each where 64 of them hold the cache.

    A workgroup a head, and a few splits, leave a GPU idle: 640 positions of an 8B Llama took 27 us in 2 splits (H100).
    rows: of the step; groups: workgroups that a split of one row has. Several rows have more of them than run at once,
    which wait for their first bytes in turns: they take fewer splits of more positions, two at least.
    """
    most = max(1, min(64, ceil_div(capacity, LEAST)))
    if rows == 1:
        return most
    return min(most, max(2, round(FILLING / (rows * groups)), ceil_div(capacity, MOST)))


def _defaults(context: Context) -> dict[str, int]:
    """What was fastest of an 8B's steps on an H200 (docs/engine.md).

    A lane for every 16 bytes of a position, 16 lanes at most. Of an INT8 cache in short parts one for every 8, so that
    twice the threads share what there is. A turn is never longer than a part, as far as that goes.
    """
    head_dim, kv = context.sizes.get("head_dim", 128), context.types.get("kv", "f32")
    short = ceil_div(context.sizes.get("capacity", MOST), context.sizes.get("splits", 1)) <= LEAST
    if "words" in context.sizes:
        pieces = ceil_div(context["words"], 2 if short else 4)
    else:
        pieces = ceil_div(head_dim * ELEMENT_BYTES[kv], 16)
    most = min(16, context.adapter.subgroup_size or 16)
    lanes = min(most, max(8 if short else 4, 1 << (pieces - 1).bit_length()))
    own = ceil_div(head_dim, 4 * lanes)  # quads of a lane
    if "words" in context.sizes:
        workgroup, positions = min(128, 8 * lanes) if short else 64, 4
    elif kv == "f16" and not short and lanes == 16:
        workgroup, positions = 128, 4
    else:
        workgroup, positions = 64, 8 if own <= 2 and (lanes == 16 or not short) else 4
    return {"workgroup": max(64, workgroup), "lanes": lanes, "positions": positions}


def _workgroup_bytes(teams: int, lanes: int, head_dim: int) -> int:
    """Of queries, in whose place sums of values come; of the largest score and the total of each team and query."""
    own = ceil_div(ceil_div(head_dim, 16), lanes) * 4  # quads of a lane at most, whatever a piece is
    sums = teams * (head_dim // 4)
    return 16 * max(4 * own * lanes, 2 * sums if sums <= 256 else sums) + 32 * teams


def _refuse(context: Context) -> str | None:
    lanes = context.sizes.get("lanes", 1)
    if reason := refuse_sinks(context):
        return reason
    if "q_sinks" in context.types and context.sizes.get("splits", 2) < 2:
        return "sinks with a query of their own are a split of their own, beside one for the rest"
    if not (context.adapter.subgroups and context.adapter.subgroup_size):
        return "it needs subgroups of a known size"
    if lanes > context.adapter.subgroup_size:
        return f"{lanes} lanes are more than a subgroup's {context.adapter.subgroup_size}"
    if {"workgroup", "head_dim"} <= set(context.sizes):
        need = _workgroup_bytes(context["workgroup"] // lanes, lanes, context["head_dim"])
        if need > WORKGROUP_BYTES:
            return f"{need} bytes of workgroup memory are more than {WORKGROUP_BYTES}"
    return None


def _split_inputs(seed=0, splits=4, heads=4, kv_heads=2, position=5, y_dtype="f32", **options) -> dict:
    given = attention.inputs(seed=seed, heads=heads, kv_heads=kv_heads, position=position, **options)
    return {**given, "splits": splits}


def _split_tolerance(arguments, expected) -> dict:
    """Weights carry the error of their scores, eps * sum |q||k|, relatively."""
    kv, score = arguments["kv"].double(), score_bound(arguments)
    relative = (8 + 4 * score) * EPS32
    total = expected["stats"][..., 1].double()
    bound = relative * kv.abs().max() * total.unsqueeze(-1) + 1e-30
    stats = torch.stack([2 * EPS32 * score * torch.ones_like(total), relative * total], -1)
    stats[total == 0] = 0
    return {"sums": bound.expand_as(expected["sums"]), "stats": stats}


def _split_cost(s) -> Cost:
    seen, read = positions_seen(s)
    cache = 2 * s["kv_heads"] * s["head_dim"] * read * 4
    parts = 4 * s["tokens"] * s["heads"] * s["splits"] * (s["head_dim"] + 2)
    return Cost(4 * s["tokens"] * s["width"] + cache, parts, 4 * s["tokens"] * s["width"] * seen)


def _heads(s) -> dict:
    return {"heads": s["width"] // s["head_dim"], "least": LEAST} if {"width", "head_dim"} <= set(s) else {}


def _groups(heads: int, kv_heads: int) -> int:
    """Workgroups of a split: each takes up to four query heads that share a head of keys and values."""
    return kv_heads * ceil_div(heads // kv_heads, 4)


def _float_cache(context: Context) -> str:
    """16 bytes a load."""
    return "cache/half" if context.types["kv"] == "f16" and context["head_dim"] % 8 == 0 else "cache/float"


def _byte_cache(context: Context) -> str:
    """16 bytes a load where that leaves no lane without any."""
    return "cache/kv8" if context["words"] > 2 * context["lanes"] else "cache/kv8_pairs"


def _teams(cache: Callable[[Context], str]) -> dict[str, Variant]:
    """cache: the library file that reads it."""
    return {
        "teams": Variant(
            "attention/attention_split",
            grid=lambda c: (_groups(c["heads"], c["kv_heads"]), c["splits"], c["tokens"]),
            tunables={"workgroup": (64, 128), "lanes": (16, 8, 4), "positions": (8, 4)},
            defaults=_defaults,
            library=lambda c: (cache(c), *bounds_library(c)),
            refuse=_refuse,
            why="one token, a long cache: as many workgroups as fill the device, each cache entry read once",
        )
    }


@kernel(
    reads={"q": Port(("tokens", "width")), "kv": CACHE, "state": STATE, "q_sinks": Q_SINKS},
    writes={"sums": Port(SUMS, "f32", binding=3), "stats": Port(STATS, "f32", binding=4)},
    params={"scale": float, "splits": int, **BOUNDS},
    defaults=UNBOUNDED,
    derive=_heads,
    variants=_teams(_float_cache),
    make_inputs=handing_on(_split_inputs, attention.make_inputs),
    tolerance=_split_tolerance,
    cost=_split_cost,
)
def attention_split(
    q, kv, state, scale, splits, q_sinks=None, window=0, chunk=0, sinks=0, softcap=0.0
):  # many parameters: the operands and parameters of the op
    """Unnormalised attention of q [tokens, heads * head_dim] over `splits` parts of the positions that a token sees.

    sums [tokens, heads, splits, head_dim] = sum_p exp(s_p - m) v_p; stats [tokens, heads, splits, 2] = m = max s_p and
    sum_p exp(s_p - m), over the part's positions p; s_p = scale q k_p. A part without positions has sums 0 and stats
    (-2^127, 0). Parts have ceil(count / splits) of the `count` positions that a token sees, but at least 32; the sinks
    come first, and where they have queries of their own they are the first part, and the others share the rest. window,
    chunk, sinks, softcap: as for `attention`.
    """
    tokens, width = q.shape
    _, _, kv_heads, capacity, head_dim = kv.shape
    heads = width // head_dim
    sums = torch.zeros(tokens, heads, splits, head_dim, dtype=q.dtype)
    stats = torch.zeros(tokens, heads, splits, 2, dtype=q.dtype)
    stats[..., 0] = NONE
    for t, (position, _, sequence, _) in enumerate(state.tolist()):
        keys, values = (part.to(q.dtype).repeat_interleave(heads // kv_heads, 0) for part in kv[sequence])
        _, _, slots = seen_slots(torch.tensor([position]), capacity, window, chunk, sinks)
        parts, left = [], slots  # queries, and what they meet
        if q_sinks is not None:
            parts, left = [(q_sinks, slots[:sinks])], slots[sinks:]
        length = max(ceil_div(len(left), splits - len(parts)), LEAST)
        parts += [(q, left[start : start + length]) for start in range(0, len(left), length)]
        for s, (queries, part) in enumerate(parts):
            query = queries[t].view(heads, 1, head_dim)
            scores = capped((query * keys[:, part]).sum(-1) * scale, softcap)
            largest = scores.amax(-1, keepdim=True)
            weights = (scores - largest).exp()
            sums[t, :, s] = torch.einsum("hp,hpd->hd", weights, values[:, part])
            stats[t, :, s] = torch.cat([largest, weights.sum(-1, keepdim=True)], -1)
    return sums, stats


def _split_tolerance8(arguments, expected) -> dict:
    """That of `attention_split`, twice: a score is multiplied by its scale, and so is a weight."""
    return {name: 2 * bound for name, bound in _split_tolerance(as_float(arguments), expected).items()}


def _split_cost8(s) -> Cost:
    return replace(_split_cost(s), read=4 * s["tokens"] * s["width"] + cache_bytes8(s))


@kernel(
    op="attention_split",
    form={"kv": KV8},
    reads={"q": Port(("tokens", "width")), **READS8},
    writes={"sums": Port(SUMS, "f32", binding=3), "stats": Port(STATS, "f32", binding=4)},
    params={"scale": float, "splits": int, "head_dim": int, **BOUNDS},
    defaults=UNBOUNDED,
    derive=_heads,
    variants=_teams(_byte_cache),
    make_inputs=handing_on(lambda splits=4, **options: {**inputs8(**options), "splits": splits}, inputs8),
    tolerance=_split_tolerance8,
    cost=_split_cost8,
)
def attention_split_kv8(q, kv, state, kv_scales, scale, splits, head_dim, **more):
    """`attention_split` over an INT8 cache: kv [sequences, 2, kv_heads, capacity, words], kv_scales [..., capacity].
    more: q_sinks and bounds."""
    seen = seen_cache(q, kv, kv_scales, state, head_dim)
    return attention_split.reference(q, seen, state, scale, splits, **more)


def _whole(
    p, q, kv, state, q_sinks=None, *, scale, window, chunk, sinks, softcap
):  # many parameters: the operands and parameters of the op
    """Attention of few tokens, over parts of the cache."""
    bounds = {"window": window, "chunk": chunk, "sinks": sinks, "softcap": softcap}
    return p.attention(q=q, kv=kv, state=state, q_sinks=q_sinks, scale=scale, **bounds)


def _parts(
    p, q, kv, state, q_sinks=None, *, scale, window, chunk, sinks, softcap, splits
):  # many parameters: the operands and parameters of the op
    bounds = {"window": window, "chunk": chunk, "sinks": sinks, "softcap": softcap}
    given = {"q": q, "kv": kv, "state": state, "q_sinks": q_sinks}
    sums, stats = p.attention_split(**given, scale=scale, splits=splits, **bounds)
    return p.attention_reduce(sums=sums, stats=stats)


def _where(facts: Facts, match: Match) -> bool | dict[str, int]:
    """Where `attention_split` can run, for few tokens."""
    limits = [int(match.params[name]) for name in ("window", "chunk") if match.params[name]]
    _, _, kv_heads, _, head_dim = match.shape("kv")
    groups = _groups(match.shape("q")[1] // head_dim, kv_heads)
    splits = splits_for(min([facts.capacity, *limits]), facts.tokens, groups) + bool(match.params["sinks"])
    # rows of several sequences share no keys, however many there are
    few = FEW_TOKENS if facts.sequences == 1 else MANY_ROWS
    if facts.tokens > few or splits < 2:
        return False
    pair = attention_split_kv8 if match.label("kv") == KV8 else attention_split
    sizes = {"head_dim": head_dim} | ({"words": cache_words(head_dim)} if pair is attention_split_kv8 else {})
    if pair.variants["teams"].refuse(pair.specialise("teams", {**match.params, **sizes}, {}, facts.adapter)):
        return False
    return {"splits": splits}


def _idle_units(facts: Facts, match: Match) -> bool:
    """A GPU has them for parts of the cache; a CPU computes workgroups one after the other."""
    return not facts.adapter.is_cpu


SPLIT_ATTENTION = rule(_whole, _parts, name="split_attention", where=_where, usual=_idle_units)
