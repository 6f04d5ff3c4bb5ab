"""What decoders of several families are built of: norms, linear layers, attention with its cache, gated MLPs.

A block takes what it needs as arguments and knows no family. Shapes come from the list of tensors: a bias, or a norm of
q and k, is there where its tensor is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from wgsl_kernels.layout import INT8_BLOCK
from workbench.errors import UnsupportedModelError, WorkbenchError
from workbench.formats.spec import WeightFormat
from workbench.models.specs import Describe, LowRank, TensorSpec, lora_names
from workbench.plan.builder import PlanBuilder
from workbench.plan.constants import RotaryTable
from workbench.plan.plan import Ring
from workbench.plan.types import Int8Cache

#: What the inputs of linear layers are stored as.
ACTIVATIONS = ("f32", "f16", "int8")

#: What the key/value cache is stored as.
CACHES = ("f32", "f16", "int8")


def cache_type(activations: str) -> str:
    """What the cache is stored as unless asked for: as the inputs of attention."""
    return "f16" if activations == "f16" else "f32"


def _together(names: list[str]) -> str:
    """One name for several that begin alike: `layers.0.attn.q` and `layers.0.attn.k` are `layers.0.attn.q+k`."""
    return "+".join([names[0], *(name.rpartition(".")[2] for name in names[1:])])


@dataclass(frozen=True)
class Heads:
    """Sizes of an attention block. eps, offset: of the norms of q and k, where it has them. interleaved: the rotary
    embedding turns neighbours."""

    query: int
    kv: int
    dim: int
    eps: float = 1e-6
    offset: float = 0.0
    interleaved: bool = False

    @property
    def scale(self) -> float:
        """Of the scores (Vaswani et al. 2017, section 3.2.1)."""
        return self.dim**-0.5


@dataclass(frozen=True)
class Routing:
    """How tokens go to experts. chosen: experts of a token; sigmoid, normalised: of the op `route`. on_inputs: whether
    scores multiply what experts read (Llama 4), or what they give."""

    chosen: int
    sigmoid: bool = False
    normalised: bool = False
    on_inputs: bool = False


class Blocks(PlanBuilder):
    """A plan under construction, with the checkpoint's tensors and the types of activations and cache.

    describe: of the tensors; plan_name: what plans call a matrix. activations: of `ACTIVATIONS`; cache: of `CACHES`.
    ring: what layers see that would see more. lora: adapters beside the weights. orders: matrix -> the tensor with the
    order of its columns, where it is not that of its input.
    """

    def __init__(
        self,
        tensors: Mapping[str, TensorSpec],
        describe: Describe,
        plan_name: Callable[[str], str],
        activations: str,
        cache: str | None,
        ring: Ring | None = None,
        lora: LowRank | None = None,
        orders: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.tensors, self.describe, self._plan_name = tensors, describe, plan_name
        self.integer_inputs = activations == "int8"
        self.act = "f32" if self.integer_inputs else activations
        self.cache = cache or cache_type(activations)
        self.ring, self.lora = ring, lora
        self._orders = orders or {}
        self._ordered: dict[tuple[str, str], str] = {}

    # ---- buffers -----------------------------------------------------------------------------------------------

    def inputs(self) -> None:
        """What every step is given: token ids, and the state that says where each stands (`wgsl_kernels.state`)."""
        self.buffer("ids", ("tokens",), "u32", "input")
        self.buffer("state", ("tokens", 4), "u32", "state")

    def rotary_table(self, name: str, table: RotaryTable) -> str:
        if self.ring is not None:
            table = table.within(self.ring.sinks + self.ring.window)
        return self.buffer(name, ("capacity", 2 * len(table.frequencies)), "f32", "constant", initial=table)

    def rows(self, name: str, width: int, dtype: str = "f32") -> str:
        return self.buffer(name, ("tokens", width), dtype, "activation")

    def _described(self, tensor: str) -> tuple[tuple[int, ...], WeightFormat]:
        """A tensor's shape and format, if it has the shape that the configuration asks for."""
        wanted = self.tensors[tensor].shape
        found, fmt = self.describe(tensor)
        if tuple(found) != wanted:
            raise UnsupportedModelError(
                f"{tensor} has shape {list(found)}, but config.json asks for {list(wanted)}"
            )
        return wanted, fmt

    def matrix(self, tensor: str) -> str:
        (rows, columns), fmt = self._described(tensor)
        return self.weight(self._plan_name(tensor), tensor, (rows, columns), fmt)

    def vector(self, tensor: str, offset: float = 0.0) -> str:
        """A norm's weight or a bias."""
        (length,), _ = self._described(tensor)
        return self.weight_vector(tensor, length, offset)

    # ---- layers ------------------------------------------------------------------------------------------------

    def embedding(self, tensor: str, out: str) -> str:
        weight = self.matrix(tensor)
        x = self.rows(out, self.tensors[tensor].shape[1])
        self.call("embedding", {"ids": "ids", "weight": weight}, {"y": x})
        return x

    def norm(
        self, tensor: str, x: str, out: str, eps: float, *, dtype: str | None = None, offset: float = 0.0
    ) -> str:
        """Root mean square norm of rows; by default as inputs of linear layers, so in the activations' type.

        offset: what is added to the weight.
        """
        y = self.rows(out, self.tensors[tensor].shape[0], dtype or self.act)
        self.call("rms_norm", {"x": x, "weight": self.vector(tensor, offset)}, {"y": y}, eps=eps)
        return y

    def scaled(self, x: str, factor: float, out: str) -> str:
        """factor * x, rows of the residual stream; x itself where the factor is 1."""
        if factor == 1:
            return x
        y = self.rows(out, self.width(x))
        self.call("scale", {"x": x}, {"y": y}, factor=factor)
        return y

    def linear(self, tensor: str, x: str, out: str) -> str:
        """y = x W^T, + b where the checkpoint has `tensor`.bias, and what adapters add (`out`.base is without)."""
        (y,) = self.linears({tensor: out}, x)
        return y

    def linears(self, outs: Mapping[str, str], x: str) -> list[str]:
        """As `linear`, of several matrices that read one input, whose adapters have one product with A: tensor -> what
        its result is called."""
        weights = [f"{tensor}.weight" for tensor in outs]
        matrices = [self.matrix(weight) for weight in weights]
        rank = 0 if self.lora is None else self.lora.rank(weights)
        add = self._adapters(weights, matrices, x, list(outs.values()), rank) if rank else None
        found = []
        for tensor, matrix, out in zip(outs, matrices, outs.values(), strict=True):
            y = self.rows(out if add is None else f"{out}.base", self.tensors[f"{tensor}.weight"].shape[0])
            bias = f"{tensor}.bias"
            read = self._in_order(f"{tensor}.weight", x)
            self.product(matrix, read, y, {"bias": self.vector(bias)} if bias in self.tensors else {})
            found.append(y if add is None else add(y, out))
        return found

    def _in_order(self, weight: str, x: str) -> str:
        """x with its columns in the order of the matrix's; matrices of one order read one such x."""
        if (order := self._orders.get(weight)) is None:
            return x
        if (x, order) not in self._ordered:
            y = self.like(x, f"{x}.{order.split('.')[-2]}")
            self.call("select_columns", {"x": x, "order": self.vector(order)}, {"y": y})
            self._ordered[x, order] = y
        return self._ordered[x, order]

    def _adapters(
        self, weights: list[str], matrices: list[str], x: str, outs: list[str], rank: int
    ) -> Callable[[str, str], str]:
        """A x of each row's adapter, for a group of matrices; the function that writes y = base + B (A x) for the next
        of them, called as add(base, out). outs: what the results are called."""
        a, b = lora_names(weights)
        (rows, columns), fmt = self.describe(a)
        (length,), _ = self.describe(b)
        down = self.weight(f"{_together(matrices)}.lora_A", a, (rows, columns), fmt)
        ranks, heights = rank * len(weights), [self.tensors[weight].shape[0] for weight in weights]
        inner = self.rows(f"{_together(outs)}.lora", ranks)
        given = {"x": self._read_by(down, x, matrices[0]), "weight": down, "state": "state"}
        self.call("lora_down", given, {"y": inner}, ranks=ranks)
        factors = {"lora_x": inner, "lora_b": self.weight_vector(b, length), "state": "state"}
        parts = iter(range(len(weights)))

        def add(base: str, out: str) -> str:
            place, part = {"lora_rank": rank, "lora_rows": sum(heights)}, next(parts)
            if part:
                place |= {"lora_first": sum(heights[:part]), "lora_part": part}
            y = self.rows(out, self.width(base))
            self.call("lora_up", {"x": base, **factors}, {"y": y}, **place)
            return y

        return add

    def _read_by(self, a: str, x: str, base: str) -> str:
        """x as A reads it: in INT8 where A is of integers; A of floats reads what the base's product reads, but behind
        a norm what that gives."""
        if not self.integer_inputs or self.format(a).is_quantized:
            return self.as_input(x, a)
        made_by = next((call.op for call in reversed(self._calls) if x in call.outputs.values()), None)
        return x if made_by == "rms_norm" else self.as_input(x, base)

    def product(self, weight: str, x: str, y: str, inputs: Mapping[str, str]) -> str:
        """y = x W^T, with x as integers where the model's activations and the weight are."""
        self.call("linear", {"x": self.as_input(x, weight), "weight": weight, **inputs}, {"y": y})
        return y

    def as_input(self, x: str, weight: str) -> str:
        """x as products with this weight read it: as integers where the model's activations and the weight are."""
        return self.as_int8(x, weight) if self.integer_inputs and self.format(weight).is_quantized else x

    def add(self, a: str, b: str, out: str, factor: float = 1.0) -> str:
        """a + factor * b, rows of the residual stream."""
        y = self.rows(out, self.width(a))
        self.call("add", {"a": a, "b": b}, {"y": y}, **({} if factor == 1 else {"factor": factor}))
        return y

    def attention(
        self,
        layer: str,
        tensor: str,
        x: str,
        heads: Heads,
        table: str | None,
        turned: Callable[[str, str, str], str] | None = None,
        **params: float,
    ) -> str:
        """Attention over the layer's cache, with q_proj, k_proj, v_proj and o_proj of `tensor`.

        table: of the rotary embedding, None where the layer has none. turned: what becomes of q and k behind it, called
        as turned(part, rows, type). params: of the op, beside `scale`; what a token sees is bounded by the ring of the
        model too, if that is smaller.
        """
        names = {f"{tensor}.{part}_proj": f"{layer}.attn.{part}" for part in "qkv"}
        out = dict(zip("qkv", self.linears(names, x), strict=True))
        # keys are rounded once: where the cache is INT8, they reach it in f32
        key_type = "f32" if self.cache == "int8" else self.cache
        for part, dtype in (("q", self.act), ("k", key_type)):
            between = "f32" if turned else dtype
            out[part] = self._turned(layer, tensor, part, out[part], heads, table, between)
            if turned is not None:
                out[part] = turned(part, out[part], dtype)
        context = self._context(layer, out, heads, table, params)
        return self.linear(f"{tensor}.o_proj", context, f"{layer}.attn.out")

    def _turned(
        self, layer: str, tensor: str, part: str, x: str, heads: Heads, table: str | None, dtype: str
    ) -> str:
        """q or k with its norm, by head or of the whole row, where the checkpoint has one, and its rotary embedding."""
        width = self.width(x)
        weight = f"{tensor}.{part}_norm.weight"
        if weight in self.tensors:
            op = "rms_norm" if self.tensors[weight].shape == (width,) else "head_norm"
            y = self.rows(f"{layer}.attn.{part}_normed", width, "f32" if table else dtype)
            inputs = {"x": x, "weight": self.vector(weight, heads.offset)}
            self.call(op, inputs, {"y": y}, eps=heads.eps)
            x = y
        if table is not None:
            y = self.rows(f"{layer}.attn.{part}_rotated", width, dtype)
            self._rope(x, table, y, heads)
            x = y
        return x

    def _rope(self, x: str, table: str, y: str, heads: Heads, **params: int) -> None:
        passed = heads.dim - self.width(table)
        given = ({"passed": passed} if passed else {}) | ({"interleaved": True} if heads.interleaved else {})
        self.call("rope", {"x": x, "table": table, "state": "state"}, {"y": y}, **given, **params)

    def _context(
        self, layer: str, rows: Mapping[str, str], heads: Heads, table: str | None, params: Mapping
    ) -> str:
        """Keys and values into the layer's cache, and what the queries find there."""
        kind = Int8Cache() if self.cache == "int8" else self.cache
        ring, bounds = self._seen(layer, params)
        shape = ("sequences", 2, heads.kv, "capacity" if ring is None else str(ring), heads.dim)
        kv = self.buffer(f"{layer}.kv", shape, kind, "cache")
        sinks = {"sinks": ring.sinks} if ring is not None and ring.sinks else {}
        placed = sinks if ring is None else {"ring": True, **sinks}
        self.call(
            "kv_append", {"k": rows["k"], "v": rows["v"], "kv": kv, "state": "state"}, {"kv": kv}, **placed
        )
        inputs = {"q": rows["q"], "kv": kv, "state": "state"}
        if ring is not None and sinks and table is not None:
            # what was rotated for the window is turned back for the sinks, as if they stood in front of it
            inputs["q_sinks"] = self.rows(f"{layer}.attn.q_sinks", heads.query * heads.dim, self.act)
            self._rope(rows["q"], table, inputs["q_sinks"], heads, back_to=ring.sinks + ring.window - 1)
        context = self.rows(f"{layer}.attn.context", heads.query * heads.dim, self.act)
        self.call("attention", inputs, {"y": context}, **{"scale": heads.scale, **bounds, **sinks})
        return context

    def _seen(self, layer: str, params: Mapping) -> tuple[Ring | None, Mapping]:
        """The ring that a layer's cache is, if it is one, and the parameters of its attention.

        A layer that sees no more than the model's ring stays as it was trained, without sinks.
        """
        window, chunk = (int(params.get(name, 0)) for name in ("window", "chunk"))
        own = min((n for n in (window, chunk) if n), default=0)
        if self.ring is None or 0 < own <= self.ring.window:
            return (Ring(own) if own else None), params
        if chunk:
            raise WorkbenchError(
                f"window = {self.ring.window} cuts the attention of {layer} in chunks of {chunk}; allowed: {chunk} or "
                "more"
            )
        return self.ring, {**params, "window": self.ring.window}

    def gated_mlp(self, layer: str, tensor: str, x: str, gate_op: str = "silu_mul") -> str:
        """down(act(gate(x)) * up(x)), with gate_proj, up_proj and down_proj of `tensor` (Shazeer 2020)."""
        gate, up = self.linears({f"{tensor}.{p}_proj": f"{layer}.mlp.{p}" for p in ("gate", "up")}, x)
        hidden = self.rows(f"{layer}.mlp.hidden", self.width(gate), self.act)
        self.call(gate_op, {"gate": gate, "up": up}, {"y": hidden})
        return self.linear(f"{tensor}.down_proj", hidden, f"{layer}.mlp.out")

    def mixture(
        self, layer: str, router: str, experts: str, x: str, routing: Routing, gate_op: str = "silu_mul"
    ) -> str:
        """The sum of what the experts of each token give, which are gated MLPs; the weights of scores apart, that is
        sum_e down_e(act(gate_e(x)) * up_e(x)).

        router: tensor with a row for each expert; experts: beginning of the names of gate_proj, up_proj and down_proj,
        each with the matrices of all experts one under the other.
        """
        logits = self.linear(router, x, f"{layer}.mlp.router_logits")
        chosen, scores = f"{layer}.mlp.chosen", f"{layer}.mlp.scores"
        self.buffer(chosen, ("tokens", routing.chosen), "u32", "activation")
        self.buffer(scores, ("tokens", routing.chosen), "f32", "activation")
        kind = {name: True for name in ("sigmoid", "normalised") if getattr(routing, name)}
        self.call("route", {"x": logits}, {"experts": chosen, "scores": scores}, k=routing.chosen, **kind)
        given = {"experts": chosen}
        scored = {**given, "scores": scores}
        first, last = (scored, given) if routing.on_inputs else (given, scored)
        name = f"{layer}.mlp.experts"
        gate, up = (
            self._of_experts(f"{experts}.{part}_proj.weight", x, f"{name}.{part}", first)
            for part in ("gate", "up")
        )
        hidden = self.rows(f"{name}.hidden", self.width(gate), self.act)
        self.call(gate_op, {"gate": gate, "up": up}, {"y": hidden})
        each = self._of_experts(f"{experts}.down_proj.weight", hidden, f"{name}.down", last)
        y = self.rows(f"{name}.out", self.width(each) // routing.chosen)
        self.call("expert_sum", {"x": each}, {"y": y}, chosen=routing.chosen)
        return y

    def _of_experts(self, tensor: str, x: str, out: str, inputs: Mapping[str, str]) -> str:
        """Products of rows x with the matrices of the experts that each goes to, side by side.

        Where experts have inputs of their own, and their columns are no whole blocks of INT8, those stay floats.
        """
        weight, spec = self.matrix(tensor), self.tensors[tensor]
        rows, columns = spec.shape[0] // spec.experts, spec.shape[1]
        y = self.rows(out, rows * self.width(inputs["experts"]))
        if self.width(x) == columns or columns % INT8_BLOCK == 0:
            x = self.as_input(x, weight)
        self.call("expert_linear", {"x": x, "weight": weight, **inputs}, {"y": y}, expert_rows=rows)
        return y
