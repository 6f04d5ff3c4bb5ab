"""The end of a greedy step in two dispatches: `norm_argmax`, a weight format each, and `argmax_reduce`.

    norm_argmax, argmax_reduce  rms_norm, linear (LM head), argmax

The first gives the largest of each `group` logits and its row, the second the largest of those. Each reference is the
composition of the references it replaces.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F

from ..composition import Facts, Match, Rule, rule
from ..judge import doubles
from ..linear.few_tokens import CPU_ROWS
from ..linear.norm_linear import NORM_LINEAR
from ..linear.norm_linear_a8 import NORM_LINEAR_A8, round_sums, row_bytes
from ..lora.low_rank import LOW_RANK, LOW_RANK_PARAMS
from ..makers import handing_on
from ..numerics import random_tensor
from ..pair import Adapter, Context, Cost, Kernel, Port, Variant, ceil_div, kernel, register, spread
from ..reduce import lanes_default, reduction
from ..tiles import WORKGROUP_BYTES
from .logits import argmax

#: Workgroups that quantize a row for themselves, about: they fill a large GPU.
STAGING = 400
GROUPS = ("tokens", "groups")
PARTS = {"largest": Port(GROUPS, "f32", binding=6), "index": Port(GROUPS, "u32", binding=8)}


def group_for(adapter: Adapter, rows: int, staged: bool, on_cpu: int) -> int:
    """Rows of a group: on a CPU `on_cpu`, on a GPU 32 or more.

    staged: whether a workgroup quantizes the row before it multiplies. Of a large vocabulary it then takes so many rows
    that `STAGING` workgroups do so: 32 rows each cost an 8B Llama 46 us of 1,911 a token (H200).
    """
    if adapter.is_cpu:
        return on_cpu
    return max(32, min(256, 1 << (rows // STAGING).bit_length() - 1)) if staged and rows > STAGING else 32


def _grouped(y: torch.Tensor, group: int, fill: float) -> torch.Tensor:
    """[tokens, rows] as [tokens, groups, group], the last group filled up."""
    padded = F.pad(y, (0, -y.shape[-1] % group), value=fill)
    return padded.view(y.shape[0], -1, group)


def largest_of(y: torch.Tensor, group: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest of each `group` numbers of y [tokens, rows], and its row."""
    values = _grouped(y, group, -torch.inf)
    tokens, groups, _ = values.shape
    found = argmax.reference(values.reshape(-1, group)).view(tokens, groups)
    rows = found + group * torch.arange(groups, dtype=torch.int32)
    return values.max(-1).values, rows.to(torch.int32)


