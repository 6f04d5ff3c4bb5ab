"""The k largest logits of a row, so that sampling need not read all of them back.

    norm_linear_max, top_k_reduce  rms_norm, linear (LM head), top_k

`top_k` takes any rows. Behind a product for few tokens, `norm_linear_max` (a weight format each) has left the largest
logit of each group of rows beside the logits, and `top_k_reduce` looks only into the groups that winners come from.
(Lists of k numbers from each workgroup, to be merged, would be as long as the logits themselves.)
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch

from ..composition import Facts, Match, Rule, rule
from ..judge import doubles
from ..makers import handing_on
from ..numerics import random_tensor
from ..pair import Cost, Kernel, Port, Variant, ceil_div, kernel, register
from ..reduce import lanes_within, reduction, too_many_iterations
from .norm_argmax import (
    GROUPS,
    NORM_ARGMAX,
    NORM_ARGMAX_A8,
    PARTS,
    grouped,
    largest_of,
    parts_of,
    whole_groups,
)

ROWS = ("tokens", "width")
TOP = ("tokens", "k")
#: Numbers that a thread looks through at a time where no product has left the largest of groups.
GROUP = 32
#: Rows of a group on a CPU: fewer leave a thread of `top_k_reduce` more groups than it can hold.
CPU_GROUP = 16


#: Bytes of private variables that WGSL promises, and of a group that a thread holds.
PRIVATE_BYTES, HELD_BYTES = 8192, 8


THREADS = (256, 8, 16, 32, 64, 128)


def _held(context, threads: int) -> int:
    """Groups of a thread."""
    return ceil_div(context["groups"], threads)


def _iterations(context, threads: int) -> float:
    """Once over the numbers, and each round over the groups held."""
    return _held(context, threads) * (context["group"] + context["k"] + 1) + 2 * context["k"]


def _defaults(context) -> dict[str, int]:
    """One subgroup on a software adapter, unless its threads would hold too many groups, or loop too often."""
    found = lanes_within(_iterations, THREADS)(context)
    held = _held(context, found.get("workgroup", THREADS[0])) * HELD_BYTES
    return found if held <= PRIVATE_BYTES else {}


def _refuse(context) -> str | None:
    if not {"groups", "workgroup", "k"} <= set(context.sizes):
        return None
    held = _held(context, context["workgroup"]) * HELD_BYTES
    if held > PRIVATE_BYTES:
        return f"a thread would hold {held} bytes, more than {PRIVATE_BYTES}"
    return too_many_iterations(_iterations)(context)


def _variant(groups: str) -> dict[str, Variant]:
    return {
        "knockout": Variant(
            "logits/top_k",
            grid=lambda c: (c["tokens"], 1, 1),
            tunables={"workgroup": THREADS},
            defaults=_defaults,
            refuse=_refuse,
            library=lambda c: (reduction(c), groups),
        )
    }


def _inputs(seed=0, tokens=2, width=200, k=8, x_dtype="f32", y_dtype="f32") -> dict:
    generator = torch.Generator().manual_seed(seed)
    return {"x": 4 * random_tensor(generator, (tokens, width), x_dtype), "k": min(k, width)}


def _reduce_inputs(group=32, **options) -> dict:
    arguments = _inputs(**options)
    largest, index = largest_of(arguments["x"].float(), group)
    return {**arguments, "largest": largest, "index": index, "group": group}


def _exact(arguments, expected) -> dict:
    return {name: torch.zeros(tensor.shape, dtype=torch.float64) for name, tensor in expected.items()}


def _cost(s) -> Cost:
    return Cost(4 * s["tokens"] * s["width"], 8 * s["tokens"] * s["k"], s["tokens"] * s["width"])


def _reduce_cost(s) -> Cost:
    read = s["groups"] * 8 + min(s["k"], s["groups"]) * s["group"] * 4
    return Cost(s["tokens"] * read, 8 * s["tokens"] * s["k"], s["tokens"] * s["groups"])


@kernel(
    reads={"x": Port(ROWS, binding=0)},
    writes={"values": Port(TOP, "f32", binding=1), "indices": Port(TOP, "u32", binding=2)},
    params={"k": int},
    variants=_variant("best_of/found"),
    make_inputs=_inputs,
    tolerance=_exact,
    cost=_cost,
    derive=lambda s: {"group": GROUP, **({"groups": ceil_div(s["width"], GROUP)} if "width" in s else {})},
)
def top_k(x, k):
    """The k largest of each row of x [tokens, width] and their indices, [tokens, k] each, of equals the first first.

    Numbers must be above the lowest f32, width below 2^24.
    """
    values, indices = x.topk(k, -1)  # of equals in any order
    indices = indices.sort(-1).values
    values, order = x.gather(-1, indices).sort(dim=-1, descending=True, stable=True)
    indices = indices.gather(-1, order)
    cut = (x >= values[:, -1:]).sum(-1) > k  # rows with equals on both sides of the end
    if cut.any():
        indices[cut] = x[cut].sort(dim=-1, descending=True, stable=True).indices[:, :k]
    return values, indices.to(torch.int32)


@kernel(
    reads={
        "x": Port(ROWS, binding=0),
        "largest": Port(GROUPS, "f32", binding=3),
        "index": Port(GROUPS, "u32", binding=4),
    },
    writes={"values": Port(TOP, "f32", binding=1), "indices": Port(TOP, "u32", binding=2)},
    params={"k": int, "group": int},
    variants=_variant("best_of/given"),
    make_inputs=handing_on(_reduce_inputs, _inputs),
    tolerance=_exact,
    cost=_reduce_cost,
)
def top_k_reduce(x, largest, index, k, group):
    """`top_k` of x, given the largest of each `group` numbers of a row and their index, [tokens, groups] each."""
    return top_k.reference(x, k)


def _max_reference(product: Kernel, group, row_offset=0, out_rows=None, **rest):
    """y as in `norm_linear`; largest and index [tokens, groups] as in `norm_argmax`."""
    y = product.reference(row_offset=row_offset, out_rows=out_rows, **rest)
    return y, *parts_of(product.reference(**rest), group, row_offset)


def _max_tolerance(product: Kernel, parts: Kernel, arguments, expected) -> dict:
    rest = doubles({name: value for name, value in arguments.items() if name != "group"})
    bound = product.tolerance(rest, {"y": expected["y"]})["y"]
    return {"y": bound, **parts.tolerance(arguments, expected)}


def _max_cost(parts: Kernel, s) -> Cost:
    cost = parts.cost(s)
    return Cost(cost.read, cost.written + 4 * s["tokens"] * s["rows"], cost.flops)


def norm_linear_max(product: Kernel, parts: Kernel, op: str, *, staged: bool) -> Kernel:
    """The pair for a `norm_linear` and its `norm_argmax`: the latter with the logits."""
    why = "few tokens: the largest of each group of rows comes with the product"
    return register(
        replace(
            parts,
            op=op,
            reference=partial(_max_reference, product),
            writes={"y": Port(("tokens", "out_rows"), "f32", binding=9), **PARTS},
            params={**parts.params, "out_rows": int},
            variants={"gemv": grouped(product.variants["gemv"], "keep_logit/plane", why, staged=staged)},
            tolerance=partial(_max_tolerance, product, parts),
            cost=partial(_max_cost, parts),
            derive=lambda s: {"out_rows": s.get("rows"), **parts.derive(s)},
        )
    )


for _product, _parts in NORM_ARGMAX:
    norm_linear_max(_product, _parts, "norm_linear_max", staged=False)
for _product, _parts in NORM_ARGMAX_A8:
    norm_linear_max(_product, _parts, "norm_linear_max_a8", staged=True)


def _top(product: str, with_largest: str, *, staged: bool) -> Rule:
    def end(p, x, norm, weight, *, eps, k):
        """Logits behind a norm, and the largest of them."""
        logits = getattr(p, product)(x=x, norm=norm, weight=weight, eps=eps)
        return logits, *p.top_k(x=logits, k=k)

    def by_groups(p, x, norm, weight, *, eps, k, group):
        logits, largest, index = getattr(p, with_largest)(x=x, norm=norm, weight=weight, eps=eps, group=group)
        return logits, *p.top_k_reduce(x=logits, largest=largest, index=index, k=k, group=group)

    def unedited(facts: Facts, match: Match) -> bool | dict[str, int]:
        # whoever changes the logits would leave the largest of groups as they were
        return not match.kept(f"{product}.0.y") and whole_groups(facts, match, staged, CPU_GROUP)

    return rule(end, by_groups, name=with_largest, where=unedited)


TOP_K = (
    _top("norm_linear", "norm_linear_max", staged=False),
    _top("norm_linear_a8", "norm_linear_max_a8", staged=True),
)
