"""Gemma 2 and 3, text (Gemma team 2024, 2025): a scaled embedding, norms before and behind attention and MLP with
weights stored less 1, GELU, windows in most layers; Gemma 2 caps scores and logits, Gemma 3 has norms of each head in
queries and keys, and another rotary embedding in layers with a window."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from wgsl_kernels.attention.rope import inverse_frequencies
from workbench.models.blocks import Blocks
from workbench.models.families.dense import ATTENTION_BIAS, VOCABULARY, WHERE, Biased, keys_of, named
from workbench.models.families.windows import FULL, LAYER_TYPES, SLIDING, SLIDING_WINDOW, Windowed, windows
from workbench.models.keys import NULL, OBJECT, TEXT, TRUTH, Key, integer, number, one_of, read_keys
from workbench.models.rope_config import THETA, Rope, read_rope
from workbench.models.specs import TensorSpec
from workbench.plan.constants import RotaryTable

_CAP = number(0, 1e6, above=True) | NULL
_CAUSAL = "attention looks back"
_SHARED = (
    Key("head_dim", integer(1), 256),
    Key("num_key_value_heads", integer(1), 4),
    Key("tie_word_embeddings", TRUTH, True),
    Key("hidden_activation", one_of("gelu_pytorch_tanh"), "gelu_pytorch_tanh"),
    Key("hidden_act", TEXT | NULL, None),  # of older files; the class reads hidden_activation
    Key("query_pre_attn_scalar", integer(1), 256),
    Key("use_bidirectional_attention", one_of(False, None), None, _CAUSAL),
    ATTENTION_BIAS,
    SLIDING_WINDOW,
    LAYER_TYPES,
)
NORMS = (
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
)


def alternating(layers: int, period: int) -> list[str]:
    """Kinds of layers of which every `period`th looks at all of the context."""
    return [SLIDING if (index + 1) % period else FULL for index in range(layers)]


@dataclass(frozen=True, kw_only=True)
class Gemma2(Windowed, Biased):
    """query_scalar: scores are divided by its root. score_cap, logit_cap: 0 for none."""

    family = "Gemma2"
    keys = keys_of(
        *named("gemma2", "Gemma2ForCausalLM"),
        *_SHARED,
        Key("max_position_embeddings", integer(1), 8192),
        Key("final_logit_softcapping", _CAP, 30.0),
        Key("attn_logit_softcapping", _CAP, 50.0),
    )
    norm_offset = 1.0
    gate_op = "gelu_mul"

    query_scalar: int
    score_cap: float
    logit_cap: float

    @classmethod
    def fields(cls, config: Mapping, read: Mapping[str, Any]) -> dict[str, Any]:
        return {
            **super().fields(config, read),
            "window": windows(read, cls.kinds(read)),
            "query_scalar": read["query_pre_attn_scalar"],
            "score_cap": float(read["attn_logit_softcapping"] or 0),
            "logit_cap": float(read["final_logit_softcapping"] or 0),
        }

    @classmethod
    def kinds(cls, read: Mapping[str, Any]) -> list[str]:
        """Kinds of layers where the file lists none."""
        return alternating(read["num_hidden_layers"], 2)

    def norms(self) -> list[str]:
        return [f"{name}.weight" for name in NORMS]

    def embed(self, plan: Blocks) -> str:
        return plan.scaled(super().embed(plan), self.hidden_size**0.5, "embedded.scaled")

    def layer(self, plan: Blocks, index: int, x: str) -> str:
        layer, tensor = f"layers.{index}", f"model.layers.{index}"
        for part, block, before, behind in (
            ("attn", self.attention, *NORMS[:2]),
            ("mlp", self.mlp, *NORMS[2:]),
        ):
            normed = self.norm(plan, f"{tensor}.{before}.weight", x, f"{layer}.{part}.input")
            out = block(plan, index, normed)
            out = self.norm(plan, f"{tensor}.{behind}.weight", out, f"{layer}.{part}.normed", dtype="f32")
            x = self.add(plan, x, out, f"{layer}.out" if part == "mlp" else f"{layer}.attn.residual")
        return x

    def bounds(self, index: int) -> dict[str, float]:
        cap = {"softcap": self.score_cap} if self.score_cap else {}
        return {**super().bounds(index), "scale": self.query_scalar**-0.5, **cap}

    def logits(self, plan: Blocks, x: str, y: str) -> None:
        if not self.logit_cap:
            super().logits(plan, x, y)
            return
        products = plan.buffer("logits.products", plan.shape(y), "f32", "activation")
        super().logits(plan, x, products)
        plan.call("softcap", {"x": products}, {"y": y}, cap=self.logit_cap)


@dataclass(frozen=True, kw_only=True)
class Gemma3(Gemma2):
    """local: the rotary embedding of layers with a window; rope_theta and rope_scaling are of the others."""

    family = "Gemma3Text"
    keys = keys_of(
        *named("gemma3_text", "Gemma3ForCausalLM"),
        *_SHARED,
        Key("vocab_size", VOCABULARY, 262208),
        Key("max_position_embeddings", integer(1), 131072),
        Key("final_logit_softcapping", _CAP, None),
        Key("attn_logit_softcapping", NULL, None, "Gemma 3 caps no scores"),
        Key("rope_theta", THETA, 1e6),
        Key("rope_local_base_freq", THETA, 1e4),
        Key("sliding_window_pattern", integer(1), 6),
        Key("_sliding_window_pattern", integer(1), 6),  # as transformers writes it
    )

    local: Rope
    kinds_of_layers: tuple[str, ...]

    @classmethod
    def fields(cls, config: Mapping, read: Mapping[str, Any]) -> dict[str, Any]:
        given, _ = read_keys(
            read["rope_parameters"] or {},
            [Key(kind, OBJECT | NULL, None) for kind in (FULL, SLIDING)],
            f"{WHERE}: rope_parameters",
        )
        wide = {**(given[FULL] or {}), **(read["rope_scaling"] or {})}
        context, top = read["max_position_embeddings"], {**read, "rope_scaling": None}
        local = read_rope(
            {},
            {**top, "rope_theta": read["rope_local_base_freq"], "rope_parameters": given[SLIDING]},
            context,
            WHERE,
        )
        everywhere = {
            key: value for key, value in config.items() if key not in ("rope_scaling", "rope_parameters")
        }
        fields = super().fields(everywhere | {"rope_parameters": wide}, {**top, "rope_parameters": wide})
        return {**fields, "local": local, "kinds_of_layers": tuple(read["layer_types"] or cls.kinds(read))}

    @classmethod
    def kinds(cls, read: Mapping[str, Any]) -> list[str]:
        return alternating(read["num_hidden_layers"], read["sliding_window_pattern"])

    def layer_tensors(self) -> dict[str, TensorSpec]:
        norm = TensorSpec((self.head_dim,), ("head_dim", "num_hidden_layers"))
        return super().layer_tensors() | {f"self_attn.{part}_norm.weight": norm for part in "qk"}

    @cached_property
    def local_rotary(self) -> RotaryTable:
        frequencies = inverse_frequencies(self.head_dim, self.local.theta, self.local.scaling)
        return RotaryTable(tuple(frequencies.tolist()))

    def embed(self, plan: Blocks) -> str:
        plan.rotary_table("rope_table.local", self.local_rotary)
        return super().embed(plan)

    def table(self, index: int) -> str:
        return "rope_table.local" if self.kinds_of_layers[index] == SLIDING else "rope_table"
