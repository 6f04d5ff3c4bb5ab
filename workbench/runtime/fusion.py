"""Rewriting a semantic plan into fewer, larger calls.

- `fuse_sums`: a linear layer and the `add` behind it become one call with a residual.
- `fuse_norms`: for few tokens, a norm goes into the products that read it: `norm_qkv` (with rotary embedding and the
  append to the cache, or `norm_qkv_rows` in front of the append to an INT8 cache), `norm_gate_up` (with SiLU and the
  product) and `norm_linear`.
- `split_attention`: for few tokens on a GPU, attention over parts of the cache and their sum.

Every rule leaves activations named in `keep` alone: they are computed as the semantic plan says. Each fused kernel's
reference is the composition of the references it replaces; where the plan stores normalised rows as f16, a fused
product takes them unrounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import wgsl_kernels
from wgsl_kernels import Adapter
from wgsl_kernels.attention_split import splits_for
from wgsl_kernels.linear import FEW_TOKENS
from workbench.plan.count import buffer_bytes
from workbench.plan.plan import Buffer, Call, Plan, Weight

#: Offsets of bindings are multiples of this (WebGPU's minStorageBufferOffsetAlignment, its largest default).
ALIGNMENT = 256
#: Attention -> the same over parts of the cache.
SPLIT = {"attention": "attention_split", "attention_kv8": "attention_split_kv8"}
#: Planes of a weight, by port.
PLANES = ("quants", "scales", "zeros", "values")


@dataclass(frozen=True)
class Stack(Weight):
    """Matrices that share columns and format, row under row in one set of planes; `tensor` joins their names."""

    members: tuple[Weight, ...] = ()


class _Rewriter:
    """A plan being rewritten: who writes and who reads each activation, and the calls that are gone."""

    def __init__(self, plan: Plan, keep: Iterable[str]):
        self.plan = plan
        self.protected = {*keep, *plan.results}
        self.calls: list[Call | None] = list(plan.calls)
        self.buffers = dict(plan.buffers)
        self.weights = dict(plan.weights)
        self.readers: dict[str, list[int]] = {}
        self.writer: dict[str, int] = {}
        for index, call in enumerate(plan.calls):
            for name in call.inputs.values():
                self.readers.setdefault(name, []).append(index)
            for name in call.outputs.values():
                self.writer.setdefault(name, index)

    def vanishes(self, name: str, readers: int) -> bool:
        """Whether so many calls read an activation, and nothing else needs it."""
        return (
            self.buffers[name].kind == "activation"
            and name not in self.protected
            and len(self.readers.get(name, ())) == readers
        )

    def only_reader(self, name: str) -> Call | None:
        return self.calls[self.readers[name][0]] if self.vanishes(name, 1) else None

    def replace(self, old: Iterable[Call], new: list[Call]) -> None:
        """Put `new` where the last of `old` stood; what only they wrote and read disappears."""
        indices = [self.calls.index(call) for call in old]
        wanted = {name for call in new for name in (*call.inputs.values(), *call.outputs.values())}
        for index in indices:
            for name in self.calls[index].outputs.values():
                if name not in wanted:
                    self.buffers.pop(name, None)
            self.calls[index] = None
        self.calls[max(indices) : max(indices) + 1] = new
        self.__init__(self.finished(), self.protected)

    def finished(self) -> Plan:
        calls = tuple(call for call in self.calls if call is not None)
        return replace(self.plan, buffers=self.buffers, calls=calls, weights=self.weights)


def fuse_sums(plan: Plan, keep: Iterable[str] = ()) -> Plan:
    """`add` of a linear layer's output becomes its `residual`.

    The sum keeps its name; the linear layer's own output, which nothing else may read, disappears.
    """
    work = _Rewriter(plan, keep)
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


def weight_name(call: Call) -> str | None:
    """Name of the matrix that a call reads, if any."""
    for port in ("quants", "values"):
        if port in call.inputs:
            return call.inputs[port].rsplit(".", 1)[0]
    return None


def _format_of(call: Call) -> str | None:
    """Weight format of a plain linear layer with float activations, None for anything else."""
    name = call.kernel.removeprefix("linear_")
    plain = name != call.kernel and name in wgsl_kernels.weights.WEIGHT_FORMATS
    return name if plain and not {"bias", "residual"} & set(call.inputs) else None


def find_stacks(plan: Plan, binding_bytes: int) -> dict[str, Stack]:
    """Matrices that fused calls want row under row: those that read the same normalised activations.

    It depends on the semantic plan alone, so that plans of all phases agree about it. A group is left out where its
    planes could not be bound one by one too (256-byte offsets), or together (the size of a binding).
    """
    stacks = {}
    for norm in plan.calls:
        if norm.kernel != "rms_norm":
            continue
        readers = [c for c in plan.calls if c.inputs.get("x") == norm.outputs["y"]]
        weights = [plan.weights[w] for c in readers if (w := weight_name(c)) is not None]
        same = len({(c.kernel, tuple(sorted(c.params.items()))) for c in readers}) == 1
        same = same and len({w.format for w in weights}) == 1 and all(_format_of(c) for c in readers)
        if len(weights) < 2 or len(weights) != len(readers) or not same:
            continue
        if weights[0].format.granularity == "tensor" and weights[0].format.is_quantized:
            continue  # one scale each
        planes = [port for port in PLANES if port in readers[0].inputs]
        sizes = [[buffer_bytes(plan.buffers[f"{w.name}.{p}"], {}) for w in weights] for p in planes]
        aligned = all(size % ALIGNMENT == 0 for plane in sizes for size in plane)
        if aligned and max(sum(plane) for plane in sizes) <= binding_bytes:
            name = "+".join(w.name for w in weights)
            shape = (sum(w.shape[0] for w in weights), weights[0].shape[1])
            joined = "+".join(w.tensor for w in weights)
            stacks[name] = Stack(name, joined, shape, weights[0].format, tuple(weights))
    return stacks


def _declare(work: _Rewriter, stack: Stack) -> dict[str, str]:
    """Put a stack and its planes in the place of its members; port -> buffer."""
    work.weights[stack.name] = stack
    for member in stack.members:
        work.weights.pop(member.name)
    bound = {}
    for port in PLANES:
        first, *_ = (work.buffers.pop(f"{member.name}.{port}", None) for member in stack.members)
        if first is not None:
            bound[port] = f"{stack.name}.{port}"
            shape = (stack.shape[0], *first.shape[1:])
            work.buffers[bound[port]] = Buffer(bound[port], shape, first.dtype, "weight")
    return bound


def fuse_norms(plan: Plan, stacks: Mapping[str, Stack], keep: Iterable[str] = ()) -> Plan:
    """Norms into the products behind them, where all products of a norm can take it."""
    work = _Rewriter(plan, keep)
    for norm in [call for call in plan.calls if call.kernel == "rms_norm"]:
        normed = norm.outputs["y"]
        readers = [work.calls[i] for i in work.readers.get(normed, ())]
        columns = plan.buffers[normed].shape[1]
        if not readers or not work.vanishes(normed, len(readers)) or columns % 4:
            continue
        formats = {_format_of(call) for call in readers}
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
        if stack is not None:
            _fuse_group(work, norm, readers, stack, fmt, begin, params)
    return work.finished()


def _all_but_x(call: Call) -> dict[str, str]:
    return {port: name for port, name in call.inputs.items() if port != "x"}


def _fuse_group(
    work: _Rewriter, norm: Call, readers: list[Call], stack: Stack, fmt: str, begin, params
) -> None:
    """`norm_gate_up` or `norm_qkv`, if the calls behind the products are theirs."""
    after = [work.only_reader(call.outputs["y"]) for call in readers]
    if None in after:
        return
    kernels = [call.kernel for call in after]
    outputs = [call.outputs["y"] for call in readers]
    if kernels == ["silu_mul", "silu_mul"] and after[0] is after[1]:
        product = after[0]
        if [product.inputs["gate"], product.inputs["up"]] == outputs:
            inputs = {**begin, **_declare(work, stack)}
            fused = Call(f"norm_gate_up_{fmt}", inputs, product.outputs, params)
            work.replace([norm, *readers, product], [fused])
    elif kernels[:2] == ["rope", "rope"] and kernels[2] in ("kv_append", "kv8_append"):
        turn_q, turn_k, append = after
        turned_k = turn_k.outputs["y"]
        expected = {**append.inputs, "k": turned_k, "v": outputs[2]}
        alike = _all_but_x(turn_q) == _all_but_x(turn_k) and append.inputs["state"] == turn_q.inputs["state"]
        if alike and append.inputs == expected and work.only_reader(turned_k) is append:
            inputs = {**begin, **_declare(work, stack), **_all_but_x(turn_q)}
            make = _into_cache if append.kernel == "kv_append" else _into_rows
            calls = make(work, fmt, inputs, turn_q.outputs["y"], append, params)
            work.replace([norm, *readers, turn_q, turn_k, append], calls)


def _into_cache(work: _Rewriter, fmt: str, inputs: dict, q: str, append: Call, params) -> list[Call]:
    kv = append.inputs["kv"]
    return [Call(f"norm_qkv_{fmt}", {**inputs, "kv": kv}, {"q": q, "kv": kv}, params)]


def _into_rows(work: _Rewriter, fmt: str, inputs: dict, q: str, append: Call, params) -> list[Call]:
    """An INT8 cache takes keys and values from rows of their own (wgsl_kernels/norm_qkv_rows.py says why)."""
    keys = work.buffers[append.inputs["k"]]
    tokens, width = keys.shape
    rows = Buffer(f"{keys.name}.rows", (tokens, 2 * width), "f32", "activation")
    work.buffers[rows.name] = rows
    kv_heads = work.buffers[append.inputs["kv"]].shape[2]
    rest = {port: name for port, name in append.inputs.items() if port not in ("k", "v")}
    return [
        Call(f"norm_qkv_rows_{fmt}", inputs, {"q": q, "rows": rows.name}, {**params, "kv_heads": kv_heads}),
        Call("kv8_append_rows", {"rows": rows.name, **rest}, append.outputs, append.params),
    ]


# ---- attention ---------------------------------------------------------------------------------------------------


def split_attention(plan: Plan, capacity: int, adapter: Adapter) -> Plan:
    """Attention in parts, where an adapter has idle units for them."""
    splits = splits_for(capacity)
    if adapter.is_cpu or splits < 2:
        return plan
    work = _Rewriter(plan, ())
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
    return plan
