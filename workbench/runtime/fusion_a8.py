"""Rules for one token with INT8 activations: who makes a row also quantizes it, or who reads it does.

A layer is then six dispatches, where attention is split and the cache holds floats: norm + quantization + q/k/v +
rotary embedding + append, attention, its reduction + quantization, output projection + residual, norm + quantization +
gate/up + SiLU + quantization, down + residual.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from wgsl_kernels.layout import INT8_BLOCK
from wgsl_kernels.norm_linear_a8 import row_fits
from workbench.plan.plan import Call, Plan

from .patterns import gate_up_product, turned_and_appended
from .rewriter import Rewriter
from .stacks import PLANES, Stack, declare, product_format, products_of, weight_name


def quantizer_behind(work: Rewriter, name: str) -> Call | None:
    """The call that quantizes an activation in blocks of 32, if nothing else reads it."""
    call = work.only_reader(name)
    if call is None or call.kernel != "quantize_activations" or call.params["block"] != INT8_BLOCK:
        return None
    return None if call.params.get("static_scale", 0) > 0 else call


def fuse_integers(plan: Plan, stacks: Mapping[str, Stack], keep: Iterable[str]) -> Plan:
    """All rules of this module."""
    return _fuse_reductions(_fuse_norms(plan, stacks, keep), keep)


def _fuse_norms(plan: Plan, stacks: Mapping[str, Stack], keep: Iterable[str]) -> Plan:
    """`norm_linear_a8`, `norm_qkv_a8` and `norm_gate_up_a8`."""
    work = Rewriter(plan, keep)
    for norm in [call for call in plan.calls if call.kernel == "rms_norm"]:
        quantizer = quantizer_behind(work, norm.outputs["y"])
        columns = plan.buffers[norm.outputs["y"]].shape[1]
        if quantizer is None or columns % 4 or not row_fits(columns):
            continue
        products, _ = products_of(work.finished(), norm)
        formats = {product_format(call, "linear_a8") for call in products}
        made = quantizer.outputs.values()
        if len(formats) != 1 or None in formats or not all(work.vanishes(n, len(products)) for n in made):
            continue
        (fmt,) = formats
        stack = stacks.get("+".join(weight_name(call) for call in products))
        params = {k: v for k, v in products[0].params.items() if k != "columns"} | norm.params
        begin = {"x": norm.inputs["x"], "norm": norm.inputs["weight"]}
        replaced = [norm, quantizer, *products]
        if len(products) == 1:
            planes = {port: name for port, name in products[0].inputs.items() if port in PLANES}
            fused = Call(f"norm_linear_a8_{fmt}", {**begin, **planes}, products[0].outputs, params)
            work.replace(replaced, [fused])
        elif stack is None:
            continue
        elif found := turned_and_appended(work, products):
            calls = found.fused(work, f"a8_{fmt}", {**begin, **declare(work, stack)}, params)
            work.replace([*replaced, *found.calls], calls)
        elif product := gate_up_product(work, products):
            behind = quantizer_behind(work, product.outputs["y"])
            if behind is None:
                continue
            outputs = {"y": behind.outputs["quants"], "y_scales": behind.outputs["scales"]}
            params |= {"y_stride": behind.params["stride"]}
            fused = Call(f"norm_gate_up_a8_{fmt}", {**begin, **declare(work, stack)}, outputs, params)
            work.replace([*replaced, product, behind], [fused])
    return work.finished()


def _fuse_reductions(plan: Plan, keep: Iterable[str]) -> Plan:
    """`attention_reduce_a8`."""
    work = Rewriter(plan, keep)
    for call in [call for call in plan.calls if call.kernel == "attention_reduce"]:
        head_dim = plan.buffers[call.inputs["sums"]].shape[3]
        behind = quantizer_behind(work, call.outputs["y"])
        if behind is None or head_dim % INT8_BLOCK:
            continue
        outputs = {"y": behind.outputs["quants"], "y_scales": behind.outputs["scales"]}
        fused = Call("attention_reduce_a8", call.inputs, outputs, {"stride": behind.params["stride"]})
        work.replace([call, behind], [fused])
    return work.finished()
