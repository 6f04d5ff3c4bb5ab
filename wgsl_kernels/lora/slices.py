"""A x behind a norm for a token alone, in slices of the columns: `norm_lora_slices`, a kernel a format of A, and
`lora_up_norm_slices`, where x is still to get what an adapter adds to it; each with the weighed row in INT8, too.

    lora_up_norm_slices     lora_up, norm_lora_slices
    lora_up_norm_slices_a8  lora_up, norm_lora_slices_a8

A workgroup for each row of A takes one load after the other, and 16 to 48 of them leave most of a GPU idle. Here slices
of 256 columns are shared out, and within them the rows, so that a thread loads at once all that it needs. What reads
`y` [tokens, slices * ranks] adds up the slices (`wgsl_kernels.lora.low_rank`), and multiplies with the norm's factor
1 / rms, which y lacks as the product's own sums do.

`norm_lora_slices_a8` leaves norm * x in INT8, so that products behind it (`wgsl_kernels.linear.sliced_a8`) begin to
multiply at once, where each of their workgroups would make the row anew. A slice of its y has BEHIND numbers more, the
sum of the squares of x and zeros, from which they know the norm's factor. A of floats alone: integers bind more
buffers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch

from ..layout import INT8_BLOCK
from ..linear.few_tokens import gemv_defaults
from ..linear.norm_linear import refuse_columns
from ..makers import handing_on
from ..numerics import EPS32
from ..pair import REGISTRY, Context, Cost, Kernel, Port, Variant, ceil_div, register
from ..quantized.quantize_activations import quantize_activations, quantized_tolerance
from ..reduce import by_quads, team_reduction
from ..weights import WEIGHT_FORMATS, is_quantized, magnitude_planes, weight_library, weight_sizes
from .lora_down import lora_down_reference
from .low_rank import (
    BEHIND,
    LOW_RANK,
    LOW_RANK_DEFAULTS,
    LOW_RANK_PARAMS,
    SLICE,
    low_rank_files,
    low_rank_inputs,
    low_rank_sum,
    slices_of,
    widened,
)


def _sliced(x: torch.Tensor, weight, state, ranks: int) -> torch.Tensor:
    """`lora_down_reference` of each slice of x [tokens, columns], [tokens, slices * ranks]."""
    of_slices = []
    for first in range(0, x.shape[1], SLICE):
        alone = torch.zeros_like(x)
        alone[:, first : first + SLICE] = x[:, first : first + SLICE]
        of_slices.append(lora_down_reference(alone, weight, state, ranks))
    return torch.cat(of_slices, -1)


def _reference(x, norm, weight, state, ranks, **_) -> torch.Tensor:
    """A (norm * x) of each slice of the columns, [tokens, slices * ranks], with the A [ranks, columns] of each token's
    adapter, 0 where it has none."""
    return _sliced(x * norm.to(x.dtype), weight, state, ranks)


def _handed_reference(x, norm, weight, state, ranks, stride, **_):
    """What `norm_lora_slices` gives, with the squares of x behind each slice, [tokens, slices * (ranks + BEHIND)]; norm
    * x in INT8: words [tokens, words] in the order `stride`, scales [tokens, blocks]."""
    y = _reference(x, norm, weight, state, ranks).unflatten(1, (-1, ranks))
    squares = torch.zeros(*y.shape[:2], BEHIND, dtype=y.dtype)
    for slice, columns in enumerate(x.split(SLICE, -1)):
        squares[:, slice, 0] = columns.pow(2).sum(-1)
    words, scales = quantize_activations.reference(x * norm.to(x.dtype), INT8_BLOCK, stride=stride)
    return torch.cat([y, squares], -1).flatten(1), words, scales


def _behind_up(reference: Callable) -> Callable:
    def up_reference(x, state, **given) -> tuple[torch.Tensor, ...]:
        total = x + low_rank_sum(x.shape[1], {**given, "state": state}).to(x.dtype)
        found = reference(x=total, state=state, **given)
        return total, *(found if isinstance(found, tuple) else (found,))

    up_reference.__doc__ = f"total = x + B lora_x [tokens, columns], and of that: {reference.__doc__}"
    return up_reference


def _variant(fmt: str, *, up: bool, handed: bool) -> Variant:
    def library(context: Context) -> tuple[str, ...]:
        own = (*low_rank_files(context), "kept_row/plane")
        alone = "low_sums/none", "row_state/bound", "kept_row/none"
        hand_on = ("hand_on/int8", f"store_blocks/{by_quads(context)}") if handed else ("hand_on/none",)
        pieces = "x/vec4", *weight_library(fmt, context)
        return *pieces, *(own if up else alone), *hand_on, *team_reduction(context)

    return Variant(
        "lora/norm_lora_slices",
        grid=lambda c: (
            c["slices"] * ceil_div(c["ranks"], c["rows_per_team"] * c["teams"]),
            c["tokens"],
            1,
        ),
        tunables={"workgroup": (256, 64), "teams": (1, 2, 8), "rows_per_team": (1, 2)},
        library=library,
        refuse=refuse_columns,
        defaults=gemv_defaults(lambda c: (256, 8, 1)),
        why="an adapter's rows are read where a token's sequence has it",
    )


def _up_inputs(made, seed=0, tokens=3, columns=64, ranks=8, adapters=2, rows=None, rank=8, **options) -> dict:
    """rows: as of `lora_down`."""
    adapters = ceil_div(rows, ranks) if rows else adapters
    arguments = made(seed=seed, tokens=tokens, columns=columns, ranks=ranks, adapters=adapters, **options)
    generator = torch.Generator().manual_seed(seed + 2)
    added = low_rank_inputs(generator, tokens, columns, adapters, rank=rank)
    return {**arguments, **{name: value for name, value in added.items() if name != "state"}}


def _tolerance(fmt: str, arguments, expected) -> dict:
    """Sums of a slice's products, and of x before them."""
    x, bounds = arguments["x"].double().abs(), {}
    if "lora_b" in arguments:
        inner, up = widened(x.shape[1], arguments)
        x = x + inner.abs() @ up.abs().T
        bounds = {"total": 8 * EPS32 * x + 1e-30}
    magnitude = magnitude_planes(fmt, arguments, x.shape[1])
    weighed = x * arguments["norm"].double().abs()
    ranks, relative = arguments["ranks"], (20 + SLICE**0.5) * EPS32
    bound = _sliced(weighed, magnitude, arguments["state"], ranks)
    if "stride" not in arguments:
        return {**bounds, "y": relative * bound + 1e-30}
    bound = torch.nn.functional.pad(bound.unflatten(1, (-1, ranks)), (0, BEHIND))
    for slice, columns in enumerate(x.split(SLICE, -1)):
        bound[:, slice, ranks] = columns.pow(2).sum(-1)
    row = expected.get("total", arguments["x"]).double() * arguments["norm"].double()
    expected_scales = expected["scales"].double()
    quants = quantized_tolerance(row, expected_scales, INT8_BLOCK, arguments["stride"], 10 * EPS32 * weighed)
    return {**bounds, "y": relative * bound.flatten(1) + 1e-30, "words": quants[0], "scales": quants[1]}


