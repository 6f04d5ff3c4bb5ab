"""Products with INT8 activations behind a norm, over a row that is there in INT8 already: `sliced_qkv_a8`,
`sliced_gate_up_a8` and `sliced_gate_up_gelu_a8`, a weight format each.

Where adapters stand in front, a dispatch reads the row anyway (`norm_lora_slices_a8`) and leaves it in INT8, without
the norm's factor, which follows from the squares that stand behind each slice of A x. So no workgroup begins with
making the row, as those of `norm_qkv_a8` and the others do.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch

from ..activations.activations import gelu_mul, silu_mul
from ..composition import Composition, Rule, record
from ..layout import INT8_BLOCK, INT8_STRIDES
from ..lora.lent import lent
from ..lora.low_rank import BEHIND, LOW_RANK, widened
from ..makers import handing_on
from ..numerics import EPS32
from ..pair import REGISTRY, Context, Kernel, Port, register
from ..quantized.quantize_activations import quantize_activations, quantized_tolerance
from ..reduce import whole_subgroups
from ..weights import dense, magnitude_planes
from .linear import linear_reference
from .linear_a8 import dequantize_activations
from .norm_linear import gated_bound, halves_of, weight_parts
from .norm_linear_a8 import norm_gate_up_a8, norm_gate_up_gelu_a8, norm_qkv_a8, whole_blocks
from .norm_qkv import qkv_rows, qkv_tolerance


def _factor(given) -> torch.Tensor:
    """1 / rms of each token's row, [tokens, 1], from the squares behind each slice."""
    squares = given["lora_x"].unflatten(1, (given.get("lora_slices", 1), -1))[..., -BEHIND].sum(1)
    return torch.rsqrt(squares / given["columns"] + given["eps"]).unsqueeze(-1)


def _without_squares(given) -> dict:
    """A call's operands with `lora_x` as other products have it."""
    slices = given["lora_x"].unflatten(1, (given.get("lora_slices", 1), -1))
    return {**given, "lora_x": slices[..., :-BEHIND].flatten(1)}


def _row(fmt: str, given, dtype: torch.dtype) -> torch.Tensor:
    """rms_norm(x) as its INT8 words stand for it, [tokens, columns]."""
    scales = given["x_scales"].to(dtype)
    return dequantize_activations(fmt, given["x"], scales, given["columns"]) * _factor(given).to(dtype)


def _reference(fmt: str, rule: Rule, rows: Callable, quantized: bool) -> Callable:
    """The composition of `rule` behind its norm and quantization."""

    @functools.cache
    def behind() -> tuple[Composition, str, str]:
        whole = record(lent(rule).before)
        (row,) = {node.outputs["y"] for node in whole.nodes[:2] if node.op == "quantize_activations"}
        *nodes, last = whole.nodes[2:]
        end = last.inputs["x"] if quantized else ""
        nodes = nodes if quantized else [*nodes, last]
        return replace(whole, nodes=tuple(nodes), results=(end,) if end else whole.results), row, end

    def reference(weight, **given):
        composition, row, end = behind()
        made = _without_squares(given)
        made["lora_x"] = made["lora_x"] * _factor(given)
        parts = zip(rule.stack, weight.split(rows(weight, **given)), strict=True)
        results = composition.run({**made, **dict(parts), row: _row(fmt, given, weight.dtype)})
        return quantize_activations.reference(results[0], stride=given["y_stride"]) if end else results

    reference.__doc__ = f"{rule.summary.rstrip('.')}, of a row in INT8, with what adapters add."
    return reference


def _inputs(whole: Kernel, seed=0, adapters=2, slices=3, **options) -> dict:
    arguments = whole.inputs(seed=seed, adapters=adapters, slices=slices, **options)
    x, norm = arguments.pop("x"), arguments.pop("norm")
    stride = INT8_STRIDES[whole.form["weight"]]
    words, scales = quantize_activations.reference(x.float() * norm, INT8_BLOCK, stride=stride)
    own = arguments["lora_x"].unflatten(1, (slices, -1))
    squares = torch.zeros(*own.shape[:2], BEHIND)
    squares[..., 0] = x.float().pow(2).sum(-1, keepdim=True) / slices
    lora_x = torch.cat([own, squares], -1).flatten(1)
    return {**arguments, "x": words, "x_scales": scales, "lora_x": lora_x, "columns": x.shape[1]}


