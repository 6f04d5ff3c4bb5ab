"""Rewriting a semantic plan into fewer, larger calls.

- `fuse_sums`: a linear layer and the `add` behind it become one call with a residual.
- `fuse_norms`: for few tokens, a norm goes into the products that read it: `norm_qkv` (with rotary embedding and the
  append to the cache, or `norm_qkv_rows` in front of the append to an INT8 cache), `norm_gate_up` (with SiLU and the
  product) and `norm_linear`.
- `split_attention`: for few tokens on a GPU, attention over parts of the cache and their sum.
- `fuse_integers` (fusion_a8.py): for one token on a GPU, norms into products with INT8 activations, and the
  quantization of activations into what makes them.

Every rule leaves activations named in `keep` alone: they are computed as the semantic plan says. Each fused kernel's
reference is the composition of the references it replaces; where the plan stores normalised rows as f16, a fused
product takes them unrounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import wgsl_kernels
from wgsl_kernels import Adapter
from wgsl_kernels.attention_split import splits_for
from wgsl_kernels.linear import FEW_TOKENS
from workbench.plan.plan import Buffer, Call, Plan

from .fusion_a8 import fuse_integers
from .patterns import gate_up_product, turned_and_appended
from .rewriter import Rewriter
from .stacks import PLANES, Stack, declare, product_format, weight_name

#: Attention -> the same over parts of the cache.
SPLIT = {"attention": "attention_split", "attention_kv8": "attention_split_kv8"}


def fuse_sums(plan: Plan, keep: Iterable[str] = ()) -> Plan:
    """`add` of a linear layer's output becomes its `residual`.

    The sum keeps its name; the linear layer's own output, which nothing else may read, disappears.
    """
    work = Rewriter(plan, keep)
    for call in plan.calls:
        if call.kernel != "add":
            continue
        for port, other in (("b", "a"), ("a", "b")):
            name, residual = call.inputs[port], call.inputs[other]
            source = work.calls[work.writer[name]] if name in work.writer else None
            if (
                source is not None
                and source.kernel.startswith("linear_")
                and "residual" not in source.inputs
                and work.vanishes(name, 1)
                and plan.buffers[residual].dtype == "f32"
            ):
                # the fused call stands where the add stood: its residual is certainly written by then
                fused = replace(
                    source, inputs={**source.inputs, "residual": residual}, outputs={"y": call.outputs["y"]}
                )
                work.replace([source, call], [fused])
                break
    return work.finished()


# ---- norms -------------------------------------------------------------------------------------------------------


def fuse_norms(plan: Plan, stacks: Mapping[str, Stack], keep: Iterable[str] = ()) -> Plan:
    """Norms into the products behind them, where all products of a norm can take it."""
    work = Rewriter(plan, keep)
    for norm in [call for call in plan.calls if call.kernel == "rms_norm"]:
        normed = norm.outputs["y"]
        readers = [work.calls[i] for i in work.readers.get(normed, ())]
        columns = plan.buffers[normed].shape[1]
        if not readers or not work.vanishes(normed, len(readers)) or columns % 4:
            continue
        formats = {product_format(call) for call in readers}
        if len(formats) != 1 or None in formats:
            continue
        (fmt,) = formats
        params = {**readers[0].params, **norm.params}
        begin = {"x": norm.inputs["x"], "norm": norm.inputs["weight"]}
        if len(readers) == 1:
            planes = {port: name for port, name in readers[0].inputs.items() if port in PLANES}
            fused = Call(f"norm_linear_{fmt}", {**begin, **planes}, readers[0].outputs, params)
            work.replace([norm, *readers], [fused])
            continue
        stack = stacks.get("+".join(weight_name(call) for call in readers))
        if stack is None:
            continue
        if product := gate_up_product(work, readers):
            inputs = {**begin, **declare(work, stack)}
            fused = Call(f"norm_gate_up_{fmt}", inputs, product.outputs, params)
            work.replace([norm, *readers, product], [fused])
        elif found := turned_and_appended(work, readers):
            calls = found.fused(work, fmt, {**begin, **declare(work, stack)}, params)
            work.replace([norm, *readers, *found.calls], calls)
    return work.finished()


# ---- attention ---------------------------------------------------------------------------------------------------


def split_attention(plan: Plan, capacity: int, adapter: Adapter) -> Plan:
    """Attention in parts, where an adapter has idle units for them."""
    splits = splits_for(capacity)
    if adapter.is_cpu or splits < 2:
        return plan
    work = Rewriter(plan, ())
    for call in [call for call in plan.calls if call.kernel in SPLIT]:
        split = wgsl_kernels.get(SPLIT[call.kernel])
        tokens, width = plan.buffers[call.inputs["q"]].shape
        cache = zip(split.reads["kv"].shape, plan.buffers[call.inputs["kv"]].shape, strict=True)
        sizes = {**dict(cache), **call.params}
        head_dim = sizes["head_dim"]
        if split.variants["teams"].refuse(split.specialise("teams", sizes, {}, adapter)):
            return plan
        name, heads = call.outputs["y"], width // head_dim
        sums = Buffer(f"{name}.sums", (tokens, heads, splits, head_dim), "f32", "activation")
        stats = Buffer(f"{name}.stats", (tokens, heads, splits, 2), "f32", "activation")
        work.buffers |= {sums.name: sums, stats.name: stats}
        parts = {"sums": sums.name, "stats": stats.name}
        calls = [
            Call(split.name, call.inputs, parts, {**call.params, "splits": splits}),
            Call("attention_reduce", parts, call.outputs),
        ]
        work.replace([call], calls)
    return work.finished()


def fuse(
    plan: Plan,
    keep: Iterable[str] = (),
    *,
    tokens: int,
    capacity: int,
    adapter: Adapter,
    stacks: Mapping[str, Stack],
) -> Plan:
    """All rules that suit a step of so many tokens on an adapter."""
    plan = fuse_sums(plan, keep)
    if tokens == 1 or (adapter.is_cpu and tokens <= FEW_TOKENS):
        plan = fuse_norms(plan, stacks, keep)  # on a GPU a batch of tokens is better served by `batch`
    if tokens <= FEW_TOKENS:
        plan = split_attention(plan, capacity, adapter)
    if tokens == 1 and not adapter.is_cpu:  # a CPU would quantize a row once for every few rows of weights
        plan = fuse_integers(plan, stacks, keep)
    return plan
