"""A x of the adapter that each token's sequence has, a kernel a format of A: `lora_down[f32]` to `lora_down[int2, a8]`,
and `norm_lora_down` behind a norm.

The matrices A of a group stand one under the other, adapter after adapter: weight [adapters * ranks, columns]. A row
without an adapter gives zeros. A of floats reads activations in INT8 as what they stand for, in the order of the base's
weights; A of integers has them multiplied as `linear_a8` does.

`norm_lora_down` has the norm inside, as `norm_linear` has it.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch

from ..layout import A8, INT8_BLOCK, INT8_STRIDES
from ..linear.few_tokens import gemv_defaults
from ..linear.linear import x_library
from ..linear.norm_linear import NORM, refuse_columns
from ..linear.products_a8 import integer_pieces
from ..makers import handing_on
from ..norm.rms_norm import rms_norm
from ..numerics import EPS32, random_tensor
from ..pair import Context, Cost, Kernel, Port, Variant, ceil_div, register
from ..quantized.quantize_activations import quantize_activations, unpack_activations
from ..reduce import team_reduction, whole_subgroups
from ..state import STATE
from ..weights import (
    BITS,
    WEIGHT_FORMATS,
    dense,
    is_quantized,
    magnitude_planes,
    piece_defaults,
    piece_library,
    piece_tunables,
    quant_params,
    random_planes,
    weight_ports,
    weight_sizes,
    with_planes,
)
from .low_rank import state_with

ROWS = replace(STATE, binding=8)
#: What the operand `x` is bound as where it is INT8.
INT8_X = {
    "x": Port(("tokens", "x_words"), "u32", of="x", plane="quants"),
    "x_scales": Port(("tokens", "x_groups"), "f32", binding=7, of="x", plane="scales"),
}


def _pieces(fmt: str, integer: bool, context: Context) -> tuple[str, ...]:
    if integer and is_quantized(fmt):
        return "x_a8/buffer", *integer_pieces(fmt, context, context["x_groups"])
    x = ("x/int8", "x_a8/buffer") if integer else (x_library(context),)
    return *x, "weigh/none", *piece_library(fmt, context)


#: Fewer than products of many rows have: there is nothing to win by long teams or many rows each.
TUNABLES = {"workgroup": (256, 8, 32, 128), "teams": (1, 2, 4), "rows_per_team": (1, 2, 16)}


def _variant(fmt: str, integer: bool, *, norm: bool = False) -> Variant:
    """A workgroup for each row on a GPU: there are few rows, and all of them together are to fill it."""
    own = "" if integer and is_quantized(fmt) else fmt
    defaults = gemv_defaults(lambda c: (256, 1, 1))

    def library(context: Context) -> tuple[str, ...]:
        pieces = (
            ("x/vec4", "weigh/norm", *piece_library(fmt, context)) if norm else _pieces(fmt, integer, context)
        )
        factor = "norm" if norm else "none"
        files = f"extra_sum/{factor}", f"row_factor/{factor}"
        return *pieces, *files, *team_reduction(context)

    return Variant(
        "lora/lora_down",
        grid=lambda c: (ceil_div(c["ranks"], c["rows_per_team"] * c["teams"]), c["tokens"], 1),
        tunables={**TUNABLES, **piece_tunables(own)},
        library=library,
        refuse=refuse_columns if norm else whole_subgroups,
        defaults=lambda c: {**defaults(c), **piece_defaults(own, c)},
        why="an adapter's rows are read where a token's sequence has it",
    )


def lora_down_reference(x, weight, state, ranks, columns=None, **_) -> torch.Tensor:
    """y [tokens, ranks] = x A^T with the A [ranks, columns] of each token's adapter, 0 where it has none."""
    columns = columns or x.shape[1]
    factors = weight[:, :columns].unflatten(0, (-1, ranks)).to(x.dtype)
    y, chosen = x.new_zeros(len(x), ranks), state[:, 1].long() - 2
    for adapter in chosen.unique().tolist():
        if adapter >= 0:
            tokens = (chosen == adapter).nonzero()[:, 0]
            y[tokens] = x[tokens, :columns] @ factors[adapter].T
    return y


def _floats(arguments, dtype=None) -> torch.Tensor:
    """The activations of a call as floats: as they are, or what INT8 stands for."""
    if "x_scales" not in arguments:
        return arguments["x"]
    scales = arguments["x_scales"] if dtype is None else arguments["x_scales"].to(dtype)
    q = unpack_activations(arguments["x"], arguments["stride"]).to(scales.dtype)
    return (q.unflatten(1, (-1, INT8_BLOCK)) * scales.unsqueeze(-1)).flatten(1)[:, : arguments["columns"]]


def _integer_reference(weight, **given) -> torch.Tensor:
    """`lora_down_reference` of x = x_scale * xq."""
    return lora_down_reference(**{**given, "x": _floats(given, weight.dtype), "weight": weight})


