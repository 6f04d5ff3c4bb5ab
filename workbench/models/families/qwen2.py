"""Qwen2 and Qwen2.5 (Yang et al. 2024): biases of queries, keys and values, without a key that declares them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workbench.models.families.dense import ATTENTION, HEAD_DIM, keys_of, named
from workbench.models.families.windows import LAST_LAYERS, Windowed, last_layers
from workbench.models.keys import Key, integer


@dataclass(frozen=True, kw_only=True)
class Qwen2(Windowed):
    family = "Qwen2"
    keys = keys_of(
        *named("qwen2", "Qwen2ForCausalLM"),
        HEAD_DIM,
        Key("max_position_embeddings", integer(1), 32768),
        *LAST_LAYERS,
    )

    @classmethod
    def fields(cls, config: Mapping, read: Mapping[str, Any]) -> dict[str, Any]:
        return {**super().fields(config, read), "window": last_layers(read)}

    def biases(self) -> dict[str, str]:
        return dict.fromkeys(ATTENTION[:3], "model_type")
