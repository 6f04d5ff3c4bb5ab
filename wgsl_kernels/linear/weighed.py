"""A row quantized by the product that makes it, for the products behind the norm that reads it.

    linear_weighed         linear with a residual; its result times the norm's weights, in INT8, and the squares' sums
    weighed_gate_up_a8     what `norm_gate_up_a8` gives, from those
    weighed_qkv_a8         what `norm_qkv_a8` gives, from those

A norm is y * weight * factor, and its factor is one number a row, which multiplies the sums of a product at the end. So
blocks of y * weight may be quantized before the factor is known, where y is made, once, and each workgroup of the
products behind reads them. With `norm_gate_up_a8` each of them reads and quantizes the whole row for itself, which
takes 4 us before it multiplies anything (4096 columns, H200): more than a fourth of the time of gate and up of an 8B.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from ..activations.activations import silu_mul
from ..composition import Facts, Match, Rule, composed, rule
from ..layout import A8, INT8_BLOCK, INT8_STRIDES, KV8
from ..lora.low_rank import LOW_RANK, LOW_RANK_PARAMS, low_rank_files
from ..makers import handing_on
from ..numerics import EPS32
from ..pair import REGISTRY, Context, Cost, Kernel, Port, Variant, ceil_div, register, spread
from ..quantized.quantize_activations import (
    quantize_activations,
    quantized_tolerance,
    rounded,
    unpack_activations,
)
from ..reduce import team_reduction, whole_subgroups
from ..weights import dense, quant_params, weight_sizes
from .linear import gemv_defaults, gemv_tunables, linear_reference
from .linear_a8 import dequantize_activations, integer_pieces
from .norm_linear import (
    gate_and_up,
    gated_bound,
    product_bound,
    qkv_rows,
    qkv_tolerance,
    turned_and_appended,
    weight_parts,
)
from .norm_linear_a8 import NORM_QKV_A8, by_quads

#: Storage buffers that `linear_weighed` binds, with zero-points; every WebGPU device takes 8.
BUFFERS = 10
WORDS = Port(("tokens", "x_words"), "u32")
#: Of a block its scale, and the sum of the squares of what was weighed.
FACTS = Port(("tokens", "x_groups", 2), "f32", binding=7)


def weighed(y, norm, stride: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Words [tokens, width / 4] and facts [tokens, width / 32, 2] of rows y [tokens, width] in front of a norm."""
    words, scales = quantize_activations.reference(y * norm, INT8_BLOCK, stride=stride)
    return words, torch.stack([scales, y.unflatten(1, (-1, INT8_BLOCK)).square().sum(-1)], -1)


def normed(words, facts, eps: float, stride: int) -> torch.Tensor:
    """rms_norm(y) * norm [tokens, width] as `weighed` stores it, in the type of the facts."""
    scales, squares = facts.unbind(-1)
    q = unpack_activations(words, stride).to(facts.dtype).unflatten(1, (-1, INT8_BLOCK))
    width = INT8_BLOCK * scales.shape[1]
    factor = (squares.sum(1, keepdim=True) / width + eps).rsqrt()
    return (q * scales.unsqueeze(-1)).flatten(1) * factor


def _left_out(name: str, port: Port) -> bool:
    """A bias, and what adapters add: products with those make and read their rows as `norm_linear_a8` has it."""
    return name == "bias" or (name in LOW_RANK and port.optional)


# ---- the product that makes the row --------------------------------------------------------------------------------


def _linear_weighed(x, weight, residual, norm, stride, factor=1.0, **_):
    """y = factor * x W^T + residual, and y in words and facts for a norm with the weights `norm`."""
    y = linear_reference(x, weight, residual=residual, factor=factor)
    return y, *weighed(y, norm, stride)


def _refuse(context: Context) -> str | None:
    binds = BUFFERS - ("zeros" not in context.types)
    if binds > context.adapter.storage_buffers:
        return f"it binds {binds} storage buffers where the adapter takes {context.adapter.storage_buffers}"
    if context["rows"] % INT8_BLOCK:
        return f"{context['rows']} rows are no whole blocks of {INT8_BLOCK}"
    if {"rows_per_team", "teams"} <= set(context.sizes):
        once = context["rows_per_team"] * context["teams"]
        if once < INT8_BLOCK and INT8_BLOCK % once:
            return f"rounds of {once} rows make no whole blocks of {INT8_BLOCK}"
    return whole_subgroups(context)


