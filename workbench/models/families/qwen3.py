"""Qwen3, dense (Yang et al. 2025): a norm of each head in queries and keys before they are rotated, and heads of an
explicit size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workbench.models.families.dense import ATTENTION_BIAS, Biased, keys_of, named
from workbench.models.families.windows import LAST_LAYERS, Windowed, last_layers
from workbench.models.keys import Key, integer
from workbench.models.specs import TensorSpec


@dataclass(frozen=True, kw_only=True)
class Qwen3(Windowed, Biased):
    family = "Qwen3"
    keys = keys_of(
        *named("qwen3", "Qwen3ForCausalLM"),
        Key("head_dim", integer(1), 128),
        Key("max_position_embeddings", integer(1), 32768),
        ATTENTION_BIAS,
        *LAST_LAYERS,
    )

    @classmethod
    def fields(cls, config: Mapping, read: Mapping[str, Any]) -> dict[str, Any]:
        return {**super().fields(config, read), "window": last_layers(read)}

    def layer_tensors(self) -> dict[str, TensorSpec]:
        norm = TensorSpec((self.head_dim,), ("head_dim", "num_hidden_layers"))
        return super().layer_tensors() | {f"self_attn.{part}_norm.weight": norm for part in "qk"}
