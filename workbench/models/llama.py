"""Llama models (Llama 2, 3, 3.1, 3.2 and their like) as a plan: configuration in, kernel calls out.

One decoder layer reads as in the papers: norm, q/k/v, rotary embedding, append to the cache, attention, output
projection, add; norm, gate and up, SiLU(gate) * up, down, add. Every intermediate has a readable name, such as
`layers.3.mlp.out`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from wgsl_kernels.layout import OPTION_WORDS, parts_of_row, seen_words
from workbench.errors import UnsupportedModelError
from workbench.formats.spec import WeightFormat
from workbench.models.llama_config import LlamaConfig
from workbench.plan.builder import PlanBuilder
from workbench.plan.plan import Plan
from workbench.plan.types import Int8Cache

#: What a plan ends with. "all": logits of every token. "last": of the last real token. "score": log-likelihood of
#: given targets and the argmax, every token. "greedy": one token in, its successor into the next step's input. "draw":
#: likewise, the successor drawn as options say. "told": likewise, with ln p of it and of the `LIKELY` likeliest tokens.
HEADS = ("all", "last", "score", "greedy", "draw", "told")

#: So many of the likeliest tokens are told beside one that was drawn.
LIKELY = 5

#: What the inputs of linear layers are stored as.
ACTIVATIONS = ("f32", "f16", "int8")

#: What the key/value cache is stored as.
CACHES = ("f32", "f16", "int8")

_LAYER_MATRIX = re.compile(r"model\.(layers\.\d+)\.(self_attn|mlp)\.(\w+)\.weight")


def plan_name(tensor: str) -> str:
    """What plans call a matrix of the checkpoint: `model.layers.3.self_attn.q_proj.weight` is `layers.3.attn.q_proj`.

    The embedding is `embedding`, the LM head `lm_head` unless it is tied; any other name stays as it is.
    """
    if match := _LAYER_MATRIX.fullmatch(tensor):
        layer, part, name = match.groups()
        return f"{layer}.{part.removeprefix('self_')}.{name}"
    return {"model.embed_tokens.weight": "embedding", "lm_head.weight": "lm_head"}.get(tensor, tensor)


#: Describes a tensor of the checkpoint: name -> (shape, format). Raises KeyError for a missing one.
Describe = Callable[[str], tuple[tuple[int, ...], WeightFormat]]


class _LlamaBuilder:
    """Carries what every part of the plan needs: configuration, the checkpoint's description, activations' type."""

    def __init__(self, config: LlamaConfig, describe: Describe, act: str, cache: str | None):
        self.config, self.describe = config, describe
        self.integer_inputs = act == "int8"
        self.act = "f32" if self.integer_inputs else act
        self.cache = cache or cache_type(act)
        self.plan = PlanBuilder()

    def rows(self, name: str, width: int, dtype: str = "f32") -> str:
        return self.plan.buffer(name, ("tokens", width), dtype, "activation")

    def described(self, tensor: str, shape: tuple[int, ...]) -> WeightFormat:
        """The tensor's format, if it has the shape that the configuration asks for."""
        found, fmt = self.describe(tensor)
        if tuple(found) != shape:
            raise UnsupportedModelError(
                f"{tensor} has shape {list(found)}, but config.json asks for {list(shape)}"
            )
        return fmt

    def matrix(self, tensor: str, shape: tuple[int, int]) -> str:
        return self.plan.weight(plan_name(tensor), tensor, shape, self.described(tensor, shape))

    def vector(self, tensor: str, length: int) -> str:
        self.described(tensor, (length,))
        return self.plan.vector(tensor, length)

    def norm(self, tensor: str, x: str, out: str) -> str:
        """Normalised rows as input of linear layers, so in the activations' type."""
        weight = self.vector(tensor, self.config.hidden_size)
        y = self.rows(out, self.config.hidden_size, self.act)
        self.plan.call("rms_norm", {"x": x, "weight": weight}, {"y": y}, eps=self.config.norm_eps)
        return y

    def linear(self, tensor: str, shape: tuple[int, int], x: str, out: str, *, bias=False) -> str:
        weight = self.matrix(f"{tensor}.weight", shape)
        bias_input = {"bias": self.vector(f"{tensor}.bias", shape[0])} if bias else {}
        return self.apply_linear(weight, x, self.rows(out, shape[0]), bias_input)

    def apply_linear(self, weight: str, x: str, y: str, inputs: Mapping[str, str]) -> str:
        """y = x W^T, with x as integers where the model's activations and the weight are."""
        if self.integer_inputs and self.plan.format(weight).is_quantized:
            x = self.plan.as_int8(x, weight)
        self.plan.call("linear", {"x": x, "weight": weight, **inputs}, {"y": y})
        return y

    def add(self, a: str, b: str, out: str) -> str:
        y = self.rows(out, self.config.hidden_size)
        self.plan.call("add", {"a": a, "b": b}, {"y": y})
        return y

    def attention(self, layer: str, tensor: str, x: str) -> str:
        c, plan = self.config, self.plan
        width, kv_width = c.heads * c.head_dim, c.kv_heads * c.head_dim
        shapes = {"q": (width, c.hidden_size), "k": (kv_width, c.hidden_size), "v": (kv_width, c.hidden_size)}
        out = {
            part: self.linear(
                f"{tensor}.{part}_proj",
                shape,
                x,
                f"{layer}.attn.{part}",
                bias=c.attention_bias,
            )
            for part, shape in shapes.items()
        }
        # keys are rounded once: where the cache is INT8, they reach it in f32
        key_type = "f32" if self.cache == "int8" else self.cache
        for part, part_width, dtype in (("q", width, self.act), ("k", kv_width, key_type)):
            rotated = self.rows(f"{layer}.attn.{part}_rotated", part_width, dtype)
            inputs = {"x": out[part], "table": "rope_table", "state": "state"}
            plan.call("rope", inputs, {"y": rotated})
            out[part] = rotated
        context = self.cached_attention(layer, **out)
        return self.linear(
            f"{tensor}.o_proj",
            (c.hidden_size, width),
            context,
            f"{layer}.attn.out",
            bias=c.attention_bias,
        )

    def cached_attention(self, layer: str, q: str, k: str, v: str) -> str:
        """Keys and values into the layer's cache, and what the queries find there."""
        c, plan = self.config, self.plan
        kind = Int8Cache() if self.cache == "int8" else self.cache
        shape = ("sequences", 2, c.kv_heads, "capacity", c.head_dim)
        kv = plan.buffer(f"{layer}.kv", shape, kind, "cache")
        plan.call("kv_append", {"k": k, "v": v, "kv": kv, "state": "state"}, {"kv": kv})
        context = self.rows(f"{layer}.attn.context", c.heads * c.head_dim, self.act)
        inputs = {"q": q, "kv": kv, "state": "state"}
        plan.call("attention", inputs, {"y": context}, scale=c.head_dim**-0.5)
        return context

    def mlp(self, layer: str, tensor: str, x: str) -> str:
        c = self.config
        up_shape, down_shape = (c.intermediate_size, c.hidden_size), (c.hidden_size, c.intermediate_size)
        gate, up = (
            self.linear(
                f"{tensor}.{p}_proj",
                up_shape,
                x,
                f"{layer}.mlp.{p}",
                bias=c.mlp_bias,
            )
            for p in ("gate", "up")
        )
        hidden = self.rows(f"{layer}.mlp.hidden", c.intermediate_size, self.act)
        self.plan.call("silu_mul", {"gate": gate, "up": up}, {"y": hidden})
        return self.linear(
            f"{tensor}.down_proj",
            down_shape,
            hidden,
            f"{layer}.mlp.out",
            bias=c.mlp_bias,
        )

    def decoder_layer(self, index: int, x: str) -> str:
        layer, tensor = f"layers.{index}", f"model.layers.{index}"
        normed = self.norm(f"{tensor}.input_layernorm.weight", x, f"{layer}.attn.input")
        x = self.add(x, self.attention(layer, f"{tensor}.self_attn", normed), f"{layer}.attn.residual")
        normed = self.norm(f"{tensor}.post_attention_layernorm.weight", x, f"{layer}.mlp.input")
        return self.add(x, self.mlp(layer, f"{tensor}.mlp", normed), f"{layer}.out")

    def logits(self, x: str, one_row: bool) -> str:
        c = self.config
        tensor = "model.embed_tokens.weight" if c.tied_embeddings else "lm_head.weight"
        weight = self.matrix(tensor, (c.vocab_size, c.hidden_size))
        rows = 1 if one_row else "tokens"
        logits = self.plan.buffer("logits", (rows, c.vocab_size), "f32", "activation")
        return self.apply_linear(weight, x, logits, {})

    def advance(self, token: str) -> list[str]:
        self.plan.buffer("history", ("steps",), "u32", "input")
        moved = {"ids": "ids", "history": "history", "state": "state"}
        self.plan.call("advance", {"token": token, **moved}, moved)
        return ["history"]

    def drawn(self, logits: str, *, told: bool) -> Plan:
        """A token drawn from logits [1, vocab], and how likely it and others were."""
        plan, width = self.plan, self.config.vocab_size
        count, parts = min(LIKELY, width), parts_of_row(width)
        if told:
            values = plan.buffer("likely_logits", (1, count), "f32", "activation")
            likely = plan.buffer("likely", (1, count), "u32", "activation")
            plan.call("top_k", {"x": logits}, {"values": values, "indices": likely}, k=count)
        plan.buffer("options", (OPTION_WORDS,), "u32", "input")
        plan.buffer("seen", (seen_words(width),), "u32", "input")
        token = plan.buffer("token", (1,), "u32", "activation")
        inputs = {"x": logits, "seen": "seen", "options": "options", "state": "state"}
        plan.call("sample", inputs, {"token": token, "seen": "seen"})
        if not told:
            return plan.finish(self.advance(token))
        sums = {
            port: plan.buffer(f"sums.{port}", (parts,), "f32", "activation") for port in ("largest", "total")
        }
        plan.call("exp_sums", {"x": logits}, sums, parts=parts)
        plan.buffer("told", ("steps", count + 1), "f32", "input")
        plan.buffer("told_ids", ("steps", count), "u32", "input")
        record = {"told": "told", "told_ids": "told_ids"}
        inputs = {"x": logits, "token": token, "likely": likely, **sums, "state": "state", **record}
        plan.call("tell", inputs, record)
        return plan.finish([*self.advance(token), *record])

    def build(self, head: str) -> Plan:
        c, plan = self.config, self.plan
        plan.buffer("ids", ("tokens",), "u32", "input")
        plan.buffer("state", (4,), "u32", "state")
        plan.buffer("rope_table", ("capacity", c.head_dim), "f32", "constant")
        embedding = self.matrix("model.embed_tokens.weight", (c.vocab_size, c.hidden_size))
        x = self.rows("embedded", c.hidden_size)
        plan.call("embedding", {"ids": "ids", "weight": embedding}, {"y": x})
        for index in range(c.layers):
            x = self.decoder_layer(index, x)
        x = self.norm("model.norm.weight", x, "final")
        one_row = head in ("last", "draw", "told")
        if one_row:
            row = plan.buffer("last", (1, c.hidden_size), self.act, "activation")
            plan.call("last_row", {"x": x, "state": "state"}, {"y": row})
            x = row
        logits = self.logits(x, one_row=one_row)
        if head in ("all", "last"):
            return plan.finish(["logits"])
        if one_row:
            return self.drawn(logits, told=head == "told")
        top = plan.buffer("top1", ("tokens",), "u32", "activation")
        plan.call("argmax", {"x": logits}, {"index": top})
        if head == "score":
            plan.buffer("targets", ("tokens",), "u32", "input")
            likelihood = plan.buffer("log_likelihood", ("tokens",), "f32", "activation")
            plan.call("target_log_likelihood", {"x": logits, "targets": "targets"}, {"y": likelihood})
            return plan.finish(["log_likelihood", "top1"])
        return plan.finish(self.advance(top))


def cache_type(activations: str) -> str:
    """What the cache is stored as unless asked for: as the inputs of attention."""
    return "f16" if activations == "f16" else "f32"


def build_plan(
    config: LlamaConfig,
    describe: Describe,
    *,
    head: str = "all",
    activations: str = "f32",
    cache: str | None = None,
) -> Plan:
    """The plan of a Llama model.

    describe: shape and format of a checkpoint tensor by its Hugging Face name (`source.describe`). head: one of
    `HEADS`. activations: "f32"; "f16" for the inputs of linear layers and attention; "int8" for the inputs of linear
    layers with integer weights, in blocks of 32. The residual stream and all outputs of linear layers stay f32.
    cache: one of `CACHES`, by default f16 with f16 activations and f32 with others.
    """
    if head not in HEADS:
        raise ValueError(f"head is one of {', '.join(HEADS)}, not {head!r}")
    if activations not in ACTIVATIONS:
        raise ValueError(f"activations are one of {', '.join(ACTIVATIONS)}, not {activations!r}")
    if cache is not None and cache not in CACHES:
        raise ValueError(f"the cache is one of {', '.join(CACHES)}, not {cache!r}")
    return _LlamaBuilder(config, describe, activations, cache).build(head)
