"""`attention_reduce` with its result in INT8, for the product behind it.

attention_reduce[a8]  attention_reduce, quantize_activations
"""

from __future__ import annotations

from dataclasses import replace

from ..composition import Facts, Match, fusion
from ..layout import A8, INT8_BLOCK
from ..makers import handing_on
from ..pair import Port, Variant, kernel
from ..quantized.quantize_activations import quantize_activations, quantized_tolerance
from ..reduce import by_quads
from .attention_reduce import (
    BY_HEADS,
    REDUCE_THREADS,
    attention_reduce,
    joined_by_lanes,
    prefer_lanes,
    reduce_inputs,
    reduce_tolerance,
    refuse_parts_of_blocks,
    refuse_wide_heads,
)


def _reduce_tolerance(arguments, expected) -> dict:
    y = attention_reduce.reference(arguments["sums"].double(), arguments["stats"].double())
    error = reduce_tolerance(arguments, {"y": y})["y"]
    stride = arguments["stride"]
    quants, scales = quantized_tolerance(y, expected["y_scales"].double(), INT8_BLOCK, stride, error)
    return {"y": quants, "y_scales": scales}


@kernel(
    op="attention_reduce",
    reads=dict(attention_reduce.reads),
    writes={
        "y": Port(("tokens", "y_words"), "u32", packed=8, of="y", plane="quants"),
        "y_scales": Port(("tokens", "y_blocks"), "f32", of="y", plane="scales"),
    },
    form={"y": A8},
    params={"stride": int},
    derive=lambda s: (
        {
            "y_blocks": s["heads"] * s["head_dim"] // INT8_BLOCK,
            "y_words": s["heads"] * s["head_dim"] // 4,
        }
        if "heads" in s
        else {}
    ),
    variants={
        "lanes": joined_by_lanes("attention/attention_reduce_lanes_a8", INT8_BLOCK),
        "heads": Variant(
            "attention/attention_reduce_a8",
            grid=lambda c: (c["heads"], c["tokens"], 1),
            library=lambda c: (f"own_quads/{by_quads(c, REDUCE_THREADS)}",),
            refuse=lambda c: refuse_parts_of_blocks(c) or refuse_wide_heads(c),
            why=BY_HEADS,
        ),
    },
    make_inputs=handing_on(
        lambda stride=1, **options: {**reduce_inputs(**options), "stride": stride}, reduce_inputs
    ),
    tolerance=_reduce_tolerance,
    cost=lambda s: replace(
        attention_reduce.cost(s), written=1.125 * s["tokens"] * s["heads"] * s["head_dim"]
    ),
    prefer=prefer_lanes,
)
def attention_reduce_a8(sums, stats, stride):
    """Words [tokens, y_words] and scales [tokens, y_blocks] of what `attention_reduce` gives."""
    return quantize_activations.reference(attention_reduce.reference(sums, stats), INT8_BLOCK, stride=stride)


def _whole_heads(facts: Facts, match: Match) -> bool:
    return not facts.adapter.is_cpu and match.shape("sums")[3] % INT8_BLOCK == 0


@fusion(op="attention_reduce", where=_whole_heads)
def reduce_in_int8(p, sums, stats):
    """What `attention_reduce` gives, in INT8."""
    return p.quantize_activations(x=p.attention_reduce(sums=sums, stats=stats))
