"""Between a product to which an adapter adds and the next one behind a norm, one dispatch where there were two:

    lora_between     lora_down, linear, norm_lora_slices
    lora_between_a8  lora_down, linear, norm_lora_slices_a8

A of the first is computed beside its product, and B (A x) is added to the sum by what computes A of the next.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

from ..composition import Facts, Match, Rule, rule
from ..layout import A8
from .lent import bound_together, with_operands

#: Rows of A beside a product, whose own workgroups wait for them.
MOST_BESIDE = 64


def _beside_integers(facts: Facts, match: Match) -> bool:
    """Of one token on a GPU, where the product reads INT8 and A, of f32, has few rows, so that they are done before the
    product is. A CPU gains nothing from fewer dispatches."""
    one = facts.tokens == 1 and not facts.adapter.is_cpu and bound_together(facts, match)
    types = match.label("x") == A8 and match.label("lora_a") == "f32"
    few = match.params["ranks"] <= MOST_BESIDE
    return one and types and few and len(match.ranges("weight")) == 1


def _rule(name: str, sliced: str, *params: str) -> Rule:
    """sliced: the op behind the sum, with parameters beside `ranks`. A product with a factor, which would multiply what
    the adapter adds, is not meant."""

    def one_by_one(
        p, x, weight, residual, lora_a, lora_b, norm, next_a, state, bias=None, *, ranks, next_ranks, **given
    ):  # many parameters: the operands and parameters of the ops
        """A product with what an adapter adds, the sum with the residual stream, and A of what is behind a norm."""
        place = {name: given.pop(name) for name in ("lora_rank", "lora_rows")}
        inner = p.lora_down(x=x, weight=lora_a, state=state, ranks=ranks)
        added = {"lora_x": inner, "lora_b": lora_b, "state": state, **place}
        y = p.linear(x=x, weight=weight, bias=bias, residual=residual, **added)
        found = getattr(p, sliced)(x=y, norm=norm, weight=next_a, state=state, ranks=next_ranks, **given)
        return y, *(found if isinstance(found, tuple) else (found,))

    def between(
        p, x, weight, residual, lora_a, lora_b, norm, next_a, state, bias=None, *, ranks, next_ranks, **given
    ):  # many parameters: the operands and parameters of the ops
        own = {"lora_a": lora_a, "state": state, "ranks": ranks}
        y, inner = p.linear_lora_down(x=x, weight=weight, bias=bias, residual=residual, **own)
        behind = {"x": y, "lora_x": inner, "lora_b": lora_b, "norm": norm, "weight": next_a, "state": state}
        return getattr(p, f"lora_up_{sliced.replace('lora_', '')}")(**behind, ranks=next_ranks, **given)

    def signed(function: Callable) -> Callable:
        *named, _ = inspect.signature(function).parameters.values()
        own = inspect.Signature(named)
        function.__signature__ = with_operands(own, (), ("lora_rank", "lora_rows", *params))
        return function

    return rule(signed(one_by_one), signed(between), name=name, where=_beside_integers)


BETWEEN: tuple[Rule, ...] = (
    _rule("lora_between_a8", "norm_lora_slices_a8", "stride"),
    _rule("lora_between", "norm_lora_slices"),
)
