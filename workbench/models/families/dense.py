"""Dense decoders in the manner of Llama: keys of config.json that they share, their tensors, and their layers.

A family takes these and says what it has besides: more keys, more tensors, another layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

from wgsl_kernels.attention.rope import inverse_frequencies
from workbench.errors import UnsupportedModelError, shortened
from workbench.models import orders
from workbench.models.architecture import Architecture
from workbench.models.blocks import Blocks, Heads
from workbench.models.keys import (
    NULL,
    TEXT,
    TRUTH,
    Key,
    Kind,
    integer,
    list_of,
    one_of,
    read_keys,
    real,
    refused,
)
from workbench.models.pretrained_keys import PRETRAINED_KEYS, TOKEN_ID
from workbench.models.rope_config import TOP_KEYS, read_rope
from workbench.models.specs import TensorSpec
from workbench.plan.constants import RotaryTable

WHERE = "config.json"
EMBEDDING, FINAL_NORM, LM_HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"
#: More layers than any model has, and few enough to list their tensors.
MOST_LAYERS = 1024
#: Wider than any model is, and narrow enough that what follows from a configuration alone, such as the angles of a
#: rotation, is small. A configuration beyond is a lie, which is refused before anything is made of it.
MOST_WIDTH, MOST_HEADS, MOST_HEAD_DIM, MOST_TOKENS = 1 << 20, 1 << 16, 1 << 13, 1 << 24
#: Of rows: a hidden state, an MLP; ids of a vocabulary.
WIDTH, VOCABULARY = integer(1, MOST_WIDTH), integer(1, MOST_TOKENS)

#: Keys of all families, in the defaults that most of them have; a family's own take their place.
SHARED_KEYS = (
    Key("vocab_size", VOCABULARY),
    Key("hidden_size", WIDTH),
    Key("intermediate_size", WIDTH),
    Key("num_hidden_layers", integer(1, MOST_LAYERS)),
    Key("num_attention_heads", integer(1, MOST_HEADS)),
    Key("num_key_value_heads", integer(1) | NULL, None),
    Key("max_position_embeddings", integer(1), 2048),
    Key("hidden_act", one_of("silu", "swish"), "silu"),
    Key("rms_norm_eps", real(0, 1, above=True), 1e-6),
    Key("tie_word_embeddings", TRUTH, False),
    Key("pad_token_id", TOKEN_ID | NULL, None),
    *TOP_KEYS,
)
#: Keys of some families: heads of a declared size, and biases of attention and MLP.
HEAD_DIM = Key("head_dim", integer(1) | NULL, None)
ATTENTION_BIAS = Key("attention_bias", TRUTH, False)
MLP_BIAS = Key("mlp_bias", TRUTH, False)
ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")


def keys_of(*own: Key) -> tuple[Key, ...]:
    """The shared keys and a family's own, which take the place of shared ones of the same name."""
    names = {key.name for key in own}
    return (*(key for key in SHARED_KEYS if key.name not in names), *own)


def named(model_type: str, *architectures: str) -> tuple[Key, Key]:
    """The keys that say which family a file is of. architectures: transformers' classes, the usual one first."""
    allowed = f'a list of strings with "{architectures[0]}" among them, or null'

    def holds(value: Any) -> bool:
        return value is None or (list_of(TEXT).holds(value) and not set(architectures).isdisjoint(value))

    return (
        Key("model_type", one_of(model_type), model_type),
        Key("architectures", Kind(allowed, holds), None),
    )