def _norm_reference(x, norm, eps, **given) -> torch.Tensor:
    """`lora_down_reference` of rms_norm(x)."""
    return lora_down_reference(x=rms_norm.reference(x, norm, eps), **given)


def _inputs(
    fmt: str,
    seed=0,
    tokens=3,
    ranks=8,
    adapters=2,
    columns=64,
    rows=None,
    x_dtype="f32",
    **weight_options,
) -> dict:
    """rows, of all adapters together, is another way to say how many they are."""
    generator = torch.Generator().manual_seed(seed)
    adapters = ceil_div(rows, ranks) if rows else adapters
    return {
        "x": random_tensor(generator, (tokens, columns), x_dtype),
        **random_planes(fmt, generator, adapters * ranks, columns, **weight_options),
        "state": state_with(tokens, adapters),
        "ranks": ranks,
    }


def _integer_inputs(fmt: str, made, stride=1, **options) -> dict:
    arguments = made(**options)
    x = arguments.pop("x")
    stride = INT8_STRIDES.get(fmt, stride)
    words, scales = quantize_activations.reference(x, block=INT8_BLOCK, stride=stride)
    return {"x": words, "x_scales": scales, "columns": x.shape[1], "stride": stride, **arguments}


def _norm_inputs(made, seed=0, columns=64, eps=1e-5, **options) -> dict:
    generator = torch.Generator().manual_seed(seed + 1)
    norm = torch.rand(columns, generator=generator) + 0.5
    return {**made(seed=seed, columns=columns, **options), "norm": norm, "eps": eps}


def _tolerance(fmt: str, arguments, expected) -> dict:
    x = _floats(arguments, torch.float64).double()
    if "norm" in arguments:
        x = rms_norm.reference(x, arguments["norm"].double(), arguments["eps"])
    magnitude = magnitude_planes(fmt, arguments, x.shape[1])
    bound = lora_down_reference(x.abs(), magnitude, arguments["state"], arguments["ranks"])
    return {"y": (12 + x.shape[1] ** 0.5) * EPS32 * bound + 1e-30}


def _cost(fmt: str, integer: bool, s) -> Cost:
    rows = min(s["rows"], s["tokens"] * s["ranks"])
    read = rows * s["columns"] * BITS[fmt] / 8 + (1.125 if integer else 4) * s["tokens"] * s["columns"]
    return Cost(read, 4 * s["tokens"] * s["ranks"], 2 * s["tokens"] * s["ranks"] * s["columns"])


def _derive(fmt: str, s) -> dict:
    return {
        **weight_sizes(fmt),
        **({"x_groups": ceil_div(s["columns"], INT8_BLOCK)} if "columns" in s else {}),
    }


def lora_down(fmt: str, integer: bool = False) -> Kernel:
    """The pair for one weight format, with float or INT8 activations."""
    x = INT8_X if integer else {"x": Port(("tokens", "columns"))}
    floats = handing_on(partial(_inputs, fmt), with_planes(fmt, _inputs))
    made = (
        handing_on(partial(_integer_inputs, fmt, floats), floats, without=("x_dtype",)) if integer else floats
    )
    return register(
        Kernel(
            op="lora_down",
            form={"weight": fmt, **({"x": A8} if integer else {})},
            reference=_integer_reference if integer else lora_down_reference,
            reads={
                "x": x["x"],
                **weight_ports(fmt),
                **{n: p for n, p in x.items() if n != "x"},
                "state": ROWS,
            },
            writes={"y": Port(("tokens", "ranks"), "f32", binding=6)},
            params={
                **quant_params(fmt),
                "ranks": int,
                **({"columns": int, "stride": int} if integer else {}),
            },
            variants={"gemv": _variant(fmt, integer)},
            make_inputs=made,
            tolerance=partial(_tolerance, fmt),
            cost=partial(_cost, fmt, integer),
            prepare=partial(dense, fmt),
            prepared_ports=tuple(weight_ports(fmt)),
            derive=partial(_derive, fmt),
        )
    )


def norm_lora_down(whole: Kernel) -> Kernel:
    """The pair behind a norm, of one over floats."""
    fmt = whole.form["weight"]
    return register(
        replace(
            whole,
            op="norm_lora_down",
            reference=_norm_reference,
            reads={**whole.reads, "norm": NORM},
            params={**whole.params, "eps": float},
            variants={"gemv": _variant(fmt, False, norm=True)},
            make_inputs=handing_on(partial(_norm_inputs, whole.make_inputs), whole.make_inputs),
        )
    )


for _format in WEIGHT_FORMATS:
    norm_lora_down(lora_down(_format))
for _format in WEIGHT_FORMATS:
    lora_down(_format, integer=True)
