"""Dequantization of a whole weight: `dequantize[f32]` ... `dequantize[int2]`, y = scale * (quant - zero), or
scale * quant + offset."""

from __future__ import annotations

from functools import partial

import torch

from ..numerics import EPS32
from ..pair import Context, Cost, Kernel, Port, Variant, ceil_div, register
from ..weights import (
    BITS,
    WEIGHT_FORMATS,
    dense,
    magnitude_planes,
    quant_params,
    random_planes,
    weight_library,
    weight_ports,
    weight_sizes,
    with_planes,
)


def _reference(fmt: str, columns, **planes):
    """Weights [rows, columns]."""
    return dense(fmt, **planes)[:, :columns]


def _make_inputs(fmt: str, seed=0, rows=50, columns=64, **weight_options) -> dict:
    generator = torch.Generator().manual_seed(seed)
    planes = random_planes(fmt, generator, rows, columns, **weight_options)
    return {**planes, "columns": columns}


def _tolerance(fmt: str, arguments, expected) -> dict:
    return {"y": 4 * EPS32 * magnitude_planes(fmt, arguments, arguments["columns"]) + 1e-30}


def dequantize(fmt: str) -> Kernel:
    """The pair for one weight format."""

    def library(context: Context) -> tuple[str, ...]:
        return weight_library(fmt, context)

    def cost(sizes) -> Cost:
        count = sizes["rows"] * sizes["columns"]
        return Cost(count * BITS[fmt] / 8, 4 * count, 2 * count)

    return register(
        Kernel(
            op="dequantize",
            form={"weight": fmt},
            reference=partial(_reference, fmt),
            reads=weight_ports(fmt),
            writes={"y": Port(("rows", "columns"), "f32", binding=4)},
            params={**quant_params(fmt), "columns": int},
            variants={
                "octets": Variant(
                    "quantized/dequantize",
                    grid=lambda c: (
                        ceil_div(c["columns"], 512),
                        min(c["rows"], 32768),
                        ceil_div(c["rows"], 32768),
                    ),
                    library=library,
                )
            },
            make_inputs=with_planes(fmt, _make_inputs),
            tolerance=partial(_tolerance, fmt),
            cost=cost,
            derive=lambda sizes: weight_sizes(fmt),
        )
    )


for _format in WEIGHT_FORMATS:
    dequantize(_format)
