"""Mistral (Jiang et al. 2023): a sliding window in all layers, where there is one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workbench.models.families.dense import HEAD_DIM, keys_of, named
from workbench.models.families.windows import FULL, SLIDING, SLIDING_WINDOW, Windowed, windows
from workbench.models.keys import NULL, Key, integer


@dataclass(frozen=True, kw_only=True)
class Mistral(Windowed):
    family = "Mistral"
    keys = keys_of(
        *named("mistral", "MistralForCausalLM"),
        HEAD_DIM,
        Key("num_key_value_heads", integer(1) | NULL, 8),
        Key("max_position_embeddings", integer(1), 131072),
        SLIDING_WINDOW,
        Key("layer_types", NULL, None, "all layers of Mistral are alike"),
    )

    @classmethod
    def fields(cls, config: Mapping, read: Mapping[str, Any]) -> dict[str, Any]:
        kind = FULL if read["sliding_window"] is None else SLIDING
        return {
            **super().fields(config, read),
            "window": windows(read, [kind] * read["num_hidden_layers"]),
        }
