"""Embedding lookup from every weight format: `embedding[f32]` ... `embedding[int2]`."""

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


def _reference(ids, weight, columns=None, row_offset=0, **_):
    """y[t] = weight[ids[t] - row_offset], zero where that row is not in this part of the table."""
    rows = ids.long() - row_offset
    inside = (rows >= 0) & (rows < weight.shape[0])
    y = weight[rows.clamp(0, weight.shape[0] - 1)] * inside.unsqueeze(-1)
    return y[:, :columns]


def _make_inputs(fmt: str, seed=0, tokens=3, rows=50, columns=64, row_offset=0, **weight_options) -> dict:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, rows + 2 * row_offset, (tokens,), generator=generator).to(torch.int32)
    planes = random_planes(fmt, generator, rows, columns, **weight_options)
    return {"ids": ids, **planes, "columns": columns, "row_offset": row_offset}


def _tolerance(fmt: str, arguments, expected) -> dict:
    magnitude = magnitude_planes(fmt, arguments, arguments["columns"])
    rows = arguments["ids"].long() - arguments.get("row_offset", 0)
    return {"y": 4 * EPS32 * magnitude[rows.clamp(0, magnitude.shape[0] - 1)] + 1e-30}


def embedding(fmt: str) -> Kernel:
    """The pair for one weight format."""

    def library(context: Context) -> tuple[str, ...]:
        return weight_library(fmt, context)

    def cost(sizes) -> Cost:
        count = sizes["tokens"] * sizes["columns"]
        return Cost(count * BITS[fmt] / 8, 4 * count, 2 * count)

    return register(
        Kernel(
            op="embedding",
            form={"weight": fmt},
            reference=_reference,
            reads={"ids": Port(("tokens",), "u32"), **weight_ports(fmt)},
            writes={"y": Port(("tokens", "columns"), binding=4)},
            params={**quant_params(fmt), "columns": int, "row_offset": int},
            defaults={"row_offset": 0},
            variants={
                "rows": Variant(
                    "tokens/embedding",
                    grid=lambda c: (ceil_div(c["columns"], 8 * c["workgroup"]), c["tokens"], 1),
                    tunables={"workgroup": (32, 8, 64)},
                    library=library,
                )
            },
            make_inputs=with_planes(fmt, _make_inputs),
            tolerance=partial(_tolerance, fmt),
            cost=cost,
            prepare=partial(dense, fmt),
            prepared_ports=tuple(weight_ports(fmt)),
            derive=lambda sizes: weight_sizes(fmt),
        )
    )


for _format in WEIGHT_FORMATS:
    embedding(_format)
