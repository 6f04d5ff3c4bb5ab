"""Products of many tokens with their experts: pairs of a token and an expert are sorted by expert, on the device, and a
tile of weights serves the pairs of one expert (grouped GEMM).

    expert_order          where each expert's pairs stand in the sorted list
    expert_linear_sorted  expert_linear, by tiles as those of `linear`

An expert's last tile may be partly empty. The grid has a tile for each expert more than pairs fill, since only the
device knows how many each expert needs; workgroups of tiles that nobody needs end at once.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch

from ..composition import Facts, Match, rule
from ..layout import INT8_STRIDES
from ..linear import few_tokens, linear, linear_a8
from ..makers import handing_on
from ..pair import Context, Cost, Kernel, Port, Variant, ceil_div, kernel, register, spread
from ..weights import WEIGHT_FORMATS, dense, weight_ports
from .expert_linear import (
    EXPERTS,
    SCORES,
    derive,
    expert_inputs,
    expert_linear_reference,
    expert_tolerance,
    floats_of,
    form_of,
    made,
    params_of,
    reads_of,
    score_file,
    weight_cost,
)

ORDER = Port(("tokens", "order_width"), "u32", binding=4)
STARTS = Port(("bounds",), "u32", binding=5)


def _order_inputs(seed=0, tokens=5, chosen=2, count=4, scores=False) -> dict:
    generator = torch.Generator().manual_seed(seed)
    experts = torch.randint(0, count, (tokens, chosen), generator=generator).to(torch.int32)
    more = {"scores": torch.rand(tokens, chosen, generator=generator)} if scores else {}
    return {"experts": experts, **more, "count": count}


@kernel(
    reads={"experts": replace(EXPERTS, binding=0), "scores": SCORES},
    writes={"order": replace(ORDER, binding=1), "starts": replace(STARTS, binding=2)},
    params={"count": int},
    derive=lambda s: {
        **({"order_width": 2 * s["chosen"]} if "chosen" in s else {}),
        **({"bounds": s["count"] + 1} if "count" in s else {}),
    },
    variants={
        "experts": Variant(
            "experts/expert_order",
            grid=lambda c: (ceil_div(c["count"], 64), 1, 1),
            library=lambda c: (score_file(c),),
        )
    },
    make_inputs=_order_inputs,
    tolerance=lambda arguments, expected: {
        name: torch.zeros(each.shape, dtype=torch.float64) for name, each in expected.items()
    },
    cost=lambda s: Cost(8 * s["tokens"] * s["chosen"], 8 * s["tokens"] * s["chosen"], 0),
)
def expert_order(experts, count, scores=None):
    """Pairs of token t and its j-th expert, numbered t * chosen + j, by expert and then by number.

    experts [tokens, chosen], of `count`. order [tokens, 2 * chosen]: pair after pair its number and the bits of its
    score as f32, 1 where there are none; starts [count + 1]: where the pairs of each expert begin, and the end.
    """
    flat = experts.reshape(-1).long()
    order = flat.argsort(stable=True)
    scores = torch.ones(len(flat)) if scores is None else scores.reshape(-1).float()
    words = torch.stack([order.to(torch.int32), scores[order].view(torch.int32)], -1)
    starts = torch.nn.functional.pad(flat.bincount(minlength=count).cumsum(0), (1, 0))
    return words.view(len(experts), -1), starts.to(torch.int32)


def unsorted(order: torch.Tensor, starts: torch.Tensor) -> dict[str, torch.Tensor]:
    """`experts` and `scores` [tokens, chosen] of what `expert_order` gives."""
    pairs, bits = order.reshape(-1, 2).unbind(-1)
    experts = torch.arange(len(starts) - 1).repeat_interleave(starts.diff().long())
    at = pairs.long().argsort()
    shape = (len(order), order.shape[1] // 2)
    return {
        "experts": experts[at].view(shape),
        "scores": bits.contiguous().view(torch.float32)[at].view(shape),
    }


def _reference(fmt: str, integer: bool, weight, order, starts, **given) -> torch.Tensor:
    """`expert_linear` of the same tokens, experts and scores."""
    if integer:
        given["x_scales"] = given["x_scales"].to(weight.dtype)
        given["x"] = floats_of(fmt, given)
    return expert_linear_reference(**{**given, **unsorted(order, starts), "weight": weight})


def _inputs(fmt: str, rows=48, expert_rows=12, row_offset=0, chosen=2, order_width=None, **options) -> dict:
    """order_width: in place of `chosen`, twice as much."""
    chosen = order_width // 2 if order_width else chosen
    whole = {"rows": rows, "expert_rows": expert_rows, "row_offset": row_offset}
    arguments = expert_inputs(fmt, chosen=chosen, **whole, **options)
    experts, scores = arguments.pop("experts"), arguments.pop("scores", None)
    order, starts = expert_order.reference(experts, ceil_div(row_offset + rows, expert_rows), scores)
    return {**arguments, "order": order, "starts": starts}


def _tolerance(fmt: str, arguments, expected) -> dict:
    return expert_tolerance(fmt, {**arguments, **unsorted(arguments["order"], arguments["starts"])}, expected)


def _cost(fmt: str, sizes) -> Cost:
    tokens, chosen, rows, columns = (sizes[n] for n in ("tokens", "chosen", "expert_rows", "columns"))
    read = weight_cost(fmt, sizes) + 4 * tokens * columns * sizes["inputs"]
    return Cost(read, 4 * tokens * chosen * rows, 2 * tokens * chosen * rows * columns)


def _derive(fmt: str, integer: bool, s) -> dict:
    more = {"chosen": s["order_width"] // 2} if "order_width" in s else {}
    more |= {"count": s["bounds"] - 1} if "bounds" in s else {}
    return {**more, **derive(fmt, integer, {**s, **more})}


def _grid(context: Context) -> tuple[int, int, int]:
    """Tiles that pairs fill, and one for each expert whose last is not full."""
    pairs = context["tokens"] * context["chosen"]
    tiles = pairs // context["tile_tokens"] + min(context["count"], pairs)
    return spread(ceil_div(context["expert_rows"], context["tile_rows"]), tiles)


def expert_linear_sorted(fmt: str, integer: bool = False) -> Kernel:
    """The pair for one weight format, with float or INT8 activations."""
    module = linear_a8 if integer else linear
    tile = module.tiled(fmt, lambda c: ("tile_rows/expert",), "tile_place/experts")["tile"]
    reads = {n: port for n, port in reads_of(fmt, integer).items() if n not in ("experts", "scores")}
    return register(
        Kernel(
            op="expert_linear_sorted",
            form=form_of(fmt, integer),
            reference=partial(_reference, fmt, integer),
            reads={**reads, "order": ORDER, "starts": STARTS},
            writes={"y": Port(("tokens", "out_width"), binding=6)},
            params={**params_of(fmt, integer), "row_offset": int},
            defaults={"row_offset": 0},
            variants={"tile": replace(tile, grid=_grid)},
            make_inputs=handing_on(made(fmt, integer, _inputs)),
            tolerance=partial(_tolerance, fmt),
            cost=partial(_cost, fmt),
            prepare=partial(dense, fmt),
            prepared_ports=tuple(weight_ports(fmt)),
            derive=partial(_derive, fmt, integer),
        )
    )


for _format in WEIGHT_FORMATS:
    expert_linear_sorted(_format)
for _format in INT8_STRIDES:
    expert_linear_sorted(_format, integer=True)


#: Pairs for each expert from which on tiles are taken.
PAIRS_EACH = 4


def _many_pairs(facts: Facts, match: Match) -> bool | dict[str, int]:
    """Where experts meet several tokens each on a GPU: weights are read once for a tile of them."""
    count = match.shape("weight")[0] // int(match.params["expert_rows"])
    pairs = facts.tokens * match.shape("experts")[1]
    many = facts.tokens > few_tokens.BATCH and pairs >= PAIRS_EACH * count
    return {"count": count} if many and not facts.adapter.is_cpu else False


def _by_token(p, x, weight, experts, scores=None, *, expert_rows):
    """Products of tokens with the experts of each."""
    return p.expert_linear(x=x, weight=weight, experts=experts, scores=scores, expert_rows=expert_rows)


def _by_expert(p, x, weight, experts, scores=None, *, expert_rows, count):
    order, starts = p.expert_order(experts=experts, scores=scores, count=count)
    return p.expert_linear_sorted(x=x, weight=weight, order=order, starts=starts, expert_rows=expert_rows)


EXPERT_SORTED = rule(_by_token, _by_expert, name="expert_sorted", where=_many_pairs)
