"""Products and what adapters add to them in one dispatch.

    linear_adapted  linear, lora_up
    norm_lora_down  rms_norm, lora_down, where others read the norm too

and the rules over such products that stand over products alone: `lent` makes them from those. A decode step of a model
in the manner of Llama has two dispatches a layer more with adapters on all of its matrices and INT8 activations: A of
q, k and v, and A of gate and up. A of o and of down is computed beside their products, whose sums get B (A x) by the
next of these two. Four are more where activations are floats, or A is of anything but f32.
"""

from __future__ import annotations

from ..cache.rope_append import STACKED_QKV, STACKED_QKV_NORM
from ..composition import Facts, Match, Rule, rule
from ..linear.linear import LINEAR_SUM
from ..linear.norm_linear import norm_gate_up, norm_gate_up_gelu, norm_linear
from ..linear.norm_linear_a8 import (
    norm_gate_up_a8,
    norm_gate_up_gelu_a8,
    norm_linear_a8,
    norm_qkv_a8,
)
from ..linear.norm_qkv import norm_qkv
from ..linear.norm_qkv_rows import QKV_ROWS
from ..quantized.gated_mul_a8 import SIDE_BY_SIDE
from .between import BETWEEN
from .lent import bound_together, lent, lent_behind_a_norm, lent_in_int8


def _one_range(facts: Facts, match: Match) -> bool:
    """A product in several bindings is several dispatches, and rows of `lora_b` are counted from its first."""
    return bound_together(facts, match) and len(match.ranges("weight")) == 1


def _added_behind(
    p, x, weight, lora_x, lora_b, state, bias=None, *, lora_rank, lora_rows, lora_first, lora_part
):  # many parameters: the operands and parameters of the op
    """A product and what adapters add to it."""
    y = p.linear(x=x, weight=weight, bias=bias)
    place = {"lora_rank": lora_rank, "lora_rows": lora_rows, "lora_first": lora_first, "lora_part": lora_part}
    return p.lora_up(x=y, lora_x=lora_x, lora_b=lora_b, state=state, **place)


def _added_inside(
    p, x, weight, lora_x, lora_b, state, bias=None, *, lora_rank, lora_rows, lora_first, lora_part
):  # many parameters: the operands and parameters of the op
    place = {"lora_rank": lora_rank, "lora_rows": lora_rows, "lora_first": lora_first, "lora_part": lora_part}
    return p.linear(x=x, weight=weight, bias=bias, lora_x=lora_x, lora_b=lora_b, state=state, **place)


LINEAR_ADAPTED: Rule = rule(_added_behind, _added_inside, name="linear_adapted", where=_one_range)


def _shared(p, x, norm, lora_a, state, *, eps, ranks):
    """A x of a normalised row, and that row, which others read."""
    normed = p.rms_norm(x=x, weight=norm, eps=eps)
    return p.lora_down(x=normed, weight=lora_a, state=state, ranks=ranks), normed


def _apart(p, x, norm, lora_a, state, *, eps, ranks):
    own = p.norm_lora_down(x=x, norm=norm, weight=lora_a, state=state, ranks=ranks, eps=eps)
    return own, p.rms_norm(x=x, weight=norm, eps=eps)


def _on_a_gpu(facts: Facts, match: Match) -> bool:
    """A row is normalised in less time than a dispatch takes to begin. Not where the norm is asked for by name: it may
    be edited, which its second computation would not see."""
    plain = not facts.adapter.is_cpu and match.shape("x")[1] % 4 == 0
    return plain and facts.tokens <= MOST_NORMED and not match.kept("rms_norm.0.y")


#: Tokens of a step up to which norms are computed twice; more of them fill a GPU with that.
MOST_NORMED = 32
NORM_LORA_DOWN: Rule = rule(_shared, _apart, name="norm_lora_down", where=_on_a_gpu)


#: In front of everything that takes products.
ADDED: tuple[Rule, ...] = (LINEAR_ADAPTED, lent(LINEAR_SUM))
#: In front of the rules that they are made from.
ADAPTED: tuple[Rule, ...] = (
    lent(STACKED_QKV_NORM),
    *map(lent_behind_a_norm, (norm_qkv, norm_gate_up, norm_gate_up_gelu)),
    *map(lent_in_int8, (norm_qkv_a8, norm_gate_up_a8, norm_gate_up_gelu_a8)),
    *map(lent_behind_a_norm, (norm_qkv_a8, norm_gate_up_a8, norm_gate_up_gelu_a8)),
    *map(lent_behind_a_norm, QKV_ROWS),
    *map(lent, STACKED_QKV),
    *map(lent, SIDE_BY_SIDE),
    lent_behind_a_norm(norm_linear, single=True),
    lent_behind_a_norm(norm_linear_a8, single=True),
    *BETWEEN,
    NORM_LORA_DOWN,
)
