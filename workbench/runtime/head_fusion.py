"""Rewriting the end of a plan, from the last norm to the next token.

- `drop_last_row`: of one token the last row is the only one, and the norm may go into the LM head.
- `fuse_argmax`: norm, LM head and argmax become `norm_argmax` and `argmax_reduce`, so that logits stay in registers.
- `fuse_top_k`: norm, LM head and top-k become `norm_linear_max` and `top_k_reduce`, which reads few of the logits.

As in `fusion`, activations named in `keep` are computed as the semantic plan says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from wgsl_kernels import Adapter
from wgsl_kernels.norm_argmax import group_for
from workbench.plan.plan import Buffer, Call, Plan

from .rewriter import Rewriter
from .stacks import weight_name

#: Of a matrix's rows, those of each binding, by its name.
Ranges = Callable[[str], Sequence[tuple[int, int]]]


def drop_last_row(plan: Plan, keep: Iterable[str] = ()) -> Plan:
    """For steps of one token: `last_row` disappears, and its readers read its input."""
    work = Rewriter(plan, keep)
    for call in [call for call in plan.calls if call.kernel == "last_row"]:
        row, rows = call.outputs["y"], call.inputs["x"]
        if row in work.protected:
            continue
        for reader in [work.calls[index] for index in work.readers.get(row, ())]:
            inputs = {port: rows if name == row else name for port, name in reader.inputs.items()}
            work.replace([reader], [replace(reader, inputs=inputs)])
        work.replace([call], [])
    return work.finished()


def fuse_argmax(plan: Plan, keep: Iterable[str] = (), *, adapter: Adapter, ranges: Ranges) -> Plan:
    """`norm_linear` and the `argmax` that alone reads its result."""
    work = Rewriter(plan, keep)
    for call in [call for call in plan.calls if call.kernel == "argmax"]:
        logits = call.inputs["x"]
        product = _grouped(work, logits, "norm_argmax", adapter, ranges)
        if product is not None and work.vanishes(logits, 1):
            reduce = Call("argmax_reduce", product.outputs, {"best": call.outputs["index"]})
            _put(work, [_writer(work, logits), call], [product, reduce])
    return work.finished()


def fuse_top_k(plan: Plan, keep: Iterable[str] = (), *, adapter: Adapter, ranges: Ranges) -> Plan:
    """`norm_linear` and a `top_k` that reads its result; the result stays."""
    work = Rewriter(plan, keep)
    for call in [call for call in plan.calls if call.kernel == "top_k"]:
        logits = call.inputs["x"]
        if logits in work.protected:
            continue  # whoever changes them would leave the largest of groups as they were
        product = _grouped(work, logits, "norm_linear_max", adapter, ranges)
        if product is not None:
            params = {**call.params, "group": product.params["group"]}
            reduce = Call("top_k_reduce", {"x": logits, **product.outputs}, call.outputs, params)
            product = replace(product, outputs={"y": logits, **product.outputs})
            _put(work, [_writer(work, logits), call], [product, reduce])
    return work.finished()


def _writer(work: Rewriter, name: str) -> Call:
    return work.calls[work.writer[name]]


def _grouped(work: Rewriter, logits: str, kernel: str, adapter: Adapter, ranges: Ranges) -> Call | None:
    """The `norm_linear` that writes `logits` as `kernel`, which gives the largest of groups of rows; None where
    something else writes them, or where a group would lie in two bindings."""
    product, group = _writer(work, logits), group_for(adapter)
    if not product.kernel.startswith("norm_linear_"):
        return None
    if any(first % group for first, _ in ranges(weight_name(product))):
        return None
    parts = {"largest": f"{logits}.largest", "index": f"{logits}.index"}
    fused = product.kernel.replace("norm_linear", kernel)
    return Call(fused, product.inputs, parts, {**product.params, "group": group})


def _put(work: Rewriter, old: list[Call], new: list[Call]) -> None:
    """Replace calls, and declare what the first of the new ones gives of each group."""
    product = new[0]
    rows = work.weights[weight_name(product)].shape[0]
    tokens = work.buffers[product.inputs["x"]].shape[0]
    for port, dtype in (("largest", "f32"), ("index", "u32")):
        name = product.outputs[port]
        shape = (tokens, -(-rows // product.params["group"]))
        work.buffers[name] = Buffer(name, shape, dtype, "activation")
    work.replace(old, new)
