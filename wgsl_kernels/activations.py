"""Element by element: SiLU(gate) * up, GELU, addition."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .makers import handing_on
from .numerics import EPS32, random_tensor
from .pair import Cost, Port, Variant, ceil_div, kernel

ROWS = ("tokens", "width")


def _variant(file: str) -> dict[str, Variant]:
    return {"elements": Variant(file, grid=lambda c: (ceil_div(c["width"], 64), c["tokens"], 1))}


def _maker(*names: str):
    def make_inputs(seed=0, tokens=3, width=64, x_dtype="f32", y_dtype="f32") -> dict:
        generator = torch.Generator().manual_seed(seed)
        return {name: 3 * random_tensor(generator, (tokens, width), x_dtype) for name in names}

    return make_inputs


def _gelu_inputs(tanh=False, **options) -> dict:
    return {**_maker("x")(**options), "tanh": tanh}


def _cost(inputs: int, flops: int):
    def cost(s) -> Cost:
        count = s["tokens"] * s["width"]
        return Cost(4 * inputs * count, 4 * count, flops * count)

    return cost


def _silu_tolerance(arguments, expected) -> dict:
    # exp(-g) has a relative error of (3 + 2|g|) ulp by the WGSL specification
    gate, up = arguments["gate"].double(), arguments["up"].double()
    return {"y": (12 + 4 * gate.abs()) * EPS32 * (gate * up).abs() + 1e-30}


def _gelu_tolerance(arguments, expected) -> dict:
    # tanh by exp(2v) loses absolute precision; erf is good to 1.5e-7
    x = arguments["x"].double().abs()
    return {"y": x * (2e-7 + 16 * EPS32) + 1e-12}


def _add_tolerance(arguments, expected) -> dict:
    return {"y": 2 * EPS32 * (arguments["a"].double().abs() + arguments["b"].double().abs())}


@kernel(
    reads={"gate": Port(ROWS), "up": Port(ROWS)},
    writes={"y": Port(ROWS)},
    variants=_variant("silu_mul"),
    make_inputs=_maker("gate", "up"),
    tolerance=_silu_tolerance,
    cost=_cost(2, 4),
)
def silu_mul(gate, up):
    """y = gate * sigmoid(gate) * up, the gated unit of Llama's MLP (Shazeer 2020); all [tokens, width]."""
    return F.silu(gate) * up


@kernel(
    reads={"x": Port(ROWS)},
    writes={"y": Port(ROWS)},
    params={"tanh": bool},
    variants=_variant("gelu"),
    make_inputs=handing_on(_gelu_inputs, _maker("x")),
    tolerance=_gelu_tolerance,
    cost=_cost(1, 8),
    derive=lambda sizes: {"tanh": False},
)
def gelu(x, tanh=False):
    """y = x * Phi(x) (Hendrycks and Gimpel 2016); with `tanh` its usual approximation. x [tokens, width]."""
    return F.gelu(x, approximate="tanh" if tanh else "none")


@kernel(
    reads={"a": Port(ROWS), "b": Port(ROWS)},
    writes={"y": Port(ROWS)},
    variants=_variant("add"),
    commutes=("a", "b"),
    make_inputs=_maker("a", "b"),
    tolerance=_add_tolerance,
    cost=_cost(2, 1),
)
def add(a, b):
    """y = a + b; all [tokens, width]."""
    return a + b
