"""The second step of decode attention: the parts that `attention_split` leaves, put together."""

from __future__ import annotations

import torch

from ..layout import INT8_BLOCK
from ..numerics import EPS32, random_tensor
from ..pair import Context, Cost, Port, Variant, ceil_div, kernel, spread
from ..reduce import known_lanes, lanes_default

#: Of a workgroup that puts splits together (lib/attention_parts).
REDUCE_THREADS = 256
#: A score that no position has, exact in every float type of references.
NONE = -(2.0**127)
SUMS, STATS = ("tokens", "heads", "splits", "head_dim"), ("tokens", "heads", "splits", 2)


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