def _operands(fmt: str, arguments) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """n = rms_norm(x) f64 [tokens, columns], W and its magnitude f64 [rows, columns], each with what adapters add as
    columns more."""
    n = _row(fmt, arguments, torch.float64)
    weight = dense(fmt, **weight_parts(fmt, arguments)).double()[:, : n.shape[1]]
    inner, up = widened(len(weight), _without_squares(arguments))
    magnitude = magnitude_planes(fmt, arguments, n.shape[1])
    rows = torch.cat([n, inner * _factor(arguments).double()], -1)
    return rows, torch.cat([weight, up], -1), torch.cat([magnitude, up], -1)


def _bound(n, magnitude) -> torch.Tensor:
    return (12 + n.shape[1] ** 0.5) * EPS32 * (n.abs() @ magnitude.abs().T) + 1e-30


def _qkv_tolerance(fmt: str, arguments, expected) -> dict:
    n, _, magnitude = _operands(fmt, arguments)
    return qkv_tolerance(_bound(n, magnitude), arguments)


def _gate_up_tolerance(fmt: str, unit: Kernel, arguments, expected) -> dict:
    n, weight, magnitude = _operands(fmt, arguments)
    error = gated_bound(n, weight, _bound(n, magnitude))
    y = unit.reference(*linear_reference(n, weight).chunk(2, dim=-1))
    scales = expected["y_scales"].double()
    quants = quantized_tolerance(y, scales, INT8_BLOCK, arguments["y_stride"], error)
    return {"y": quants[0], "y_scales": quants[1]}


def over_slices(whole: Kernel, rule: Rule, rows: Callable, unit: Kernel | None = None) -> Kernel:
    """The pair beside `whole`, of `rule`. unit: the gated unit that it ends with, if any."""
    fmt, gemv = whole.form["weight"], whole.variants["gemv"]
    replaced = "x/", "extra_sum/", "row_factor/", "x_a8/", "stage/", "low_sums/"

    def library(context: Context) -> tuple[str, ...]:
        kept = (f for f in gemv.library(context) if not f.startswith(replaced))
        own = "x_a8/buffer", "stage/none", "extra_sum/none", "row_factor/sliced", "low_sums/sliced"
        return *kept, *own

    reads = {name: port for name, port in whole.reads.items() if name not in ("x", "norm")}
    lora = {name: replace(reads[name], optional=False) for name in LOW_RANK if name != "state"}
    state = {"state": replace(reads["state"], optional=False)}
    tolerance = partial(_qkv_tolerance, fmt) if unit is None else partial(_gate_up_tolerance, fmt, unit)
    return register(
        replace(
            whole,
            op=rule.name.replace("norm_", "sliced_"),
            reference=_reference(fmt, rule, rows, unit is not None),
            reads={
                "x": Port(("tokens", "x_words"), "u32", binding=0),
                "x_scales": Port(("tokens", "x_groups"), "f32", binding=7),
                **{**reads, **lora, **state},
            },
            params={**whole.params, "columns": int},
            variants={
                "gemv": replace(
                    gemv,
                    tunables={"workgroup": (256, 64), "teams": (1, 2, 4), "rows_per_team": (4, 2)},
                    library=library,
                    refuse=whole_subgroups if unit is None else _whole_blocks,
                )
            },
            make_inputs=handing_on(partial(_inputs, whole), whole.make_inputs, without=("whole", "x_dtype")),
            tolerance=tolerance,
        )
    )


def _whole_blocks(context: Context) -> str | None:
    return whole_blocks(context) or whole_subgroups(context)


for _format in INT8_STRIDES:
    over_slices(REGISTRY[f"norm_qkv_a8[{_format}]"], norm_qkv_a8, qkv_rows)
    for _rule, _unit in ((norm_gate_up_a8, silu_mul), (norm_gate_up_gelu_a8, gelu_mul)):
        over_slices(REGISTRY[f"{_rule.name}[{_format}, a8]"], _rule, halves_of, _unit)
