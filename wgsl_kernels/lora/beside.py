"""A product of one token with INT8 activations, and A x beside it: `linear_lora_down[int8, a8, f32]` and the like.

Both read the same x, and A has 16 rows where the product has thousands: workgroups of their own, first in the dispatch,
compute them in less time than the product takes. B (A x) is left to what reads the sum (`lora_up_norm_slices`). A is of
f32.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch

from ..layout import INT8_STRIDES
from ..linear.linear import linear_reference
from ..linear.linear_a8 import dequantize_activations
from ..makers import handing_on
from ..numerics import EPS32
from ..pair import REGISTRY, Context, Cost, Kernel, Port, ceil_div, register, spread
from ..weights import random_planes
from .lora_down import ROWS, lora_down_reference
from .low_rank import LOW_RANK, LOW_RANK_PARAMS, state_with

#: Fewer than the product's own: registers are shared out among more.
TUNABLES = {"workgroup": (256, 64), "teams": (1, 2), "rows_per_team": (2, 1)}
_LORA_A = Port(("a_rows", "a_padded"), "f32", binding=9, of="lora_a", plane="values")


def _values(x, lora_a, state, ranks, **given) -> tuple[torch.Tensor, torch.Tensor]:
    """`linear` over x, and A x of the adapter that each token's sequence has, [tokens, ranks], 0 where it has none."""
    return linear_reference(x, **given), lora_down_reference(x, lora_a, state, ranks)


def _inputs(whole: Kernel, seed=0, tokens=1, columns=64, ranks=8, adapters=2, **options) -> dict:
    arguments = whole.inputs(seed=seed, tokens=tokens, columns=columns, **options)
    generator = torch.Generator().manual_seed(seed + 1)
    a = random_planes("f32", generator, adapters * ranks, columns)["values"]
    return {**arguments, "lora_a": a, "state": state_with(tokens, adapters), "ranks": ranks}


def linear_lora_down(whole: Kernel) -> Kernel:
    """The pair beside that of a product, `whole`."""
    fmt = whole.form["weight"]
    gemv = whole.variants["gemv"]

    def floats(arguments, dtype: torch.dtype) -> torch.Tensor:
        scales = arguments["x_scales"].to(dtype)
        return dequantize_activations(fmt, arguments["x"], scales, arguments["columns"])

    def reference(weight, **given):
        x = floats(given, weight.dtype)
        plain = {n: v for n, v in given.items() if n not in ("x", "x_scales", "columns")}
        return _values(x, weight=weight, **plain)

    def library(context: Context) -> tuple[str, ...]:
        return *(f for f in gemv.library(context) if f != "beside/none"), "beside/lora_down", "x/int8"

    def grid(context: Context) -> tuple[int, int, int]:
        product = ceil_div(context["rows"], context["rows_per_team"] * context["teams"])
        return spread(context["ranks"] + product, context["tokens"])

    def tolerance(arguments, expected) -> dict:
        x, a = floats(arguments, torch.float64), arguments["lora_a"].double()
        bound = lora_down_reference(x.abs(), a.abs(), arguments["state"], arguments["ranks"])
        down = (12 + x.shape[1] ** 0.5) * EPS32 * bound + 1e-30
        return {**whole.tolerance(arguments, {"y": expected["y"]}), "lora_x": down}

    def cost(sizes) -> Cost:
        alone, inner = whole.cost(sizes), sizes["tokens"] * sizes["ranks"]
        factors = inner * sizes["columns"]
        return Cost(alone.read + 4 * factors, alone.written + 4 * inner, alone.flops + 2 * factors)

    reference.__doc__ = _values.__doc__
    return register(
        replace(
            whole,
            op="linear_lora_down",
            form={**whole.form, "lora_a": "f32"},
            reference=reference,
            values=_values,
            reads={
                **{name: port for name, port in whole.reads.items() if name not in LOW_RANK},
                "state": ROWS,
                "lora_a": _LORA_A,
            },
            writes={**whole.writes, "lora_x": Port(("tokens", "ranks"), "f32", binding=10)},
            params={
                **{name: kind for name, kind in whole.params.items() if name not in LOW_RANK_PARAMS},
                "ranks": int,
            },
            defaults={name: v for name, v in whole.defaults.items() if name not in LOW_RANK_PARAMS},
            variants={"gemv": replace(gemv, library=library, grid=grid, tunables=TUNABLES)},
            make_inputs=handing_on(partial(_inputs, whole), whole.make_inputs, without=("whole",)),
            tolerance=tolerance,
            cost=cost,
            derive=lambda sizes: {"stride": INT8_STRIDES[fmt], **whole.derive(sizes)},
            prefer=None,
        )
    )


for _format in INT8_STRIDES:
    linear_lora_down(REGISTRY[f"linear[{_format}, a8]"])