@dataclass(frozen=True, kw_only=True)
class Dense(Architecture):
    """A decoder of layers with attention and a gated MLP, a norm before each (Touvron et al. 2023).

    rope_scaling: as `wgsl_kernels.attention.rope.inverse_frequencies` takes it.
    """

    #: What the family reads, beside the keys that transformers reads for all of them.
    keys: ClassVar[tuple[Key, ...]]
    #: What is added to the stored weights of norms, and the op of the MLP's gated unit.
    norm_offset: ClassVar[float] = 0.0
    gate_op: ClassVar[str] = "silu_mul"

    intermediate_size: int
    heads: int
    kv_heads: int
    head_dim: int
    norm_eps: float
    rope_theta: float
    rope_scaling: Mapping | None

    @classmethod
    def parse(cls, config: Mapping) -> Dense:
        own = {key.name for key in cls.keys}
        others = (key for key in PRETRAINED_KEYS if key.name not in own)
        read, unknown = read_keys(config, (*cls.keys, *others, orders.KEY), WHERE)
        fields = cls.fields(config, read)
        notes = list(fields.pop("notes"))
        if unknown:
            notes.append(
                f"{', '.join(unknown)}: ignored, as transformers' {cls.family}Config does not read them"
            )
        model = cls(**fields, notes=tuple(shortened(f"{WHERE}: {note}") for note in notes))
        if not (given := read[orders.NAME]):
            return model
        return replace(model, orders=orders.of_matrices(given, model.tensors(), model.adaptable(), WHERE))

    @classmethod
    def fields(cls, config: Mapping, read: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of this class from the keys that were read; families add theirs. notes: without the file."""
        heads, hidden = read["num_attention_heads"], read["hidden_size"]
        kv_heads = read["num_key_value_heads"] or heads
        head_dim = read.get("head_dim") or hidden // heads
        context, vocabulary, pad = (
            read["max_position_embeddings"],
            read["vocab_size"],
            read["pad_token_id"],
        )
        if heads % kv_heads:
            raise refused(WHERE, "num_key_value_heads", kv_heads, f"a divisor of num_attention_heads {heads}")
        if head_dim % 8 or not 0 < head_dim <= MOST_HEAD_DIM:
            given = "head_dim"
            if not read.get("head_dim"):
                given = f"head_dim (hidden_size / num_attention_heads = {hidden}/{heads})"
            raise refused(WHERE, given, head_dim, f"a multiple of 8, from 8 to {MOST_HEAD_DIM}")
        if pad is not None and not -vocabulary <= pad < vocabulary:
            raise refused(
                WHERE, "pad_token_id", pad, f"null or an id of the vocabulary of vocab_size {vocabulary}"
            )
        rope = read_rope(config, read, context, WHERE)
        return {
            "vocab_size": vocabulary,
            "hidden_size": hidden,
            "intermediate_size": read["intermediate_size"],
            "layers": read["num_hidden_layers"],
            "heads": heads,
            "kv_heads": kv_heads,
            "head_dim": head_dim,
            "context_length": context,
            "norm_eps": read["rms_norm_eps"],
            "rope_theta": rope.theta,
            "rope_scaling": rope.scaling,
            "embedding": EMBEDDING,
            "lm_head": EMBEDDING if read["tie_word_embeddings"] else LM_HEAD,
            "notes": rope.notes,
        }

    # ---- tensors -----------------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, TensorSpec]:
        table = TensorSpec((self.vocab_size, self.hidden_size), ("vocab_size", "hidden_size"))
        found = {EMBEDDING: table}
        for index in range(self.layers):
            found |= {f"model.layers.{index}.{name}": spec for name, spec in self.tensors_of(index).items()}
        found[FINAL_NORM] = self.norm_spec()
        if not self.tied_embeddings:
            found[self.lm_head] = TensorSpec(table.shape, (*table.keys, "tie_word_embeddings"))
        return found | orders.specs_of(self.orders, found)

    def norm_spec(self) -> TensorSpec:
        return TensorSpec((self.hidden_size,), ("hidden_size", "num_hidden_layers"))

    def tensors_of(self, index: int) -> dict[str, TensorSpec]:
        """Of one decoder layer, by name within it."""
        return self.layer_tensors()

    def layer_tensors(self) -> dict[str, TensorSpec]:
        """Of a decoder layer with an MLP, by name within it."""
        width, kv_width = self.heads * self.head_dim, self.kv_heads * self.head_dim
        hidden, middle = self.hidden_size, self.intermediate_size
        head_keys = ("num_attention_heads", "head_dim", "hidden_size")
        kv_keys, mlp_keys = ("num_key_value_heads", *head_keys), ("intermediate_size", "hidden_size")
        linears = {
            "self_attn.q_proj": ((width, hidden), head_keys),
            "self_attn.k_proj": ((kv_width, hidden), kv_keys),
            "self_attn.v_proj": ((kv_width, hidden), kv_keys),
            "self_attn.o_proj": ((hidden, width), head_keys),
            "mlp.gate_proj": ((middle, hidden), mlp_keys),
            "mlp.up_proj": ((middle, hidden), mlp_keys),
            "mlp.down_proj": ((hidden, middle), mlp_keys),
        }
        biases = self.biases()
        found = {name: self.norm_spec() for name in self.norms()}
        for name, (shape, keys) in linears.items():
            found[f"{name}.weight"] = TensorSpec(shape, (*keys, "num_hidden_layers"))
            if name in biases:
                found[f"{name}.bias"] = TensorSpec(shape[:1], (biases[name], *keys, "num_hidden_layers"))
        return found

    def norms(self) -> Iterable[str]:
        """Norms of the residual stream in a layer, by their tensors' names within it."""
        return "input_layernorm.weight", "post_attention_layernorm.weight"

    def biases(self) -> Mapping[str, str]:
        """Linear layers with a bias, by name within a layer -> the key that declares it."""
        return {}

    # ---- plan --------------------------------------------------------------------------------------------------

    @cached_property
    def rotary(self) -> RotaryTable:
        frequencies = inverse_frequencies(self.head_dim, self.rope_theta, self.rope_scaling)
        return RotaryTable(tuple(frequencies.tolist()))

    @property
    def attention_heads(self) -> Heads:
        return Heads(self.heads, self.kv_heads, self.head_dim, self.norm_eps, self.norm_offset)

    def embed(self, plan: Blocks) -> str:
        plan.rotary_table("rope_table", self.rotary)
        return plan.embedding(self.embedding, "embedded")

    def layer(self, plan: Blocks, index: int, x: str) -> str:
        layer, tensor = f"layers.{index}", f"model.layers.{index}"
        normed = self.norm(plan, f"{tensor}.input_layernorm.weight", x, f"{layer}.attn.input")
        x = self.add(plan, x, self.attention(plan, index, normed), f"{layer}.attn.residual")
        normed = self.norm(plan, f"{tensor}.post_attention_layernorm.weight", x, f"{layer}.mlp.input")
        return self.behind_mlp(plan, index, x, normed)

    def behind_mlp(self, plan: Blocks, index: int, x: str, normed: str) -> str:
        """The residual stream x with what one layer's MLP makes of the normed one."""
        return self.add(plan, x, self.mlp(plan, index, normed), f"layers.{index}.out")

    def norm(self, plan: Blocks, tensor: str, x: str, out: str, dtype: str | None = None) -> str:
        """Of the residual stream, or what is added to it; dtype: by default that of the inputs of linear layers."""
        return plan.norm(tensor, x, out, self.norm_eps, dtype=dtype, offset=self.norm_offset)

    def add(self, plan: Blocks, x: str, more: str, out: str) -> str:
        """The residual stream with what a part of a layer adds."""
        return plan.add(x, more, out)

    def mlp(self, plan: Blocks, index: int, x: str) -> str:
        """Of one layer."""
        return plan.gated_mlp(f"layers.{index}", f"model.layers.{index}.mlp", x, self.gate_op)

    def attention(self, plan: Blocks, index: int, x: str) -> str:
        """Of one layer."""
        tensor = f"model.layers.{index}.self_attn"
        table, bounds = self.table(index), self.bounds(index)
        return plan.attention(f"layers.{index}", tensor, x, self.attention_heads, table, None, **bounds)

    def table(self, index: int) -> str | None:
        """The rotary table of a layer, None where it has none."""
        return "rope_table"

    def bounds(self, index: int) -> dict[str, float]:
        """Parameters of a layer's attention: `BOUNDS` of `wgsl_kernels.attention.attention`, or another scale."""
        return {}

    def final(self, plan: Blocks, x: str) -> str:
        return self.norm(plan, FINAL_NORM, x, "final")

    def facts(self) -> dict[str, str]:
        ordered = {"columns": f"{len(self.orders)} matrices in orders of their own"} if self.orders else {}
        return {
            "architecture": f"{self.family}, {self.layers} layers, hidden {self.hidden_size}, "
            f"FFN {self.intermediate_size}",
            "attention": f"{self.heads} heads over {self.kv_heads} of {self.head_dim}",
            **ordered,
        }


@dataclass(frozen=True, kw_only=True)
class Biased(Dense):
    """A decoder whose linear layers have biases by declaration, of attention, and of the MLP where a key says so."""

    attention_bias: bool
    mlp_bias: bool = False

    @classmethod
    def fields(cls, config: Mapping, read: Mapping[str, Any]) -> dict[str, Any]:
        own = {name: read[name] for name in ("attention_bias", "mlp_bias") if name in read}
        return {**super().fields(config, read), **own}

    def biases(self) -> dict[str, str]:
        attention = dict.fromkeys(ATTENTION, "attention_bias") if self.attention_bias else {}
        mlp = dict.fromkeys(MLP, "mlp_bias") if self.mlp_bias else {}
        return {**attention, **mlp}


def require_whole_heads(read: Mapping[str, Any]) -> None:
    """Refuses a width that is no multiple of the heads, where transformers does, even where head_dim is given."""
    heads, hidden = read["num_attention_heads"], read["hidden_size"]
    if hidden % heads:
        raise refused(WHERE, "num_attention_heads", heads, f"a divisor of hidden_size {hidden}")


def require_a_kind_a_layer(read: Mapping[str, Any], *names: str) -> None:
    """Refuses lists with a kind of layer each that are longer or shorter than the layers."""
    layers = read["num_hidden_layers"]
    for name in names:
        if read[name] is not None and len(read[name]) != layers:
            raise UnsupportedModelError(
                f"{WHERE}: {name} has {len(read[name])} entries; allowed: num_hidden_layers {layers}"
            )