def _derive(fmt: str, behind: int, sizes) -> dict:
    found = {**weight_sizes(fmt), "behind": behind}
    if "columns" in sizes:
        blocks = ceil_div(sizes["columns"], INT8_BLOCK)
        found |= {"slices": slices_of(sizes["columns"]), "x_groups": blocks, "x_words": 8 * blocks}
        if "ranks" in sizes:
            found["slice_ranks"] = found["slices"] * (sizes["ranks"] + behind)
    return found


def norm_lora_slices(whole: Kernel) -> Kernel:
    """The pair of a format. whole: its `norm_lora_down`."""
    fmt = whole.form["weight"]
    without = {name: kind for name, kind in whole.params.items() if name != "eps"}
    made = whole.make_inputs
    return register(
        replace(
            whole,
            op="norm_lora_slices",
            reference=_reference,
            writes={"y": Port(("tokens", "slice_ranks"), "f32", binding=6)},
            params=without,
            variants={"gemv": _variant(fmt, up=False, handed=False)},
            make_inputs=handing_on(
                lambda **options: {n: v for n, v in made(**options).items() if n != "eps"},
                made,
                without=("eps",),
            ),
            tolerance=partial(_tolerance, fmt),
            derive=partial(_derive, fmt, 0),
        )
    )


def norm_lora_slices_a8(whole: Kernel) -> Kernel:
    """The pair of a format of floats. whole: its `norm_lora_slices`."""
    fmt, made = whole.form["weight"], whole.make_inputs
    return register(
        replace(
            whole,
            op="norm_lora_slices_a8",
            reference=_handed_reference,
            writes={
                **whole.writes,
                "words": Port(("tokens", "x_words"), "u32", binding=5, packed=8),
                "scales": Port(("tokens", "x_groups"), "f32", binding=11),
            },
            params={**whole.params, "stride": int},
            variants={"gemv": _variant(fmt, up=False, handed=True)},
            make_inputs=handing_on(lambda stride=1, **options: {**made(**options), "stride": stride}, made),
            derive=partial(_derive, fmt, BEHIND),
        )
    )


def lora_up_norm_slices(whole: Kernel) -> Kernel:
    """The pair of a format. whole: its `norm_lora_slices` or `norm_lora_slices_a8`."""
    fmt, handed = whole.form["weight"], "words" in whole.writes

    def cost(sizes) -> Cost:
        alone, row = whole.cost(sizes), sizes["tokens"] * sizes["columns"]
        factors = row * sizes["lora_rank"]
        return Cost(alone.read + 4 * factors, alone.written + 4 * row, alone.flops + 2 * factors)

    added = {name: replace(port, optional=False) for name, port in LOW_RANK.items() if name != "state"}
    return register(
        replace(
            whole,
            op=f"lora_up_{whole.op.replace('lora_', '')}",
            reference=_behind_up(whole.reference),
            reads={**whole.reads, **added},
            writes={"total": Port(("tokens", "columns"), binding=4), **whole.writes},
            params={**whole.params, **LOW_RANK_PARAMS},
            defaults={**whole.defaults, **LOW_RANK_DEFAULTS},
            variants={"gemv": _variant(fmt, up=True, handed=handed)},
            make_inputs=handing_on(
                partial(_up_inputs, whole.make_inputs), whole.make_inputs, without=("made",)
            ),
            cost=cost,
        )
    )


for _format in WEIGHT_FORMATS:
    _slices = norm_lora_slices(REGISTRY[f"norm_lora_down[{_format}]"])
    lora_up_norm_slices(_slices)
    if not is_quantized(_format):
        lora_up_norm_slices(norm_lora_slices_a8(_slices))
