"""Which library file sums over a workgroup, and what workgroup suits an adapter."""

from __future__ import annotations

from collections.abc import Callable

from .pair import Adapter, Context


def reduction(context: Context) -> str:
    """The library file for sums and maxima over a workgroup of `workgroup` threads."""
    adapter = context.adapter
    if not adapter.subgroups:
        return "reduce/tree"
    if adapter.subgroup_size == context["workgroup"]:
        return "reduce/one_subgroup"
    return "reduce/subgroups"


def team_reduction(context: Context) -> tuple[str, ...]:
    """The library files for `add_up` and `sum_of`: several sums over teams of threads."""
    adapter = context.adapter
    if not (adapter.subgroups and adapter.subgroup_size):
        return reduction(context), "add_up/by_fours"
    if context["teams"] == 1 and context["workgroup"] <= adapter.subgroup_size:
        return ("add_up/one_subgroup",)
    return ("add_up/subgroups",)


def known_lanes(context: Context) -> int:
    """Of a subgroup, 0 where there are none or their size is not known."""
    return context.adapter.subgroup_size if context.adapter.subgroups else 0


def by_quads(context: Context, threads: int = 0) -> str:
    """Who quantizes a block of 32: eight lanes of a subgroup ("quads"), or a thread ("blocks"). threads: of a workgroup
    whose size is no tunable."""
    lanes = known_lanes(context)
    return "quads" if lanes >= 8 and (threads or context["workgroup"]) % lanes == 0 else "blocks"


def whole_subgroups(context: Context) -> str | None:
    """Why `teams` of a workgroup of `workgroup` threads cannot sum, or None.

    A tree over the whole workgroup needs a power of two; several teams, or another number, need whole subgroups.
    """
    threads, teams = context.sizes.get("workgroup", 1), context.sizes.get("teams", 1)
    if teams == 1 and threads & (threads - 1) == 0:
        return None
    lanes = known_lanes(context)
    if lanes and threads % (teams * lanes) == 0:
        return None
    return f"{teams} teams in {threads} threads are not whole subgroups of a known size"


def one_subgroup(adapter: Adapter) -> bool:
    """Whether workgroups are best one subgroup: on a software adapter they need no barrier then, which is what costs
    there, a switch of every invocation."""
    return adapter.is_cpu and adapter.subgroups and adapter.subgroup_size in (4, 8, 16)


def lanes_default(context: Context) -> dict[str, int]:
    """The workgroup of `one_subgroup`, where that is best."""
    return {"workgroup": context.adapter.subgroup_size} if one_subgroup(context.adapter) else {}


#: Mesa's software adapter ends the loops of an invocation, all together, after 65,535 iterations, and says nothing.
MOST_ITERATIONS = 60_000
#: Iterations of the loops of one invocation, for a context and a workgroup's threads.
Iterations = Callable[[Context, int], float]


def lanes_within(iterations: Iterations, allowed: tuple[int, ...]) -> Callable[[Context], dict[str, int]]:
    """`lanes_default`, or on a software adapter the fewest of the allowed threads beyond, whose loops end."""

    def defaults(context: Context) -> dict[str, int]:
        found = lanes_default(context)
        if not context.adapter.is_cpu:
            return found
        least = found.get("workgroup", allowed[0])
        if iterations(context, least) <= MOST_ITERATIONS:
            return found
        more = sorted(n for n in allowed if n > least)
        return {
            "workgroup": next((n for n in more if iterations(context, n) <= MOST_ITERATIONS), max(allowed))
        }

    return defaults


def too_many_iterations(iterations: Iterations) -> Callable[[Context], str | None]:
    """Why a variant's loops would not end as they should on a software adapter, or None."""

    def refuse(context: Context) -> str | None:
        threads = context.sizes.get("workgroup")
        if not context.adapter.is_cpu or threads is None:
            return None
        needed = iterations(context, threads)
        if needed <= MOST_ITERATIONS:
            return None
        return f"with {threads} threads its loops take {needed:.0f} iterations, which a software adapter cuts off"

    return refuse


def eight_lanes_only(context: Context) -> str | None:
    """Why a variant written for subgroups of 8 lanes cannot run, or None."""
    if context.adapter.subgroups and context.adapter.subgroup_size == 8:
        return None
    return "it needs subgroups of exactly 8 lanes"
