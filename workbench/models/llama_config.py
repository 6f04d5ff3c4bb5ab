"""The configuration of a Llama checkpoint: the keys of `config.json` that decide the computation, checked.

Every key is understood as transformers 5 understands it, or refused by name; one that its LlamaConfig does not read is
ignored, with a note.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from workbench.errors import UnsupportedModelError
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

WHERE = "config.json"
#: More layers than any model has, and few enough to list their tensors.
MOST_LAYERS = 4096
#: The second is what the first conversions of Llama 1 were called.
ARCHITECTURES = {"LlamaForCausalLM", "LLaMAForCausalLM"}
_ARCHITECTURES = Kind(
    'a list of strings with "LlamaForCausalLM" among them, or null',
    lambda value: value is None or (list_of(TEXT).holds(value) and not ARCHITECTURES.isdisjoint(value)),
)
_DENSE = "every layer has one gated MLP"

#: What LlamaConfig reads besides `PRETRAINED_KEYS`.
LLAMA_KEYS = (
    Key("model_type", one_of("llama"), "llama"),
    Key("architectures", _ARCHITECTURES, None),
    Key("vocab_size", integer(1)),
    Key("hidden_size", integer(1)),
    Key("intermediate_size", integer(1)),
    Key("num_hidden_layers", integer(1, MOST_LAYERS)),
    Key("num_attention_heads", integer(1)),
    Key("num_key_value_heads", integer(1) | NULL, None),
    Key("head_dim", integer(1) | NULL, None),
    Key("max_position_embeddings", integer(1), 2048),
    Key("hidden_act", one_of("silu", "swish"), "silu"),
    Key("rms_norm_eps", real(0, 1, above=True), 1e-6),
    Key("tie_word_embeddings", TRUTH, False),
    Key("attention_bias", TRUTH, False),
    Key("mlp_bias", TRUTH, False),
    Key("pad_token_id", TOKEN_ID | NULL, None),
    Key("sliding_window", integer(0) | NULL, None),
    Key(
        "layer_types",
        list_of(one_of("full_attention", "attention")) | NULL,
        None,
        "attention looks at all before",
    ),
    Key("mlp_layer_types", list_of(one_of("dense")) | NULL, None, _DENSE),
    *TOP_KEYS,
)


@dataclass(frozen=True)
class LlamaConfig:
    """The fields of a Llama `config.json` that decide the computation; `parse` checks them.

    notes: what of the file does not count, and why; for people.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    context_length: int
    norm_eps: float
    rope_theta: float
    rope_scaling: Mapping | None
    tied_embeddings: bool
    attention_bias: bool
    mlp_bias: bool
    notes: tuple[str, ...] = field(default=(), compare=False)

    @classmethod
    def parse(cls, config: Mapping) -> LlamaConfig:
        """Raises `UnsupportedModelError` naming the key, its value and what is allowed."""
        read, unknown = read_keys(config, (*LLAMA_KEYS, *PRETRAINED_KEYS), WHERE)
        heads, hidden = read["num_attention_heads"], read["hidden_size"]
        kv_heads = read["num_key_value_heads"] or heads
        head_dim = read["head_dim"] or hidden // heads
        context = read["max_position_embeddings"]
        if hidden % heads:  # transformers refuses it, even where head_dim is given
            raise refused(WHERE, "num_attention_heads", heads, f"a divisor of hidden_size {hidden}")
        if heads % kv_heads:
            raise refused(WHERE, "num_key_value_heads", kv_heads, f"a divisor of num_attention_heads {heads}")
        if head_dim % 8:
            given = (
                "head_dim"
                if read["head_dim"]
                else f"head_dim (hidden_size / num_attention_heads = {hidden}/{heads})"
            )
            raise refused(WHERE, given, head_dim, "a multiple of 8")
        _check_attention(read, context)
        vocabulary, pad = read["vocab_size"], read["pad_token_id"]
        if pad is not None and not -vocabulary <= pad < vocabulary:
            raise refused(
                WHERE, "pad_token_id", pad, f"null or an id of the vocabulary of vocab_size {vocabulary}"
            )
        rope = read_rope(config, read, context, WHERE)
        notes = rope.notes
        if read["sliding_window"] is not None:
            notes = (*notes, f"sliding_window {read['sliding_window']} cuts nothing within the context")
        if unknown:
            notes = (
                *notes,
                f"{', '.join(unknown)}: ignored, as transformers' LlamaConfig does not read them",
            )
        return cls(
            vocab_size=vocabulary,
            hidden_size=hidden,
            intermediate_size=read["intermediate_size"],
            layers=read["num_hidden_layers"],
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            context_length=context,
            norm_eps=read["rms_norm_eps"],
            rope_theta=rope.theta,
            rope_scaling=rope.scaling,
            tied_embeddings=read["tie_word_embeddings"],
            attention_bias=read["attention_bias"],
            mlp_bias=read["mlp_bias"],
            notes=tuple(f"{WHERE}: {note}" for note in notes),
        )


def _check_attention(read: Mapping, context: int) -> None:
    """Windows and kinds of layers: only what leaves attention to all positions before."""
    window, layers = read["sliding_window"], read["num_hidden_layers"]
    if window is not None and window < context:
        raise refused(
            WHERE,
            "sliding_window",
            window,
            f"null, or from max_position_embeddings {context} on, where it cuts nothing",
        )
    for name in ("layer_types", "mlp_layer_types"):
        if read[name] is not None and len(read[name]) != layers:
            raise UnsupportedModelError(
                f"{WHERE}: {name} has {len(read[name])} entries; allowed: num_hidden_layers {layers}"
            )
