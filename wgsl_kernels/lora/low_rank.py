"""What an adapter adds to a product, y = W x + B (A x) (Hu et al. 2021), where each row of a step may have another one.

Matrices that read one input have their factors in a group: A of each, one under the other, is one product whose result
`lora_x` has A x of all of them side by side; `lora_b` has the rows of their B one under the other. Both have the
factors of adapter after adapter, of one rank: smaller ones end in zeros, and a matrix that an adapter leaves alone has
nothing else. The state names each row's adapter (`wgsl_kernels.state`). `lora_b` is a vector of f32: every B
[group rows, rank], one behind the other.

`lora_x` may lie in slices, one behind the other in a row, whose sum it is: of a token alone, columns of A are shared
out among workgroups, and what reads the slices adds them up (`wgsl_kernels.lora.slices`).
"""

from __future__ import annotations

from dataclasses import replace

import torch

from ..layout import LORA_STEP
from ..numerics import random_tensor
from ..pair import Context, Port, ceil_div
from ..state import STATE, make_state

#: Where no further matrix of the group begins.
NONE = 2**31 - 1
#: Columns of a slice: eight for each lane of a subgroup of 32.
SLICE = 256
#: Numbers behind each slice where a row is handed on in INT8: the sum of its squares, and zeros.
BEHIND = LORA_STEP
#: Numbers of A x of a token, at most, that products add up from slices: they share a workgroup's memory with a row.
MOST_SLICED = 1024
#: What they take there: a vector of four a thread or a vector for each four of A x, and four lanes of 64 sums.
LOW_BYTES = 4 * MOST_SLICED + 1024
#: What a product takes beside its own operands.
LORA_X = Port(("tokens", "lora_width"), "f32", optional=True, binding=9)
LORA_B = Port(("lora_length",), "f32", optional=True, binding=10)
ROW_STATE = replace(STATE, optional=True, binding=8)
LOW_RANK = {"lora_x": LORA_X, "lora_b": LORA_B, "state": ROW_STATE}

#: slices: of lora_x; rank; rows: of the group's B; first, part: where the product's first row stands among these, and
#: of which matrix of the group it is; second, third: the product's rows at which the next two begin.
LOW_RANK_PARAMS = {
    f"lora_{name}": int for name in ("slices", "rank", "rows", "first", "part", "second", "third")
}
LOW_RANK_DEFAULTS = {
    "lora_slices": 1,
    "lora_first": 0,
    "lora_part": 0,
    "lora_second": NONE,
    "lora_third": NONE,
}


def slices_of(columns: int) -> int:
    """How many slices a row of so many columns has."""
    return ceil_div(columns, SLICE)


def low_rank_files(context: Context, *, own_state: bool = True, one_token: bool = False) -> tuple[str, ...]:
    """The library files with what an adapter adds, or that stand in for it. own_state: whether nothing else of the
    kernel binds the state; one_token: whether a workgroup computes sums of one token alone."""
    if "lora_b" not in context.types:
        return "low_rank/none", "low_sums/none"
    sums = "sliced" if one_token and context["lora_slices"] > 1 else "workgroup"
    return "low_rank/plane", f"low_sums/{sums}", "row_state/bound" if own_state else "row_state/caller"


def _parts(rows: int, given) -> torch.Tensor:
    """Of each row, which matrix of the group it is of."""
    at = torch.arange(rows)
    second, third = given.get("lora_second", NONE), given.get("lora_third", NONE)
    return given.get("lora_part", 0) + (at >= second).long() + (at >= third).long()


def _factors(rows: int, given) -> torch.Tensor:
    """B of each adapter for the rows of a product, [adapters, rows, rank]."""
    first = given.get("lora_first", 0)
    whole = given["lora_b"].view(-1, given["lora_rows"], given["lora_rank"])
    return whole[:, first : first + rows]


def _slices(given) -> torch.Tensor:
    """`lora_x` [tokens, slices, matrices, rank]."""
    return given["lora_x"].unflatten(1, (given.get("lora_slices", 1), -1, given["lora_rank"]))


def low_rank_sum(rows: int, given) -> torch.Tensor:
    """B (A x) of each token, [tokens, rows] in the type of `lora_x`; given: the operands and parameters of a call."""
    inner, factors, parts = _slices(given).sum(1), _factors(rows, given), _parts(rows, given)
    y = inner.new_zeros(len(inner), rows)
    chosen = given["state"][:, 1].long() - 2
    for adapter in chosen.unique().tolist():
        if adapter >= 0:
            tokens = (chosen == adapter).nonzero()[:, 0]
            for part in parts.unique().tolist():
                mine = (parts == part).nonzero()[:, 0]
                product = inner[tokens, part] @ factors[adapter, mine].to(inner.dtype).T
                y[tokens.unsqueeze(1), mine] = product
    return y


def widened(rows: int, given) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum as columns more of a product, for bounds of its error: x [tokens, more] and W [rows, more], f64."""
    factors, parts = _factors(rows, given).double(), _parts(rows, given)
    inner = _slices(given).double()
    adapters = torch.nn.functional.one_hot((given["state"][:, 1].long() - 1).clamp(min=0), len(factors) + 1)
    x = adapters[:, 1:, None, None, None] * inner.unsqueeze(1)
    of_part = torch.nn.functional.one_hot(parts, inner.shape[2])
    weight = factors.permute(1, 0, 2)[:, :, None, None] * of_part[:, None, None, :, None]
    weight = weight.expand(-1, -1, inner.shape[1], -1, -1)
    return x.flatten(1), weight.flatten(1)


def state_with(tokens: int, adapters: int) -> torch.Tensor:
    """A state of random inputs whose rows have the adapters in turn, and some of several none."""
    state = make_state(5, tokens)
    state[:, 1] = 1 + torch.arange(tokens) % (adapters + 1) if tokens > 1 else 1 + adapters
    return state


def low_rank_inputs(
    generator,
    tokens: int,
    rows: int,
    adapters: int,
    starts: tuple[int, ...] = (),
    rank: int = 2 * LORA_STEP,
    slices: int = 1,
) -> dict:
    """Random operands and parameters of what `adapters` add, each to every few of the tokens; {} of none.

    starts: rows at which the group's second and third matrix begin. Rows more than the product's stand in front of
    its own and behind them, as those of other matrices do where there are no `starts`. slices: of `lora_x`.
    """
    if not adapters:
        return {}
    before = 0 if starts else 3
    whole, parts = rows + 2 * before, len(starts) + 1 + (before > 0)
    return {
        "lora_x": random_tensor(generator, (tokens, slices * parts * rank)),
        "lora_b": random_tensor(generator, (adapters * whole * rank,)) / rank**0.5,
        "state": state_with(tokens, adapters),
        **({"lora_slices": slices} if slices > 1 else {}),
        "lora_rank": rank,
        "lora_rows": whole,
        **({"lora_first": before, "lora_part": 1} if before else {}),
        **dict(zip(("lora_second", "lora_third"), starts, strict=False)),
    }
