"""Variants of products for few tokens, over the files of `lib/pieces`: `gemv` reads weights once a
token, `batch` once for several of them; and when to take which.
"""

from __future__ import annotations

from collections.abc import Callable

from ..lora.low_rank import low_rank_files
from ..pair import Context, Variant, ceil_div, spread
from ..reduce import lanes_default, one_subgroup, team_reduction, whole_subgroups
from ..weights import piece_defaults, piece_tunables

#: Up to so many tokens a CPU reads the weights once a token; attention is split over the cache.
FEW_TOKENS = 4
#: Up to so many tokens a batch in registers is better than a tile in workgroup memory.
BATCH = 16
#: Tokens at once, rows a team and threads of a batch on a software adapter, where subgroups say how many threads: 4 and
#: 8 tokens are as good on SwiftShader (INT4, 256x256 to 768x256), 4 better on lavapipe.
CPU_BATCH = (4, 4, 0)


def epilogue(context: Context) -> tuple[str, ...]:
    """The library files that read what is added to a product, or stand in for it."""
    bias = "bias/plane" if "bias" in context.types else "bias/none"
    residual = "residual/plane" if "residual" in context.types else "residual/none"
    return bias, residual, *low_rank_files(context)


def gemv_tunables(rows_per_team: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Tunables of a variant over `team_sums`; the first of rows_per_team is its default."""
    return {
        "workgroup": (128, 8, 16, 32, 64, 96, 224, 256),
        "teams": (1, 2, 4, 8),
        "rows_per_team": rows_per_team,
    }


#: Rows of a team on a software adapter. Of 16, or of 8 in INT8, llvmpipe (LLVM 15) unrolls no loop, and sums and
#: weights go to memory: 1024x1024 take 2.9 ms in f16, 2.7 in INT8 and 1.5 in INT4, of 4 rows 0.37, 0.37 and 0.63.
CPU_ROWS = 4


def gemv_defaults(gpu: Callable[[Context], tuple[int, int, int]]):
    """Tunables that suit an adapter: one subgroup with a few rows on a CPU; on a GPU threads, teams and rows a team
    from `gpu`, as measured on NVIDIA's. Several teams need subgroups of a known size, and a tree a power of two."""

    def defaults(context: Context) -> dict[str, int]:
        if lanes := lanes_default(context):
            return {**lanes, "rows_per_team": CPU_ROWS}
        workgroup, teams, rows = gpu(context)
        if not (context.adapter.subgroups and context.adapter.subgroup_size == 32):
            workgroup, teams = 1 << (workgroup // teams).bit_length() - 1, 1
        return {"workgroup": workgroup, "teams": teams, "rows_per_team": rows}

    return defaults


def long_rows(context: Context) -> bool:
    """Whether rows are so long that smaller teams with more rows each keep more loads in flight."""
    return context["columns"] > 8192


def gemv(library, why: str, *, gpu: Callable[[Context], tuple[int, int, int]], pieces: str = "") -> Variant:
    """The variant for few tokens over a library with `activations_at`, `prepared`, `piece_at` and `piece_sum`.

    gpu: threads, teams and rows a team that suit a GPU. pieces: a weight format whose pieces the library has a choice
    of (`piece_tunables`).
    """
    defaults = gemv_defaults(gpu)
    return Variant(
        "linear/linear_gemv",
        grid=lambda c: spread(ceil_div(c["rows"], c["rows_per_team"] * c["teams"]), c["tokens"]),
        tunables={**gemv_tunables((2, 1, 4, 8, 16)), **piece_tunables(pieces)},
        library=lambda c: (*library(c), "extra_sum/none", "beside/none", *epilogue(c), *team_reduction(c)),
        refuse=whole_subgroups,
        defaults=lambda c: {**defaults(c), **piece_defaults(pieces, c)},
        why=why,
    )


def batch(library, why: str, *, gpu: Callable[[Context], tuple[int, int, int]], pieces: str = "") -> Variant:
    """The variant for 2 to 32 tokens, over the same library as `gemv`; on a software adapter for more.

    gpu: tokens at once, at most, rows a team and threads that suit a GPU; pieces: as for `gemv`.
    """
    sizes = (4, 2, 8, 16)

    def defaults(context: Context) -> dict[str, int]:
        most, rows, threads = CPU_BATCH if one_subgroup(context.adapter) else gpu(context)
        at_once = next((size for size in sorted(sizes) if context["tokens"] <= size), most)
        # wide pieces of INT4 take a software adapter 10% less time with several tokens, and a third more with one
        piece = {} if context.adapter.is_cpu else piece_defaults(pieces, context, crowded=True)
        shape = {"rows_per_team": rows, "workgroup": threads, "batch": min(at_once, most)}
        return {**shape, **lanes_default(context), **piece}

    return Variant(
        "linear/linear_batch",
        grid=lambda c: spread(
            ceil_div(c["rows"], c["rows_per_team"] * c["teams"]), ceil_div(c["tokens"], c["batch"])
        ),
        tunables={
            "workgroup": (64, 8, 32, 128),
            "teams": (1, 2, 4),
            "rows_per_team": (2, 1, 4),
            "batch": sizes,
            **piece_tunables(pieces),
        },
        library=lambda c: (*library(c), *epilogue(c), *team_reduction(c)),
        refuse=whole_subgroups,
        defaults=defaults,
        why=why,
    )


def few_tokens(context: Context, most: int = BATCH) -> tuple[str, str] | None:
    """The variant for few tokens and the reason, or None where there are many. most: of `batch` on a GPU."""
    tokens, adapter = context["tokens"], context.adapter
    if tokens == 1 or (adapter.is_cpu and tokens <= FEW_TOKENS):
        return "gemv", f"{tokens} token(s): weights are read once a token"
    if tokens <= most and not adapter.is_cpu:
        return "batch", f"{tokens} tokens, at most {most}: weights are read once for several of them"
    return None
