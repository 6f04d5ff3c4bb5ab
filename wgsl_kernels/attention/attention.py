"""Causal attention with grouped queries over the key/value cache, for prefill and decode.

`attention` reads a cache in f32 or f16, `attention[kv8]` one in INT8 (kv8.py). They share their WGSL: what a cache is
made of comes as a library file, and so does what they see of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from ..cache.kv8 import CACHE8, SCALES8, dequantized, random_cache
from ..cache.kv_append import CACHE
from ..layout import KV8
from ..makers import handing_on
from ..numerics import EPS32, random_tensor
from ..pair import Context, Cost, Port, Variant, ceil_div, kernel
from ..reduce import MOST_ITERATIONS, eight_lanes_only, lanes_within, reduction, too_many_iterations
from ..state import STATE, rows_state, runs, slots_of
from ..tiles import beyond_a_workgroup

#: What bounds the positions that a token sees, and scores; a call that says nothing of them has no such bounds.
BOUNDS = {"window": int, "chunk": int, "sinks": int, "softcap": float}
UNBOUNDED = {"window": 0, "chunk": 0, "sinks": 0, "softcap": 0.0}


def bounds_library(context: Context) -> tuple[str, ...]:
    """The library files for `BOUNDS`: what a token sees, with which query, and what becomes of scores."""
    sees = "seen/near" if context["window"] or context["chunk"] else "seen/all"
    queries = "queries/sinks" if "q_sinks" in context.types else "queries/same"
    return sees, queries, "scores/capped" if context["softcap"] else "scores/plain"


def refuse_sinks(context: Context) -> str | None:
    """Sinks are what stays where a window or chunks bound the rest."""
    if not (context["window"] or context["chunk"]) and (context["sinks"] or "q_sinks" in context.types):
        return "sinks stand in front of a window or chunks, and there are none"
    return None


def first_seen(position: torch.Tensor, window: int, chunk: int) -> torch.Tensor:
    """The first position that a token at `position` sees beside the sinks: of its window those in its chunk; 0 is no
    such bound."""
    first = (position - window + 1).clamp(min=0) if window else torch.zeros_like(position)
    return torch.maximum(first, position // chunk * chunk) if chunk else first


def capped(scores: torch.Tensor, softcap: float) -> torch.Tensor:
    """softcap * tanh(scores / softcap) (Gemma 2, section 2); 0 leaves scores as they are."""
    return softcap * (scores / softcap).tanh() if softcap else scores


def positions_seen(s: Mapping) -> tuple[float, float]:
    """How many positions a token attends to on average, and how many of the cache a step reads, at most.

    s: sizes; `seen` is what the cache holds, its whole capacity unless known.
    """
    held = s.get("seen", s["capacity"])
    bound = min((s[name] + s["sinks"] for name in ("window", "chunk") if s[name]), default=held)
    return min(held, bound), min(held, bound + s["tokens"] - 1)


def _make_inputs(  # many parameters: one for each option of `Kernel.inputs`
    seed=0,
    tokens=3,
    heads=4,
    kv_heads=2,
    head_dim=16,
    capacity=32,
    position=5,
    sequences=2,
    sequence=1,
    window=0,
    chunk=0,
    sinks=0,
    softcap=0.0,
    q_sinks=False,
    scattered=False,
    x_dtype="f32",
    y_dtype="f32",
) -> dict:
    generator = torch.Generator().manual_seed(seed)
    rows = {"capacity": capacity, "position": position, "sequences": sequences, "sequence": sequence}
    made = {
        "q": random_tensor(generator, (tokens, heads * head_dim), x_dtype),
        "kv": random_tensor(generator, (sequences, 2, kv_heads, capacity, head_dim), x_dtype),
        "state": rows_state(seed, tokens, scattered=scattered, **rows),
        "scale": head_dim**-0.5,
        "window": window,
        "chunk": chunk,
        "sinks": sinks,
        "softcap": softcap,
    }
    if q_sinks:
        made["q_sinks"] = random_tensor(generator, (tokens, heads * head_dim), x_dtype)
    return made


def score_bound(arguments) -> torch.Tensor:
    """What a score's error is a few units of: sum |q||k|, and of a cap what tanh is off by."""
    q, kv = arguments["q"].double(), arguments["kv"].double()
    if "q_sinks" in arguments:
        q = torch.cat([q, arguments["q_sinks"].double()])
    largest = q.abs().max() * kv.abs().max() * kv.shape[-1] * arguments["scale"]
    return largest + 8 * arguments.get("softcap", 0.0)


