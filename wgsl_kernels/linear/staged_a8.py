"""The variant of `linear` with INT8 activations that sends all loads of a workgroup at once, for one token."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from ..pair import Context, Variant, ceil_div, spread
from ..reduce import known_lanes, lanes_default, team_reduction, whole_subgroups
from ..tiles import beyond_a_workgroup
from ..weights import scale_library
from .few_tokens import epilogue
from .products_a8 import wide_int2

#: Weight formats of the variant, and columns of a piece.
PIECES = {"int4": 32, "int2": 64}


def staged_bytes(fmt: str, context: Context) -> int:
    """Of the workgroup memory that activations, scales, sums of teams and what adapters add take (the same constants as
    in `lib/row_columns`, `lib/row_scales` and `lib/add_up`)."""
    piece = PIECES[fmt]
    threads, rows = context["workgroup"], context["teams"] * context["rows_per_team"]
    team = threads // context["teams"]
    chunk, block = team * context["held"], context["block"]
    columns = chunk * piece
    beyond = 0 if columns % block == 0 else 1 if block % columns == 0 else 2
    of_columns = (piece + 16) * chunk if context["columns_staged"] else 0
    of_scales = 8 * rows * (columns // block + beyond)
    lanes = known_lanes(context)
    sums = 4 * rows * ceil_div(team, lanes) if lanes else 16 * threads
    return of_columns + of_scales + sums + (16 * rows if "lora_b" in context.types else 0)


def within_rows(fmt: str, context: Context, chosen: Mapping[str, int]) -> dict[str, int]:
    """Tunables with no more pieces of a row held than it has."""
    pieces = ceil_div(context["columns"], PIECES[fmt])
    team, held = chosen["workgroup"] // chosen["teams"], chosen["held"]
    while held > 1 and team * held // 2 >= pieces:
        held //= 2
    return {**chosen, "held": held}


def refuse_staged(fmt: str, context: Context) -> str | None:
    """Why the variant cannot run with these tunables, or None."""
    if fmt == "int2" and "x_groups" in context.sizes and not wide_int2(context, context["x_groups"]):
        return f"blocks of {context['block']} or {context['x_groups']} groups of 32 columns are no whole pieces of 64"
    if "held" not in context.sizes:
        return None
    return whole_subgroups(context) or beyond_a_workgroup(context["workgroup"], staged_bytes(fmt, context))


def _library(fmt: str, context: Context) -> tuple[str, ...]:
    return (
        "x_a8/buffer",
        *scale_library(context),
        f"product_a8/{fmt}",
        "row_columns/staged" if context["columns_staged"] else "row_columns/own",
        *epilogue(context),
        *team_reduction(context),
    )


def staged(fmt: str, gpu: Callable[[Context], Mapping[str, int]]) -> Variant:
    """The variant for one weight format. gpu: tunables that suit a GPU, those of several teams where subgroups have 32
    lanes."""

    def defaults(context: Context) -> dict[str, int]:
        if lanes := lanes_default(context):
            return {**lanes, "teams": 1}
        if known_lanes(context) != 32:
            return {"workgroup": 64, "teams": 1}
        return within_rows(fmt, context, gpu(context))

    return Variant(
        "linear/linear_a8_staged",
        grid=lambda c: spread(ceil_div(c["rows"], c["rows_per_team"] * c["teams"]), c["tokens"]),
        tunables={
            "workgroup": (128, 8, 32, 64, 224, 256),
            "teams": (2, 1, 4, 8),
            "rows_per_team": (4, 1, 2, 8),
            "held": (2, 1, 4),
            "columns_staged": (1, 0),
        },
        library=partial(_library, fmt),
        refuse=partial(refuse_staged, fmt),
        defaults=defaults,
        why="one token: all loads of a workgroup are on their way at once, activations and scales brought together",
    )
