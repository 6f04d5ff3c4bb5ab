"""Qwen3-MoE (Yang et al. 2025): Qwen3 with many small experts in most layers, whose scores are a softmax over all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workbench.models.blocks import Routing
from workbench.models.families.dense import ATTENTION_BIAS, HEAD_DIM, WIDTH, Biased, keys_of, named
from workbench.models.families.mixture import COUNTS, TRAINED_WITH, Mixture, counted, routed_to
from workbench.models.families.windows import (
    FULL,
    SLIDING,
    SLIDING_WINDOW,
    USE_SLIDING_WINDOW,
    Windowed,
    windows,
)
from workbench.models.keys import NULL, TRUTH, Key, integer, list_of
from workbench.models.specs import TensorSpec


@dataclass(frozen=True, kw_only=True)
class Qwen3Moe(Mixture, Windowed, Biased):
    family = "Qwen3Moe"
    keys = keys_of(
        *named("qwen3_moe", "Qwen3MoeForCausalLM"),
        HEAD_DIM,
        Key("num_key_value_heads", integer(1) | NULL, 4),
        Key("max_position_embeddings", integer(1), 32768),
        ATTENTION_BIAS,
        SLIDING_WINDOW,
        USE_SLIDING_WINDOW,
        Key("layer_types", NULL, None, "all layers of Qwen3-MoE have one kind of attention"),
        Key("moe_intermediate_size", WIDTH, 768),
        Key("num_experts_per_tok", integer(1), 8),
        Key("norm_topk_prob", TRUTH, False),
        Key("decoder_sparse_step", integer(1), 1),
        Key("mlp_only_layers", list_of(integer(0)) | NULL, None),
        *COUNTS,
        *TRAINED_WITH,
    )

    @classmethod
    def fields(cls, config: Mapping, read: Mapping[str, Any]) -> dict[str, Any]:
        layers, experts = read["num_hidden_layers"], counted(read, 128)
        step, dense = read["decoder_sparse_step"], set(read["mlp_only_layers"] or ())
        # transformers cuts all layers alike
        kind = SLIDING if read["use_sliding_window"] and read["sliding_window"] else FULL
        return {
            **super().fields(config, read),
            "window": windows(read, [kind] * layers),
            "mixed": tuple((i + 1) % step == 0 and i not in dense for i in range(layers)),
            "experts": experts,
            "expert_size": read["moe_intermediate_size"],
            "routing": Routing(routed_to(read, experts), normalised=read["norm_topk_prob"]),
        }

    def layer_tensors(self) -> dict[str, TensorSpec]:
        norm = TensorSpec((self.head_dim,), ("head_dim", "num_hidden_layers"))
        return super().layer_tensors() | {f"self_attn.{part}_norm.weight": norm for part in "qk"}
