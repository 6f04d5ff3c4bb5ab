"""Which library file sums over a workgroup, and what workgroup suits an adapter."""

from __future__ import annotations

from .pair import Context


def reduction(context: Context) -> str:
    """The library file for sums and maxima over a workgroup of `workgroup` threads."""
    adapter = context.adapter
    if not adapter.subgroups:
        return "reduce_tree"
    if adapter.subgroup_size == context["workgroup"]:
        return "reduce_one_subgroup"
    return "reduce_subgroups"


def row_reduction(context: Context) -> tuple[str, ...]:
    """The library files for `row_totals`: the sums of several rows over a workgroup."""
    adapter = context.adapter
    if not (adapter.subgroups and adapter.subgroup_size):
        return reduction(context), "rows_by_fours"
    return ("rows_one_subgroup" if context["workgroup"] <= adapter.subgroup_size else "rows_subgroups",)


def whole_subgroups(context: Context) -> str | None:
    """Why a workgroup of `workgroup` threads cannot sum, or None: trees need a power of two, subgroups to be whole."""
    threads, lanes = context.sizes.get("workgroup", 1), context.adapter.subgroup_size
    if threads & (threads - 1) == 0 or (context.adapter.subgroups and lanes and threads % lanes == 0):
        return None
    return f"{threads} threads are neither a power of two nor whole subgroups of a known size"


def known_subgroups(context: Context) -> str | None:
    """Why a variant cannot give each subgroup work of its own, or None: their size must be known and divide."""
    threads, lanes = context.sizes.get("workgroup", 0), context.adapter.subgroup_size
    if not (context.adapter.subgroups and lanes):
        return "it needs subgroups of a known size"
    return f"{threads} threads are not whole subgroups of {lanes}" if threads % lanes else None


def lanes_default(context: Context) -> dict[str, int]:
    """On a software adapter a workgroup of one subgroup needs no barrier, which is what costs there."""
    adapter = context.adapter
    if adapter.is_cpu and adapter.subgroups and adapter.subgroup_size in (8, 16):
        return {"workgroup": adapter.subgroup_size}
    return {}


def eight_lanes_only(context: Context) -> str | None:
    """Why a variant written for subgroups of 8 lanes cannot run, or None."""
    if context.adapter.subgroups and context.adapter.subgroup_size == 8:
        return None
    return "it needs subgroups of exactly 8 lanes"
