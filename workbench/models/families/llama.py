"""Llama 1 to 3.2 and their like (`model_type` "llama").

Every key is understood as transformers 5 understands it, or refused by name; one that its LlamaConfig does not read is
ignored, with a note.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workbench.models.families.dense import (
    ATTENTION_BIAS,
    HEAD_DIM,
    MLP_BIAS,
    WHERE,
    Biased,
    keys_of,
    named,
    require_a_kind_a_layer,
    require_whole_heads,
)
from workbench.models.keys import NULL, Key, integer, list_of, one_of, refused


@dataclass(frozen=True, kw_only=True)
class Llama(Biased):
    """A dense decoder with biases by declaration."""

    family = "Llama"
    keys = keys_of(
        # the second is what the first conversions of Llama 1 were called
        *named("llama", "LlamaForCausalLM", "LLaMAForCausalLM"),
        HEAD_DIM,
        ATTENTION_BIAS,
        MLP_BIAS,
        Key("sliding_window", integer(0) | NULL, None),
        Key(
            "layer_types",
            list_of(one_of("full_attention", "attention")) | NULL,
            None,
            "attention looks at all before",
        ),
        Key(
            "mlp_layer_types",
            list_of(one_of("dense")) | NULL,
            None,
            "every layer has one gated MLP",
        ),
    )

    @classmethod
    def fields(cls, config: Mapping, read: Mapping[str, Any]) -> dict[str, Any]:
        require_whole_heads(read)
        found = super().fields(config, read)
        window, context = read["sliding_window"], found["context_length"]
        if window is not None and window < context:
            raise refused(
                WHERE,
                "sliding_window",
                window,
                f"null, or from max_position_embeddings {context} on, where it cuts nothing",
            )
        require_a_kind_a_layer(read, "layer_types", "mlp_layer_types")
        if window is not None:
            found["notes"] = (
                *found["notes"],
                f"sliding_window {window} cuts nothing within the context",
            )
        return found