def parts_of(y: torch.Tensor, group: int, row_offset: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """`largest_of` y, rows row_offset and on of a larger result: in its places, behind groups that stay zero."""
    largest, index = largest_of(y, group)
    before = (row_offset // group, 0)
    return F.pad(largest, before), F.pad(index + row_offset, before)


def _reference(product: Kernel, group, row_offset=0, **rest):
    """largest [tokens, groups] of each `group` rows of a product, and index [tokens, groups], their rows.

    row_offset: a multiple of `group`; the weight's rows are those from there on.
    """
    return parts_of(product.reference(**rest), group, row_offset)


def _inputs(make_inputs, group=32, **options) -> dict:
    return {**make_inputs(**options), "group": group}


def _tolerance(product: Kernel, arguments, expected) -> dict:
    """Rounding moves each number; so the row may be any that is largest with errors in its favour."""
    group, offset = arguments["group"], arguments.get("row_offset", 0)
    left_out = ("group", "row_offset", "out_rows")
    rest = doubles({name: value for name, value in arguments.items() if name not in left_out})
    y = product.run_reference(rest)["y"]
    error = _grouped(product.tolerance(rest, {"y": y})["y"], group, 0.0)
    values = _grouped(y, group, -torch.inf)
    wins = values + error >= (values - error).max(-1, keepdim=True).values
    rows = offset + torch.arange(values.shape[1] * group).view(1, -1, group)
    before = (offset // group, 0)
    apart = (rows - expected["index"][:, before[0] :].unsqueeze(-1)).abs() * wins
    bounds = {"largest": error.max(-1).values, "index": apart.max(-1).values.double()}
    return {name: F.pad(bound, before) for name, bound in bounds.items()}


def _at_once(context: Context) -> int:
    return context.sizes.get("teams", 1) * context.sizes.get("rows_per_team", 1)


def _refuse(product: Variant, context: Context) -> str | None:
    at_once = _at_once(context)
    if context["group"] % at_once:
        return f"{at_once} rows at once do not make up a group of {context['group']}"
    return product.refuse(context)


def _cost(product: Kernel, s) -> Cost:
    all_logits = product.cost(s)
    return Cost(all_logits.read, 8 * s["tokens"] * s["groups"], all_logits.flops)


def _derive(product: Kernel, sizes) -> dict:
    given = {"rows", "group"} <= set(sizes)
    rows = sizes.get("row_offset", 0) + sizes["rows"] if given else 0
    groups = {"groups": ceil_div(rows, sizes["group"])} if given else {}
    return {**groups, **{name: size for name, size in product.derive(sizes).items() if name != "out_rows"}}


def _passes(context: Context, staged: bool) -> tuple[str, ...]:
    if context["group"] == _at_once(context):
        return ("run_passes/one",)
    if not staged:
        return ("run_passes/many",)
    kept = round_sums(context)
    if kept == "round_sums/subgroups" and row_bytes(context, context["group"]) <= WORKGROUP_BYTES:
        return "run_passes/kept", kept
    return ("run_passes/ahead",)


def grouped(gemv: Variant, logits: str, why: str, *, staged: bool) -> Variant:
    """The variant of `norm_linear` as one over groups of rows; logits: the library file with `keep_logit`. staged:
    whether a workgroup quantizes the row first."""
    return replace(
        gemv,
        file="logits/norm_argmax",
        grid=lambda c: spread(ceil_div(c["rows"], c["group"]), c["tokens"]),
        library=lambda c: (
            *gemv.library(c),
            logits,
            *_passes(c, staged),
        ),
        refuse=partial(_refuse, gemv),
        why=why,
    )


def norm_argmax(product: Kernel, op: str, *, staged: bool) -> Kernel:
    """The pair for a `norm_linear`: the same but for what is kept of its result."""
    why = "few tokens: logits stay in registers, and a number for each group of rows is left"
    params = {
        name: kind for name, kind in product.params.items() if name not in ("out_rows", *LOW_RANK_PARAMS)
    }
    return register(
        replace(
            product,
            op=op,
            reference=partial(_reference, product),
            reads={name: port for name, port in product.reads.items() if name not in LOW_RANK},
            writes=PARTS,
            params={**params, "group": int},
            defaults={name: value for name, value in product.defaults.items() if name in params},
            variants={"gemv": grouped(product.variants["gemv"], "keep_logit/none", why, staged=staged)},
            make_inputs=handing_on(
                partial(_inputs, product.make_inputs), product.make_inputs, without=("adapters",)
            ),
            tolerance=partial(_tolerance, product),
            cost=partial(_cost, product),
            derive=partial(_derive, product),
        )
    )


#: Each with the product that it is made from.
NORM_ARGMAX = [
    (product, norm_argmax(product, "norm_argmax", staged=False)) for product in NORM_LINEAR.values()
]
NORM_ARGMAX_A8 = [
    (product, norm_argmax(product, "norm_argmax_a8", staged=True)) for product in NORM_LINEAR_A8.values()
]


def _group_inputs(seed=0, tokens=1, groups=64, y_dtype="f32") -> dict:
    generator = torch.Generator().manual_seed(seed)
    largest, index = largest_of(random_tensor(generator, (tokens, 8 * groups)), 8)
    return {"largest": largest, "index": index}


@kernel(
    reads={"largest": Port(GROUPS, "f32"), "index": Port(GROUPS, "u32")},
    writes={"best": Port(("tokens",), "u32")},
    variants={
        "row": Variant(
            "logits/argmax_reduce",
            grid=lambda c: (c["tokens"], 1, 1),
            tunables={"workgroup": (256, 8, 16, 32, 64, 128)},
            defaults=lanes_default,
            library=lambda c: (reduction(c),),
        )
    },
    make_inputs=_group_inputs,
    tolerance=lambda arguments, expected: {"best": torch.zeros(expected["best"].shape, dtype=torch.float64)},
    cost=lambda s: Cost(8 * s["tokens"] * s["groups"], 4 * s["tokens"], s["tokens"] * s["groups"]),
)
def argmax_reduce(largest, index):
    """Of groups' largest numbers [tokens, groups] the largest; its index [tokens], of equals the first."""
    return index.gather(-1, argmax.reference(largest).long().unsqueeze(-1)).squeeze(-1)


def whole_groups(facts: Facts, match: Match, staged: bool, on_cpu: int) -> bool | dict[str, int]:
    """Where no group of rows would lie in two bindings; how many rows a group has (`group_for`)."""
    ranges = match.ranges("weight")
    group = group_for(facts.adapter, ranges[-1][1], staged, on_cpu)
    if any(first % group for first, _ in ranges):
        return False
    return {"group": group}


def _greedy(product: str, grouped_product: str, *, staged: bool) -> Rule:
    def end(p, x, norm, weight, *, eps):
        """The largest logit, of a product behind a norm."""
        return p.argmax(x=getattr(p, product)(x=x, norm=norm, weight=weight, eps=eps))

    def by_groups(p, x, norm, weight, *, eps, group):
        largest, index = getattr(p, grouped_product)(x=x, norm=norm, weight=weight, eps=eps, group=group)
        return p.argmax_reduce(largest=largest, index=index)

    def where(facts: Facts, match: Match) -> bool | dict[str, int]:
        # on a CPU what a subgroup computes at once: it unrolls nothing inside a loop over parts of a group
        return whole_groups(facts, match, staged, CPU_ROWS)

    return rule(end, by_groups, name=grouped_product, where=where, usual=lambda facts, match: True)


ARGMAX = (
    _greedy("norm_linear", "norm_argmax", staged=False),
    _greedy("norm_linear_a8", "norm_argmax_a8", staged=True),
)
