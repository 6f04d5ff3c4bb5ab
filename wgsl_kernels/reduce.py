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
