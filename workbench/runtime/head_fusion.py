"""Rewriting the end of a plan, from the last norm to the next token.

- `drop_last_row`: of one token the last row is the only one, and the norm may go into the LM head.
- `fuse_argmax`: norm, LM head and argmax become `norm_argmax` and `argmax_reduce`, so that logits stay in registers.

As in `fusion`, activations named in `keep` are computed as the semantic plan says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from wgsl_kernels import Adapter
from wgsl_kernels.norm_argmax import group_for
from workbench.plan.plan import Buffer, Call, Plan

from .fusion import _Rewriter, weight_name


def drop_last_row(plan: Plan, keep: Iterable[str] = ()) -> Plan:
    """For steps of one token: `last_row` disappears, and its readers read its input."""
    work = _Rewriter(plan, keep)
    for call in [call for call in plan.calls if call.kernel == "last_row"]:
        row, rows = call.outputs["y"], call.inputs["x"]
        if row in work.protected:
            continue
        for reader in [work.calls[index] for index in work.readers.get(row, ())]:
            inputs = {port: rows if name == row else name for port, name in reader.inputs.items()}
            work.replace([reader], [replace(reader, inputs=inputs)])
        work.replace([call], [])
    return work.finished()


def fuse_argmax(
    plan: Plan,
    keep: Iterable[str] = (),
    *,
    adapter: Adapter,
    ranges: Callable[[str], Sequence[tuple[int, int]]],
) -> Plan:
    """`norm_linear` and the `argmax` that alone reads its result. ranges: of a matrix's rows, those of each binding."""
    work = _Rewriter(plan, keep)
    group = group_for(adapter)
    for call in [call for call in plan.calls if call.kernel == "argmax"]:
        logits = call.inputs["x"]
        product = work.calls[work.writer[logits]]
        if not product.kernel.startswith("norm_linear_") or not work.vanishes(logits, 1):
            continue
        if any(first % group for first, _ in ranges(weight_name(product))):
            continue  # a group would lie in two bindings
        tokens, rows = work.buffers[logits].shape
        parts = {"largest": f"{logits}.largest", "index": f"{logits}.index"}
        for name, dtype in zip(parts.values(), ("f32", "u32"), strict=True):
            work.buffers[name] = Buffer(name, (tokens, -(-rows // group)), dtype, "activation")
        kernel = product.kernel.replace("norm_linear", "norm_argmax")
        calls = [
            Call(kernel, product.inputs, parts, {**product.params, "group": group}),
            Call("argmax_reduce", parts, {"best": call.outputs["index"]}),
        ]
        work.replace([product, call], calls)
    return work.finished()
