"""Gated units with their result in INT8, for the product behind them, in steps of several tokens.

silu_mul[a8]  silu_mul, quantize_activations
gelu_mul[a8]  gelu_mul, quantize_activations
swiglu[a8]    silu_mul, quantize_activations, over gate and up side by side
geglu[a8]     gelu_mul, quantize_activations, over gate and up side by side

Gate and up are one product where their matrices are stacked: a dispatch less, and more workgroups in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch

from ..activations.activations import activation_file, gelu_mul, silu_mul
from ..composition import Facts, Match, Rule, fusion, rule
from ..judge import doubles
from ..layout import A8, INT8_BLOCK
from ..linear.linear_a8 import A8_BATCH
from ..linear.norm_linear import gate_and_up
from ..makers import handing_on
from ..numerics import random_tensor
from ..pair import Cost, Kernel, Port, Variant, ceil_div, register
from ..reduce import by_quads
from .quantize_activations import quantize_activations, quantized_tolerance, rounded

#: Columns of a workgroup: four a thread where eight lanes quantize a block.
MADE = 512


def _tolerance(of: Kernel, given: Mapping, arguments: Mapping, expected: Mapping) -> dict:
    y = of.reference(**given)
    error = of.tolerance(given, {"y": y})["y"]
    scales = expected["y_scales"].double()
    quants, off = quantized_tolerance(y, scales, INT8_BLOCK, arguments["stride"], error)
    return {"y": quants, "y_scales": off}


def _cost(unit: Kernel, sizes) -> Cost:
    alone = unit.cost(sizes)
    return Cost(alone.read, 1.125 * sizes["tokens"] * sizes["width"], alone.flops)


def _blocks(sizes) -> dict:
    blocks = ceil_div(sizes["width"], INT8_BLOCK)
    return {"y_blocks": blocks, "y_words": blocks * INT8_BLOCK // 4}


def _shared(unit: Kernel, gated: str) -> dict:
    """What both forms have in common. gated: the library file that reads gate and up."""
    return {
        "form": {"y": A8},
        "writes": {
            "y": Port(("tokens", "y_words"), "u32", binding=2, packed=8, of="y", plane="quants"),
            "y_scales": Port(("tokens", "y_blocks"), "f32", binding=3, of="y", plane="scales"),
        },
        "params": {"stride": int},
        "variants": {
            "elements": Variant(
                "quantized/gated_mul_a8",
                grid=lambda c: (ceil_div(c["width"], c["made"]), c["tokens"], 1),
                tunables={"workgroup": (128, 64)},
                library=lambda c: (gated, activation_file(unit), f"own_quads/{by_quads(c)}"),
                refuse=lambda c: f"a width of {c['width']} is not whole fours" if c["width"] % 4 else None,
            )
        },
        "cost": partial(_cost, unit),
    }


def gated_mul_a8(unit: Kernel) -> Kernel:
    """The pair of a gated unit over gate and up apart."""

    def reference(gate, up, stride):
        """Words [tokens, y_words] and scales [tokens, y_blocks] of what the gated unit gives."""
        return quantize_activations.reference(unit.reference(gate, up), INT8_BLOCK, stride=stride)

    def make_inputs(stride=1, **options) -> dict:
        return {**unit.inputs(**options), "stride": stride}

    def tolerance(arguments, expected) -> dict:
        given = doubles({name: arguments[name] for name in unit.reads})
        return _tolerance(unit, given, arguments, expected)

    return register(
        Kernel(
            op=unit.op,
            reference=reference,
            reads=dict(unit.reads),
            make_inputs=handing_on(make_inputs, unit.make_inputs),
            tolerance=tolerance,
            derive=lambda sizes: {"made": MADE, **(_blocks(sizes) if "width" in sizes else {})},
            **_shared(unit, "gated/apart"),
        )
    )


def glu_a8(unit: Kernel, op: str) -> Kernel:
    """The pair of a gated unit over x [tokens, 2 * width], gate and up side by side."""

    def parts(x) -> dict:
        gate, up = x.chunk(2, -1)
        return {"gate": gate, "up": up}

    def reference(x, stride):
        """Words [tokens, y_words] and scales [tokens, y_blocks] of the gated unit over x [tokens, gate and up]."""
        return quantize_activations.reference(unit.reference(**parts(x)), INT8_BLOCK, stride=stride)

    def make_inputs(seed=0, tokens=3, width=64, both=None, stride=1, x_dtype="f32", y_dtype="f32") -> dict:
        """both, of gate and up together, is another way to say the width."""
        generator = torch.Generator().manual_seed(seed)
        return {"x": 3 * random_tensor(generator, (tokens, both or 2 * width), x_dtype), "stride": stride}

    def derive(sizes) -> dict:
        if "both" not in sizes:
            return {"made": MADE}
        width = sizes["both"] // 2
        return {"made": MADE, "width": width, **_blocks({"width": width})}

    return register(
        Kernel(
            op=op,
            reference=reference,
            values=lambda x: rounded(unit.reference(**parts(x))),
            reads={"x": Port(("tokens", "both"), binding=0)},
            make_inputs=make_inputs,
            tolerance=lambda arguments, expected: _tolerance(
                unit, parts(arguments["x"].double()), arguments, expected
            ),
            derive=derive,
            **_shared(unit, "gated/side_by_side"),
        )
    )


for _unit, _op in ((silu_mul, "swiglu"), (gelu_mul, "geglu")):
    gated_mul_a8(_unit)
    glu_a8(_unit, _op)


def _on_a_gpu(facts: Facts, match: Match) -> bool:
    """On a CPU a dispatch more costs nothing."""
    return not facts.adapter.is_cpu and match.shape("gate")[1] % 4 == 0


@fusion(op="silu_mul", where=_on_a_gpu)
def silu_mul_in_int8(p, gate, up):
    """A gated unit with SiLU, in INT8."""
    return p.quantize_activations(x=p.silu_mul(gate=gate, up=up))


@fusion(op="gelu_mul", where=_on_a_gpu)
def gelu_mul_in_int8(p, gate, up):
    """A gated unit with GELU, in INT8."""
    return p.quantize_activations(x=p.gelu_mul(gate=gate, up=up))


def _few_on_a_gpu(facts: Facts, match: Match) -> bool:
    """Where products are no tiles, which `gate_up` is of, and twice the width of a row stays small."""
    few = facts.tokens <= A8_BATCH
    return few and not facts.adapter.is_cpu and match.shape("gate")[0] % 4 == 0


def _one_product(unit: str, op: str) -> Rule:
    def apart(p, x, gate, up):
        """A gated unit in INT8 behind two products, which are one where their matrices are stacked."""
        return p.quantize_activations(x=getattr(p, unit)(**gate_and_up(p, x, gate, up)))

    def stacked(p, x, gate, up):
        return getattr(p, op)(x=p.linear(x=x, weight=f"{gate}+{up}"))

    return rule(apart, stacked, name=op, stack=("gate", "up"), where=_few_on_a_gpu)


#: Gate and up as one product where they are stacked.
SIDE_BY_SIDE: tuple[Rule, ...] = (_one_product("silu_mul", "swiglu"), _one_product("gelu_mul", "geglu"))
#: Behind products of their own, whose matrices are not stacked.
GATED_IN_INT8: tuple[Rule, ...] = (silu_mul_in_int8, gelu_mul_in_int8)
