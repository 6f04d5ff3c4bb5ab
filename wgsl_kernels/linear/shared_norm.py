"""A norm that others read beside gate and up: it is computed for them, and once more in front of gate and up.

In a mixture of experts with a shared one, router and experts read what the shared expert's gate and up read. A row is
normalised in less time than a dispatch takes to begin, so that `norm_gate_up` and `norm_gate_up_a8` serve there too:
two dispatches a layer less with floats, three with INT8 activations.
"""

from __future__ import annotations

from ..composition import Rule, Where, rule
from .norm_linear import behind_a_norm, gate_and_up
from .norm_linear_a8 import quantized_behind_a_norm


def _before(p, x, norm, gate, up, *, eps):
    """y = silu(n G^T) * (n U^T), and n = rms_norm(x)."""
    normed = p.rms_norm(x=x, weight=norm, eps=eps)
    return p.silu_mul(**gate_and_up(p, normed, gate, up)), normed


def _after(p, x, norm, gate, up, *, eps):
    normed = p.rms_norm(x=x, weight=norm, eps=eps)
    return p.norm_gate_up(x=x, norm=norm, weight=f"{gate}+{up}", eps=eps), normed


def _before_a8(p, x, norm, gate, up, *, eps):
    """y = silu(q G^T) * (q U^T) in INT8, n = rms_norm(x), and q, which is n in INT8."""
    normed = p.rms_norm(x=x, weight=norm, eps=eps)
    quantized = p.quantize_activations(x=normed)
    return p.quantize_activations(x=p.silu_mul(**gate_and_up(p, quantized, gate, up))), normed, quantized


def _after_a8(p, x, norm, gate, up, *, eps):
    normed = p.rms_norm(x=x, weight=norm, eps=eps)
    quantized = p.quantize_activations(x=normed)
    return p.norm_gate_up_a8(x=x, norm=norm, weight=f"{gate}+{up}", eps=eps), normed, quantized


#: What `record` calls the result of both compositions' first call.
_NORMED = "rms_norm.0.y"


def _where(few: Where) -> Where:
    """Not where the norm is asked for by name: it may be edited, which its second computation would not see."""
    return lambda facts, match: few(facts, match) and not match.kept(_NORMED)


_STACK = ("gate", "up")
SHARED_NORM: tuple[Rule, ...] = (
    rule(_before, _after, name="shared_norm_gate_up", stack=_STACK, where=_where(behind_a_norm)),
    rule(
        _before_a8,
        _after_a8,
        name="shared_norm_gate_up_a8",
        stack=_STACK,
        where=_where(quantized_behind_a_norm),
    ),
)
