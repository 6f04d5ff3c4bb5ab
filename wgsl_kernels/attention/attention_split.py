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
from ..layout import INT8_BLOCK, KV8, cache_words
from ..linear.few_tokens import FEW_TOKENS
from ..makers import handing_on
from ..numerics import EPS32, random_tensor
from ..pair import Context, Cost, Port, Variant, ceil_div, kernel, spread
from ..reduce import known_lanes, lanes_default
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

#: Positions that a split takes at least: fewer are not worth a workgroup.
LEAST = 32
#: Positions that a split of several rows takes at most: one long sequence beside short ones is not to wait for a few
#: workgroups.
MOST = 512
#: Workgroups of several rows that fill a large GPU and run at once (H200).
FILLING = 512
#: Rows of several sequences in one step that are split at most: more fill a GPU by themselves.
MANY_ROWS = 64
#: Of a workgroup that puts splits together (lib/attention_parts).
REDUCE_THREADS = 256
#: A score that no position has, exact in every float type of references.
NONE = -(2.0**127)


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


SUMS, STATS = ("tokens", "heads", "splits", "head_dim"), ("tokens", "heads", "splits", 2)


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


def reduce_inputs(seed=0, tokens=3, heads=4, splits=5, head_dim=16, x_dtype="f32", y_dtype="f32") -> dict:
    generator = torch.Generator().manual_seed(seed)
    sums = random_tensor(generator, (tokens, heads, splits, head_dim), "f32")
    stats = torch.stack(
        [
            random_tensor(generator, (tokens, heads, splits), "f32"),
            1 + torch.rand(tokens, heads, splits, generator=generator),
        ],
        -1,
    )
    if splits > 1:  # the last part saw no position
        sums[:, :, -1], stats[:, :, -1, 0], stats[:, :, -1, 1] = 0, NONE, 0
    return {"sums": sums, "stats": stats}


def reduce_tolerance(arguments, expected) -> dict:
    """A weight exp(d), d = largest_s - largest, is off by (3 + 2|d|) ulp and by d's own rounding, relatively; both sums
    carry that and a rounding a split. A part without positions weighs nothing."""
    sums, stats = arguments["sums"].double(), arguments["stats"].double()
    away = stats[..., 0] - stats[..., 0].amax(-1, keepdim=True)
    weights = away.exp()
    error = (8 + sums.shape[2] + 5 * away.abs()) * weights
    total = (weights * stats[..., 1]).sum(-1, keepdim=True)
    y = expected["y"].double().abs().unflatten(1, (sums.shape[1], sums.shape[3]))
    above = (error.unsqueeze(-1) * sums.abs()).sum(2)
    below = (error * stats[..., 1]).sum(-1, keepdim=True)
    return {"y": EPS32 * ((above + below * y) / total + 5 * y).flatten(1) + 1e-30}


def refuse_wide_heads(context: Context) -> str | None:
    """A thread of a workgroup adds up four dimensions."""
    if context["head_dim"] > 4 * REDUCE_THREADS:
        return f"heads of {context['head_dim']} are wider than {4 * REDUCE_THREADS}"
    return None


def _refuse_lanes(context: Context) -> str | None:
    lanes = known_lanes(context)
    if lanes < 8:
        return "it needs subgroups of a known size, 8 lanes at least"
    if context.sizes.get("workgroup", lanes) % lanes:
        return f"workgroups of {context['workgroup']} threads are not whole subgroups of {lanes}"
    return None


BY_LANES = "no barrier between loads and result: a subgroup takes 32 dimensions of a head"
BY_HEADS = "for any device: a workgroup takes a head, and its threads meet in workgroup memory"


def joined_by_lanes(file: str, width: int = 1) -> Variant:
    """The variant without barriers. width: numbers of which a head has a multiple."""

    def grid(context: Context) -> tuple[int, int, int]:
        blocks = context["tokens"] * context["heads"] * ceil_div(context["head_dim"], 32)
        return spread(ceil_div(blocks * known_lanes(context), context["workgroup"]))

    return Variant(
        file,
        grid=grid,
        tunables={"workgroup": (32, 8, 16, 64, 128)},
        defaults=lambda c: {"workgroup": max(32, known_lanes(c)), **lanes_default(c)},
        refuse=lambda c: refuse_parts_of_blocks(c, width) or _refuse_lanes(c),
        why=BY_LANES,
    )


def prefer_lanes(context: Context) -> tuple[str, str]:
    """Subgroups, where they are known."""
    return ("heads", BY_HEADS) if _refuse_lanes(context) else ("lanes", BY_LANES)


def refuse_parts_of_blocks(context: Context, width: int = INT8_BLOCK) -> str | None:
    """Where a result is quantized in blocks, or `width` numbers otherwise, a head is whole ones."""
    if context["head_dim"] % width:
        return f"heads of {context['head_dim']} are not whole blocks of {width}"
    return None


@kernel(
    reads={
        "sums": Port(SUMS, "f32"),
        "stats": Port(STATS, "f32"),
    },
    writes={"y": Port(("tokens", "width"))},
    derive=lambda s: {"width": s["heads"] * s["head_dim"]} if "heads" in s else {},
    variants={
        "lanes": joined_by_lanes("attention/attention_reduce_lanes"),
        "heads": Variant(
            "attention/attention_reduce",
            grid=lambda c: (c["heads"], c["tokens"], 1),
            refuse=refuse_wide_heads,
            why=BY_HEADS,
        ),
    },
    make_inputs=reduce_inputs,
    tolerance=reduce_tolerance,
    cost=lambda s: Cost(
        4 * s["tokens"] * s["heads"] * s["splits"] * (s["head_dim"] + 2),
        4 * s["tokens"] * s["heads"] * s["head_dim"],
        4 * s["tokens"] * s["heads"] * s["splits"] * s["head_dim"],
    ),
    prefer=prefer_lanes,
)
def attention_reduce(sums, stats):
    """y [tokens, heads * head_dim] from the parts of `attention_split`: softmax over all positions, put together."""
    largest, totals = stats[..., 0], stats[..., 1]
    weights = (largest - largest.amax(-1, keepdim=True)).exp()
    y = (weights.unsqueeze(-1) * sums).sum(2) / (weights * totals).sum(-1, keepdim=True)
    return y.flatten(1)


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
