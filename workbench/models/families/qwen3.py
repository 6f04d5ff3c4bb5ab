"""Qwen3, dense (Yang et al. 2025): a norm of each head in queries and keys before they are rotated, and heads of an
explicit size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workbench.models.families.dense import (
    ATTENTION,
    ATTENTION_BIAS,
    FULL,
    SLIDING,
    WINDOW_KEYS,
    Dense,
    keys_of,
    named,
    windows,
)
from workbench.models.keys import Key, integer
from workbench.models.specs import TensorSpec


@dataclass(frozen=True, kw_only=True)
class Qwen3(Dense):
    """window: how far each layer looks back, 0 for all."""

    family = "Qwen3"
    keys = keys_of(
        *named("qwen3", "Qwen3ForCausalLM"),
        Key("head_dim", integer(1), 128),
        Key("max_position_embeddings", integer(1), 32768),
        Key("max_window_layers", integer(0), 28),
        ATTENTION_BIAS,
        *WINDOW_KEYS,
    )

    attention_bias: bool
    window: tuple[int, ...]

    @classmethod
    def fields(cls, config: Mapping, read: Mapping[str, Any]) -> dict[str, Any]:
        wide = read["max_window_layers"] if read["use_sliding_window"] and read["sliding_window"] else None
        kinds = (
            FULL if wide is None or index < wide else SLIDING for index in range(read["num_hidden_layers"])
        )
        return {
            **super().fields(config, read),
            "attention_bias": read["attention_bias"],
            "window": windows(read, kinds),
        }

    def biases(self) -> dict[str, str]:
        return dict.fromkeys(ATTENTION, "attention_bias") if self.attention_bias else {}

    def layer_tensors(self) -> dict[str, TensorSpec]:
        norm = TensorSpec((self.head_dim,), ("head_dim", "num_hidden_layers"))
        return super().layer_tensors() | {f"self_attn.{part}_norm.weight": norm for part in "qk"}

    def bounds(self, index: int) -> dict[str, float]:
        return {"window": self.window[index]} if self.window[index] else {}
