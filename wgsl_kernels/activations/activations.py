"""Element by element: gated units with SiLU and GELU, GELU alone, addition, multiples, a soft cap."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..makers import handing_on
from ..numerics import EPS32, random_tensor
from ..pair import Cost, Kernel, Port, Variant, ceil_div, kernel

ROWS = ("tokens", "width")


def _variant(file: str, *library: str) -> dict[str, Variant]:
    def grid(c):
        return ceil_div(c["width"], 64), c["tokens"], 1

    return {"elements": Variant(file, grid=grid, library=lambda c: library)}


def _maker(*names: str):
    def make_inputs(seed=0, tokens=3, width=64, x_dtype="f32", y_dtype="f32") -> dict:
        generator = torch.Generator().manual_seed(seed)
        return {name: 3 * random_tensor(generator, (tokens, width), x_dtype) for name in names}

    return make_inputs


def _gelu_inputs(tanh=False, **options) -> dict:
    return {**_maker("x")(**options), "tanh": tanh}


def _add_inputs(factor=1.0, **options) -> dict:
    return {**_maker("a", "b")(**options), "factor": factor}


def _scale_inputs(factor=1.5, **options) -> dict:
    return {**_maker("x")(**options), "factor": factor}


def _softcap_inputs(cap=5.0, **options) -> dict:
    return {**_maker("x")(**options), "cap": cap}


def _cost(inputs: int, flops: int):
    def cost(s) -> Cost:
        count = s["tokens"] * s["width"]
        return Cost(4 * inputs * count, 4 * count, flops * count)

    return cost


def _gated_tolerance(arguments, expected) -> dict:
    # g sigmoid(w), in SiLU w = g: exp(-w) has a relative error of (3 + 2|w|) ulp by the WGSL specification. In GELU
    # w is larger, but of that error |w| sigmoid(w) sigmoid(-w) reaches the result, which is below 1/4 for any w.
    gate, up = arguments["gate"].double(), arguments["up"].double()
    return {"y": (12 + 4 * gate.abs()) * EPS32 * (gate * up).abs() + 1e-30}


def _gelu_tolerance(arguments, expected) -> dict:
    # tanh by exp(2v) loses absolute precision; erf is good to 1.5e-7
    x = arguments["x"].double().abs()
    return {"y": x * (2e-7 + 16 * EPS32) + 1e-12}


def _add_tolerance(arguments, expected) -> dict:
    b = arguments.get("factor", 1.0) * arguments["b"].double()
    return {"y": EPS32 * (2 * arguments["a"].double().abs() + 4 * b.abs())}


def _softcap_tolerance(arguments, expected) -> dict:
    # lib/tanh is good to 2^-20
    return {"y": EPS32 * (16 * arguments["cap"] + 4 * expected["y"].double().abs())}


@kernel(
    reads={"gate": Port(ROWS), "up": Port(ROWS)},
    writes={"y": Port(ROWS)},
    variants=_variant("activations/gated_mul", "activate/silu"),
    make_inputs=_maker("gate", "up"),
    tolerance=_gated_tolerance,
    cost=_cost(2, 4),
)
def silu_mul(gate, up):
    """y = gate * sigmoid(gate) * up, the gated unit of Llama's MLP (Shazeer 2020); all [tokens, width]."""
    return F.silu(gate) * up


@kernel(
    reads={"gate": Port(ROWS), "up": Port(ROWS)},
    writes={"y": Port(ROWS)},
    variants=_variant("activations/gated_mul", "activate/gelu"),
    make_inputs=_maker("gate", "up"),
    tolerance=_gated_tolerance,
    cost=_cost(2, 9),
)
def gelu_mul(gate, up):
    """y = GELU(gate) * up by GELU's tanh approximation, the gated unit of Gemma's MLP; all [tokens, width]."""
    return F.gelu(gate, approximate="tanh") * up


def activation_file(unit: Kernel) -> str:
    """The library file with the activation of a gated unit, `silu_mul` or `gelu_mul`."""
    return f"activate/{unit.op.removesuffix('_mul')}"


@kernel(
    reads={"x": Port(ROWS)},
    writes={"y": Port(ROWS)},
    params={"tanh": bool},
    defaults={"tanh": False},
    variants=_variant("activations/gelu", "activate/gelu"),
    make_inputs=handing_on(_gelu_inputs, _maker("x")),
    tolerance=_gelu_tolerance,
    cost=_cost(1, 8),
)
def gelu(x, tanh=False):
    """y = x * Phi(x) (Hendrycks and Gimpel 2016); with `tanh` its usual approximation. x [tokens, width]."""
    return F.gelu(x, approximate="tanh" if tanh else "none")


@kernel(
    reads={"a": Port(ROWS), "b": Port(ROWS)},
    writes={"y": Port(ROWS)},
    params={"factor": float},
    defaults={"factor": 1.0},
    variants=_variant("activations/add"),
    commutes=("a", "b"),
    make_inputs=handing_on(_add_inputs, _maker("a", "b")),
    tolerance=_add_tolerance,
    cost=_cost(2, 1),
)
def add(a, b, factor=1.0):
    """y = a + factor * b; all [tokens, width]. factor: Granite's of a residual."""
    return a + factor * b


@kernel(
    reads={"x": Port(ROWS)},
    writes={"y": Port(ROWS)},
    params={"factor": float},
    variants=_variant("activations/scale"),
    make_inputs=handing_on(_scale_inputs, _maker("x")),
    tolerance=lambda arguments, expected: {"y": 2 * EPS32 * expected["y"].double().abs()},
    cost=_cost(1, 1),
)
def scale(x, factor):
    """y = factor * x [tokens, width], as Gemma and Granite do with embeddings and Granite with logits."""
    return factor * x


@kernel(
    reads={"x": Port(ROWS)},
    writes={"y": Port(ROWS)},
    params={"cap": float},
    variants=_variant("activations/softcap"),
    make_inputs=handing_on(_softcap_inputs, _maker("x")),
    tolerance=_softcap_tolerance,
    cost=_cost(1, 6),
)
def softcap(x, cap):
    """y = cap * tanh(x / cap) for x [tokens, width], the logits of Gemma 2 (Gemma 2, section 2)."""
    return cap * (x / cap).tanh()