def _tolerance(arguments, expected) -> dict:
    """The exponential turns errors of scores into relative errors of the weights."""
    kv, score = arguments["kv"].double(), score_bound(arguments)
    return {
        "y": (8 + 2 * score) * EPS32 * kv.abs().max() * torch.ones_like(expected["y"], dtype=torch.float64)
    }


def _cost(s) -> Cost:
    tokens, width = s["tokens"], s["width"]
    seen, read = positions_seen(s)
    cache = 2 * s["kv_heads"] * s["head_dim"] * read * 4
    return Cost(4 * tokens * width + cache, 4 * tokens * width, 4 * tokens * width * seen)


def _refuse_broadcast(context: Context) -> str | None:
    if reason := refuse_sinks(context):
        return reason
    if context.sizes.get("sequences", 1) > 1:
        return "eight rows share what they read, and those of several sequences do not"
    return eight_lanes_only(context)


#: Tokens of a tile, positions that it meets at a time, quads of a head that workgroup memory has room for, and tokens
#: of a step from which on a tile is faster than a workgroup for each of them.
TILE_ROWS, TILE_COLUMNS, TILE_QUADS = (32, 64), 32, 64
TILE_TOKENS = 40


def _tile_iterations(context: Context) -> float:
    """Of each tile of positions: slices of queries and keys, and of values."""
    quads = context["head_dim"] / 4
    seen, _ = positions_seen(context.sizes)
    scores = ceil_div(int(quads), 8) * (8 * 5 + 6)
    values = TILE_COLUMNS * (1 + quads / 8 * 5) / 4
    return (seen / TILE_COLUMNS + 1) * (scores + values)


def _refuse_tile(context: Context) -> str | None:
    if reason := refuse_sinks(context):
        return reason
    if context["sinks"]:
        return "a tile meets all positions with one query"
    if context["head_dim"] > 4 * TILE_QUADS:
        return f"heads of {context['head_dim']} dimensions do not fit into workgroup memory"
    if context.adapter.is_cpu and (needed := _tile_iterations(context)) > MOST_ITERATIONS:
        return f"its loops take {needed:.0f} iterations, which a software adapter cuts off"
    return None


def _prefer(context: Context) -> tuple[str, str]:
    if context["tokens"] >= TILE_TOKENS and not context.adapter.is_cpu and not _refuse_tile(context):
        return "tile", "keys and values are read once for the tokens of a tile"
    if context["tokens"] >= 8 and context.adapter.is_cpu and not _refuse_broadcast(context):
        return "broadcast", "a software adapter with 8 lanes a subgroup: loads and barriers are what costs"
    return "online", "a workgroup for each token and head"


THREADS = (64, 8, 16, 32, 128)


def _iterations(context: Context, threads: int) -> float:
    """Of each tile of positions: pieces of a key, and of values those that a thread owns, every few positions."""
    pieces = context["head_dim"] / 4
    share = min(pieces, threads)
    seen, _ = positions_seen(context.sizes)
    return seen / threads * (1 + pieces + ceil_div(int(pieces), int(share)) * (share + 1))


