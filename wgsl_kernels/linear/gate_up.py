"""Gate, up and their product in one dispatch, for many tokens: `gate_up` and `gate_up_gelu`, a format each.

    gate_up       linear (gate), linear (up), silu_mul
    gate_up_gelu  linear (gate), linear (up), gelu_mul

The tiles are those of `linear` over rows of gate and up alternately: a thread has both sums of a unit in its registers,
each added up as `linear` does. Weights are stacked as in `norm_gate_up`, which serves few tokens.
"""

from __future__ import annotations

from functools import partial

import torch

from ..activations.activations import activation_file, gelu_mul, silu_mul
from ..composition import Facts, Match, Rule, composed, fusion
from ..layout import A8, INT8_STRIDES
from ..lora.low_rank import LOW_RANK, LOW_RANK_PARAMS
from ..makers import handing_on
from ..pair import REGISTRY, Context, Cost, Kernel, Port, register
from ..weights import WEIGHT_FORMATS, dense
from . import few_tokens, linear, linear_a8
from .norm_linear import gate_and_up, gated_bound, halves_of, weight_parts

#: What `linear` may add to a product, and `gate_up` does not.
ADDED = ("bias", "residual", "factor", *LOW_RANK, *LOW_RANK_PARAMS)


def many_tokens(facts: Facts, match: Match) -> bool:
    """Where `linear` takes tiles, which are what is fused."""
    if facts.adapter.is_cpu:
        return facts.tokens > few_tokens.FEW_TOKENS
    return facts.tokens > (linear_a8.A8_BATCH if match.label("x") == A8 else few_tokens.BATCH)


def _pays(facts: Facts, match: Match) -> bool:
    """Fewer dispatches, fuller waves of workgroups, and gate and up never reach memory; but on software adapters
    `linear` may have something better than tiles."""
    if match.label("x") == A8:
        return not linear_a8.barriers_cost_few(facts.adapter, facts.tokens)
    return not linear.barriers_cost(facts.adapter)


@fusion(stack=("gate", "up"), where=many_tokens, usual=_pays)
def gate_up(p, x, gate, up):
    """y = silu(x G^T) * (x U^T)."""
    return p.silu_mul(**gate_and_up(p, x, gate, up))


@fusion(stack=("gate", "up"), where=many_tokens, usual=_pays)
def gate_up_gelu(p, x, gate, up):
    """y = gelu(x G^T) * (x U^T)."""
    return p.gelu_mul(**gate_and_up(p, x, gate, up))


def _pair(whole: Kernel, rule: Rule, unit: Kernel) -> Kernel:
    """The pair over the tiles of `whole`, a `linear` of some format. rule: of its composition; unit: its last call."""
    fmt = whole.form["weight"]
    integer = whole.form.get("x") == A8
    of_floats = composed(rule, rows=halves_of)

    def as_floats(weight, x, **given) -> torch.Tensor:
        """x, or what INT8 activations stand for in the type of the weight."""
        if integer:
            scales = given.pop("x_scales").to(weight.dtype)
            return linear_a8.dequantize_activations(fmt, x, scales, given["columns"])
        return x

    def reference(**given):
        return of_floats(**{**given, "x": as_floats(**given)})

    def rows(context: Context) -> tuple[str, ...]:
        return activation_file(unit), "tile_rows/gate_up"

    def make_inputs(width=32, **options) -> dict:
        return whole.inputs(rows=2 * width, **options)

    def tolerance(arguments, expected) -> dict:
        weight = dense(fmt, **weight_parts(fmt, arguments)).double()
        x = as_floats(**{**arguments, "weight": weight}).double()
        product = {"y": linear.linear_reference(x, weight)}
        return {"y": gated_bound(x, weight, whole.tolerance(arguments, product)["y"])}

    def cost(sizes) -> Cost:
        alone = whole.cost(sizes)
        return Cost(alone.read, alone.written / 2, alone.flops)

    def derive(sizes) -> dict:
        found = {"width": sizes["rows"] // 2} if "rows" in sizes else {}
        return {**found, **{n: v for n, v in whole.derive(sizes).items() if n != "out_rows"}}

    reference.__doc__ = rule.summary
    params = {
        name: kind for name, kind in whole.params.items() if name not in (*ADDED, "row_offset", "out_rows")
    }
    module = linear_a8 if integer else linear
    return register(
        Kernel(
            op=rule.name,
            form=whole.form,
            reference=reference,
            reads={n: port for n, port in whole.reads.items() if n not in ADDED},
            writes={"y": Port(("tokens", "width"), binding=6)},
            params=params,
            variants=module.tiled(fmt, rows),
            make_inputs=handing_on(make_inputs, whole.make_inputs, without=("rows", "n", "adapters", *ADDED)),
            tolerance=tolerance,
            cost=cost,
            prepare=partial(dense, fmt),
            prepared_ports=whole.prepared_ports,
            derive=derive,
            prefer=None if integer else linear.prefer_tiled,
        )
    )


for _rule, _unit in ((gate_up, silu_mul), (gate_up_gelu, gelu_mul)):
    for _name in (*(f"linear[{f}]" for f in WEIGHT_FORMATS), *(f"linear[{f}, {A8}]" for f in INT8_STRIDES)):
        _pair(REGISTRY[_name], _rule, _unit)
