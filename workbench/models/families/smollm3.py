"""SmolLM3 (Bakouch et al. 2025): every fourth layer without rotary embedding, which may have a window instead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workbench.models.families.dense import (
    ATTENTION_BIAS,
    HEAD_DIM,
    MLP_BIAS,
    Biased,
    keys_of,
    named,
    require_a_kind_a_layer,
)
from workbench.models.families.windows import (
    FULL,
    LAYER_TYPES,
    SLIDING,
    USE_SLIDING_WINDOW,
    Windowed,
    windows,
)
from workbench.models.keys import NULL, TRUTH, Key, integer, list_of, one_of
from workbench.models.rope_config import THETA


@dataclass(frozen=True, kw_only=True)
class SmolLM3(Windowed, Biased):
    """rotated: whether each layer has a rotary embedding."""

    family = "SmolLM3"
    keys = keys_of(
        *named("smollm3", "SmolLM3ForCausalLM"),
        HEAD_DIM,
        ATTENTION_BIAS,
        MLP_BIAS,
        Key("num_key_value_heads", integer(1) | NULL, 4),
        Key("max_position_embeddings", integer(1), 32768),
        Key("tie_word_embeddings", TRUTH, True),
        Key("rope_theta", THETA | NULL, 2000000.0),
        Key("no_rope_layers", list_of(one_of(0, 1)) | NULL, None),
        Key("no_rope_layer_interval", integer(1), 4),
        Key("sliding_window", integer(1) | NULL, None),
        USE_SLIDING_WINDOW,
        LAYER_TYPES,
    )

    rotated: tuple[bool, ...]

    @classmethod
    def fields(cls, config: Mapping, read: Mapping[str, Any]) -> dict[str, Any]:
        require_a_kind_a_layer(read, "no_rope_layers")
        interval, layers = read["no_rope_layer_interval"], range(read["num_hidden_layers"])
        # transformers' own name means the opposite: 1 has an embedding
        rotated = read["no_rope_layers"] or [(index + 1) % interval != 0 for index in layers]
        cut = read["use_sliding_window"] and read["sliding_window"] is not None
        kinds = (SLIDING if cut and not each else FULL for each in rotated)
        return {
            **super().fields(config, read),
            "rotated": tuple(map(bool, rotated)),
            "window": windows(read, kinds),
        }

    def table(self, index: int) -> str | None:
        return super().table(index) if self.rotated[index] else None