def _refuse(context: Context) -> str | None:
    if "positions_per_thread" in context.sizes:
        threads, quads = context["workgroup"], context.sizes.get("words", context["head_dim"] // 4)
        at_once = threads // min(quads // (4 if "words" in context.sizes else 1), threads)
        scores = 8 * threads * context["positions_per_thread"]  # of a tile, and as much for its reduction
        queries = 2 if "q_sinks" in context.types else 1
        if reason := beyond_a_workgroup(threads, 16 * quads * (queries + at_once) + scores):
            return reason
    if reason := refuse_sinks(context):
        return reason
    return too_many_iterations(_iterations)(context)


def _variants(cache: str) -> dict[str, Variant]:
    """For a cache that a library file reads."""
    return {
        "online": Variant(
            "attention/attention",
            grid=lambda c: (c["width"] // c["head_dim"], c["tokens"], 1),
            tunables={"workgroup": THREADS, "positions_per_thread": (1, 2, 4)},
            defaults=lanes_within(_iterations, THREADS),
            refuse=_refuse,
            library=lambda c: (cache, *bounds_library(c), reduction(c)),
            why="any number of tokens: a workgroup a token and head",
        ),
        "broadcast": Variant(
            "attention/attention_broadcast",
            grid=lambda c: (
                c["width"] // c["head_dim"] * ceil_div(c["head_dim"], 32),
                ceil_div(c["tokens"], 8),
                1,
            ),
            library=lambda c: (cache, *bounds_library(c)),
            refuse=_refuse_broadcast,
            why="many tokens on an adapter with 8 lanes a subgroup: no barrier, few loads",
        ),
        "tile": Variant(
            "attention/attention_tile",
            grid=lambda c: (c["width"] // c["head_dim"], ceil_div(c["tokens"], c["tile_rows"]), 1),
            tunables={"tile_rows": TILE_ROWS},
            library=lambda c: (cache, *bounds_library(c)[::2]),
            refuse=_refuse_tile,
            why="many tokens on a GPU: two matrix products with operands in workgroup memory",
        ),
    }


#: Queries that meet the sinks, where those are not `q`.
Q_SINKS = Port(("tokens", "width"), optional=True, binding=6)


@kernel(
    reads={"q": Port(("tokens", "width")), "kv": CACHE, "state": STATE, "q_sinks": Q_SINKS},
    writes={"y": Port(("tokens", "width"), binding=3)},
    params={"scale": float, **BOUNDS},
    defaults=UNBOUNDED,
    variants=_variants("cache/float"),
    prefer=_prefer,
    make_inputs=_make_inputs,
    tolerance=_tolerance,
    cost=_cost,
)
def attention(
    q, kv, state, scale, q_sinks=None, window=0, chunk=0, sinks=0, softcap=0.0
):  # many parameters: the operands and parameters of the op
    """softmax(scale q k^T) v for q [tokens, heads * head_dim]; token t stands at p = state[t, 0] of its sequence and
    sees 0 .. p there.

    kv [sequences, 2, kv_heads, capacity, head_dim] holds keys and values; head h reads cache head
    h // (heads / kv_heads). window: a token sees p - window + 1 .. p only (sliding windows of Mistral, Gemma). chunk:
    positions q with q // chunk = p // chunk only (Llama 4). sinks: and the first `sinks` of its sequence (attention
    sinks, Xiao et al. 2023), which it meets with its row of q_sinks where that is given. softcap: scores s become
    softcap tanh(s / softcap) (Gemma 2). 0 is no such bound. With a window or chunks the cache is a ring
    (`state.slots_of`), which must have slots for all that the step's tokens see.
    """
    width = q.shape[1]
    _, _, kv_heads, capacity, head_dim = kv.shape
    groups = width // head_dim // kv_heads
    y = torch.empty_like(q)
    for sequence, rows, positions in runs(state):
        own, seen, slots = seen_slots(positions, capacity, window, chunk, sinks)
        keys, values = kv[sequence][:, :, slots].to(q.dtype)
        asked = [
            each[rows].view(len(rows), kv_heads, groups, head_dim).permute(1, 2, 0, 3)
            for each in (q, q if q_sinks is None else q_sinks)
        ]
        met = [torch.einsum("hgtd,hpd->hgtp", queries, keys) * scale for queries in asked]
        scores = capped(torch.where(seen < sinks, met[1], met[0]), softcap)
        near = (seen >= first_seen(own, window, chunk)) | (seen < sinks)
        weights = scores.masked_fill(~(near & (seen <= own)), float("-inf")).softmax(-1)
        y[rows] = torch.einsum("hgtp,hpd->thgd", weights, values).reshape(len(rows), width)
    return y


def seen_slots(
    positions: torch.Tensor, capacity: int, window: int, chunk: int, sinks: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of the rows of a sequence where they stand [rows, 1], what any of them may see [n], and where that lies [n]."""
    ring = bool(window or chunk)
    own = (positions if ring else positions.clamp(max=capacity - 1)).unsqueeze(-1)
    first = int(first_seen(own, window, chunk).min())
    seen = torch.arange(int(own.max()) + 1)
    seen = seen[(seen >= first) | (seen < sinks)]
    return own, seen, slots_of(seen, capacity, ring, sinks)


# ---- over a cache in INT8 ----------------------------------------------------------------------------------------

#: What kernels that read an INT8 cache bind after their queries.
READS8 = {"kv": CACHE8, "state": STATE, "kv_scales": replace(SCALES8, binding=5), "q_sinks": Q_SINKS}


def _inputs8(seed=0, kv_heads=2, head_dim=16, capacity=32, sequences=2, **options) -> dict:
    """Those of `attention`, with a cache of the same numbers in INT8."""
    sizes = {"kv_heads": kv_heads, "head_dim": head_dim, "capacity": capacity, "sequences": sequences}
    arguments = attention.inputs(seed=seed, **sizes, **options)
    generator = torch.Generator().manual_seed(seed + 1)
    cache = random_cache(generator, sequences, kv_heads, capacity, head_dim)
    return {**arguments, **cache, "head_dim": head_dim}


inputs8 = handing_on(_inputs8, _make_inputs)


def seen_cache(q, kv, kv_scales, state, head_dim) -> torch.Tensor:
    """What a step of q [tokens, width] sees of an INT8 cache, dequantized: of each sequence what its rows reach; of a
    ring that has come round all."""
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    found = torch.zeros(*kv.shape[:4], head_dim, dtype=dtype)
    for sequence, _, positions in runs(state):
        seen = slice(0, int(positions.max()) + 1)
        words, scales = kv[sequence, :, :, seen], kv_scales[sequence, :, :, seen]
        found[sequence, :, :, seen] = dequantized(words, scales, head_dim, dtype)
    return found


def as_float(arguments: dict) -> dict:
    """Arguments of an INT8 pair as those of the pair over a float cache."""
    given = {name: value for name, value in arguments.items() if name not in ("kv_scales", "head_dim")}
    cache = [arguments[name] for name in ("q", "kv", "kv_scales", "state", "head_dim")]
    return given | {"kv": seen_cache(*cache)}


def _tolerance8(arguments, expected) -> dict:
    """That of `attention`, twice: a score is multiplied by its scale, and so is a weight."""
    return {"y": 2 * _tolerance(as_float(arguments), expected)["y"]}


def cache_bytes8(s) -> float:
    """Bytes of keys and values that a step reads of an INT8 cache."""
    _, read = positions_seen(s)
    return 2 * s["kv_heads"] * read * (4 * s["words"] + 4)


def _cost8(s) -> Cost:
    (seen, _), width = positions_seen(s), s["tokens"] * s["width"]
    return Cost(4 * width + cache_bytes8(s), 4 * width, 4 * width * seen)


@kernel(
    op="attention",
    form={"kv": KV8},
    reads={"q": Port(("tokens", "width")), **READS8},
    writes={"y": Port(("tokens", "width"), binding=3)},
    params={"scale": float, "head_dim": int, **BOUNDS},
    defaults=UNBOUNDED,
    variants=_variants("cache/kv8"),
    prefer=_prefer,
    make_inputs=inputs8,
    tolerance=_tolerance8,
    cost=_cost8,
)
def attention_kv8(q, kv, state, kv_scales, scale, head_dim, **more):
    """`attention` over an INT8 cache: kv [sequences, 2, kv_heads, capacity, words], kv_scales [..., capacity]. more:
    q_sinks and bounds."""
    seen = seen_cache(q, kv, kv_scales, state, head_dim)
    return attention.reference(q, seen, state, scale, **more)