def _group(context: Context) -> int:
    """Rows of a workgroup."""
    once = context["rows_per_team"] * context["teams"]
    return once * max(1, INT8_BLOCK // once)


def linear_weighed_pair(whole: Kernel) -> Kernel:
    """The pair for one weight format. whole: its `linear` of INT8 activations."""
    fmt = whole.form["weight"]

    def given_x(arguments) -> torch.Tensor:
        scales = arguments["x_scales"].double()
        return dequantize_activations(fmt, arguments["x"], scales, arguments["columns"])

    def reference(x, x_scales, weight, columns, **given):
        return _linear_weighed(
            dequantize_activations(fmt, x, x_scales.to(weight.dtype), columns), weight, **given
        )

    def make_inputs(stride=1, **options) -> dict:
        arguments = whole.inputs(**options, residual=True)
        generator = torch.Generator().manual_seed(options.get("seed", 0) + 1)
        rows = arguments["residual"].shape[1]
        return {**arguments, "norm": torch.rand(rows, generator=generator) + 0.5, "stride": stride}

    def tolerance(arguments, expected) -> dict:
        y = expected["y"].double()
        error = whole.tolerance(arguments, {"y": y})["y"]
        norm = arguments["norm"].double()
        scales, squares = expected["facts"].double().unbind(-1)
        quants, off = quantized_tolerance(y * norm, scales, INT8_BLOCK, arguments["stride"], error * norm)
        blocks = (2 * y.abs() * error + error.square()).unflatten(1, (-1, INT8_BLOCK)).sum(-1)
        return {"y": error, "words": quants, "facts": torch.stack([off, blocks + 16 * EPS32 * squares], -1)}

    def cost(sizes) -> Cost:
        alone = whole.cost(sizes)
        rows = sizes["tokens"] * sizes["rows"]
        return Cost(alone.read + 4 * rows + 4 * sizes["rows"], alone.written + 1.25 * rows, alone.flops)

    return register(
        Kernel(
            op="linear_weighed",
            form=whole.form,
            reference=reference,
            values=_linear_weighed,
            reads={
                **{n: port for n, port in whole.reads.items() if n != "residual" and not _left_out(n, port)},
                "residual": Port(("tokens", "rows"), "f32", binding=5),
                "norm": Port(("rows",), "f32", binding=4),
            },
            writes={
                "y": Port(("tokens", "rows"), "f32", binding=6),
                "words": Port(("tokens", "y_words"), "u32", packed=8, binding=8),
                "facts": Port(("tokens", "y_groups", 2), "f32", binding=9),
            },
            params={**quant_params(fmt), "columns": int, "factor": float, "stride": int},
            defaults={"factor": 1.0},
            variants={
                "gemv": Variant(
                    "linear/linear_weighed",
                    grid=lambda c: spread(ceil_div(c["rows"], _group(c)), c["tokens"]),
                    tunables=gemv_tunables((4, 1, 2, 8, 16)),
                    library=lambda c: (
                        "x_a8/buffer",
                        *integer_pieces(fmt, c, c["x_groups"]),
                        "extra_sum/none",
                        *low_rank_files(c),
                        f"store_blocks/{by_quads(c)}",
                        *team_reduction(c),
                    ),
                    refuse=_refuse,
                    defaults=gemv_defaults(lambda c: (256, 8, 4)),
                    why="few tokens: the row is quantized where it is made, once",
                )
            },
            make_inputs=handing_on(
                make_inputs,
                whole.make_inputs,
                without=("bias", "residual", "row_offset", "out_rows", "adapters"),
            ),
            tolerance=tolerance,
            cost=cost,
            prepare=partial(dense, fmt),
            prepared_ports=whole.prepared_ports,
            derive=lambda s: {
                **({"y_words": s["rows"] // 4, "y_groups": s["rows"] // INT8_BLOCK} if "rows" in s else {}),
                **weight_sizes(fmt),
            },
        )
    )


# ---- the products that read it ---------------------------------------------------------------------------------------


def _gate_up_values(words, facts, weight, eps, stride, **_) -> torch.Tensor:
    gate, up = linear_reference(normed(words, facts, eps, stride), weight).chunk(2, dim=-1)
    return silu_mul.reference(gate, up)


def _gate_up(y_stride, **given):
    """silu(n G^T) * (n U^T) in INT8, n the row that words and facts stand for: words and scales."""
    return quantize_activations.reference(_gate_up_values(**given), stride=y_stride)


def _gate_up_bound(row, product, fmt: str, arguments, expected) -> dict:
    weight = dense(fmt, **weight_parts(fmt, arguments)).double()
    y = silu_mul.reference(*linear_reference(row, weight).chunk(2, dim=-1))
    error, scales = gated_bound(row, weight, product), expected["y_scales"].double()
    quants, off = quantized_tolerance(y, scales, INT8_BLOCK, arguments["y_stride"], error)
    return {"y": quants, "y_scales": off}


def _qkv_of_a_row(
    p, normed, q, k, v, table, kv, state, *, passed, ring, sinks
):  # many parameters: the operands and parameters of the op
    """Queries, turned, and the cache with the step's keys, turned, and values."""
    return turned_and_appended(p, normed, q, k, v, table, kv, state, passed=passed, ring=ring, sinks=sinks)


_of_a_row = composed(rule(_qkv_of_a_row, _qkv_of_a_row, stack=("q", "k", "v")), rows=qkv_rows)


def _qkv(words, facts, eps, stride, **given):
    """What `norm_qkv_a8` gives, from the row that words and facts stand for."""
    return _of_a_row(normed=normed(words, facts, eps, stride), **given)


def _behind(whole: Kernel, op: str, reference: Callable, values: Callable, bound: Callable) -> Kernel:
    """The pair `whole`, which normalises and quantizes its own input, over one that is made already.

    bound(row, product, fmt, arguments, expected): bounds of the results, from the row and the bound of the product.
    """
    fmt = whole.form["weight"]
    gemv = whole.variants["gemv"]
    files = {"x_a8/row": "x_a8/weighed", "stage/quads": "stage/none", "stage/blocks": "stage/none"}

    def library(context: Context) -> tuple[str, ...]:
        return tuple(files.get(name, name) for name in gemv.library(context) if name != "x/vec4")

    def make_inputs(**options) -> dict:
        arguments = dict(whole.inputs(**options))
        x, norm = arguments.pop("x"), arguments.pop("norm")
        stride = INT8_STRIDES[fmt]
        words, facts = weighed(x, norm, stride)
        return {"words": words, **arguments, "facts": facts, "stride": stride}

    def tolerance(arguments, expected) -> dict:
        row = normed(arguments["words"], arguments["facts"].double(), arguments["eps"], arguments["stride"])
        return bound(row, product_bound(fmt, arguments, row), fmt, arguments, expected)

    def refuse(context: Context) -> str | None:
        if context["columns"] % INT8_BLOCK:
            return f"{context['columns']} columns are no whole blocks of {INT8_BLOCK}"
        return gemv.refuse(context)

    reads = {n: port for n, port in whole.reads.items() if n not in ("x", "norm") and not _left_out(n, port)}
    return register(
        Kernel(
            op=op,
            form=whole.form,
            reference=reference,
            values=values,
            reads={"words": WORDS, **reads, "facts": FACTS},
            writes=whole.writes,
            updates=whole.updates,
            params={
                **{n: kind for n, kind in whole.params.items() if n not in LOW_RANK_PARAMS},
                "stride": int,
            },
            defaults={n: value for n, value in whole.defaults.items() if n not in LOW_RANK_PARAMS},
            variants={"gemv": Variant(**{**vars(gemv), "library": library, "refuse": refuse})},
            make_inputs=handing_on(make_inputs, whole.make_inputs, without=("x_dtype", "adapters")),
            tolerance=tolerance,
            cost=whole.cost,
            prepare=whole.prepare,
            prepared_ports=whole.prepared_ports,
            derive=lambda s: {
                **({"columns": INT8_BLOCK * s["x_groups"]} if "x_groups" in s else {}),
                **{n: v for n, v in whole.derive(s).items() if n != "stride"},
            },
        )
    )


def _qkv_bound(row, product, fmt: str, arguments, expected) -> dict:
    return qkv_tolerance(product, arguments)


for _fmt in INT8_STRIDES:
    linear_weighed_pair(REGISTRY[f"linear[{_fmt}, {A8}]"])
    _whole = REGISTRY[f"norm_gate_up_a8[{_fmt}, {A8}]"]
    _behind(
        _whole,
        "weighed_gate_up_a8",
        _gate_up,
        lambda **given: rounded(_gate_up_values(**given)),
        _gate_up_bound,
    )
    _behind(NORM_QKV_A8[_fmt], "weighed_qkv_a8", _qkv, _qkv, _qkv_bound)


# ---- where they stand ---------------------------------------------------------------------------------------------


def _where(facts: Facts, match: Match) -> bool | dict[str, int]:
    """One token on a GPU that binds as many buffers, a row of whole blocks from a matrix in one piece."""
    reader = match.label("gate" if match.has("gate") else "q")
    holds = (
        facts.tokens == 1
        and not facts.adapter.is_cpu
        and facts.adapter.storage_buffers >= BUFFERS
        and match.label("x") == A8
        and reader in INT8_STRIDES
        and match.shape("norm")[0] % INT8_BLOCK == 0
        and len(match.ranges("weight")) == 1
        and not (match.has("kv") and match.label("kv") == KV8)
    )
    return {"stride": INT8_STRIDES[reader]} if holds else False


def _row_and_norm(p, x, weight, residual, norm, factor, eps):
    y = p.linear(x=x, weight=weight, residual=residual, factor=factor)
    return y, p.quantize_activations(x=p.rms_norm(x=y, weight=norm, eps=eps))


def _before_gate_up(p, x, weight, residual, norm, gate, up, *, factor, eps):
    """y = factor * x W^T + residual, and silu(n G^T) * (n U^T) in INT8, n = rms_norm(y) as INT8."""
    y, row = _row_and_norm(p, x, weight, residual, norm, factor, eps)
    return y, p.quantize_activations(x=p.silu_mul(**gate_and_up(p, row, gate, up)))


def _after_gate_up(
    p, x, weight, residual, norm, gate, up, *, factor, eps, stride
):  # many parameters: the operands and parameters of the op
    given = {"residual": residual, "norm": norm, "factor": factor, "stride": stride}
    y, words, facts = p.linear_weighed(x=x, weight=weight, **given)
    stack = f"{gate}+{up}"
    return y, p.weighed_gate_up_a8(words=words, facts=facts, weight=stack, eps=eps, stride=stride)


def _before_qkv(
    p, x, weight, residual, norm, q, k, v, table, kv, state, *, factor, eps, passed, ring, sinks
):  # many parameters: the operands and parameters of the op
    """y = factor * x W^T + residual, and what `norm_qkv_a8` gives for it."""
    y, row = _row_and_norm(p, x, weight, residual, norm, factor, eps)
    placed = {"ring": ring, "sinks": sinks}
    return y, *turned_and_appended(p, row, q, k, v, table, kv, state, passed=passed, **placed)


def _after_qkv(
    p, x, weight, residual, norm, q, k, v, table, kv, state, *, factor, eps, passed, ring, sinks, stride
):  # many parameters: the operands and parameters of the op
    given = {"residual": residual, "norm": norm, "factor": factor, "stride": stride}
    y, words, facts = p.linear_weighed(x=x, weight=weight, **given)
    given = {"table": table, "kv": kv, "state": state, "passed": passed, "ring": ring, "sinks": sinks}
    row = {"words": words, "facts": facts, "eps": eps, "stride": stride}
    return y, *p.weighed_qkv_a8(**row, weight="+".join((q, k, v)), **given)


WEIGHED: tuple[Rule, ...] = (
    rule(_before_gate_up, _after_gate_up, name="weighed_gate_up", stack=("gate", "up"), where=_where),
    rule(_before_qkv, _after_qkv, name="weighed_qkv", stack=("q", "k", "v"), where=_where),
)
