"""Mixtral (Jiang et al. 2024): Mistral with experts in every layer, whose scores are a softmax over those chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workbench.models.blocks import Routing
from workbench.models.families.dense import HEAD_DIM, keys_of, named
from workbench.models.families.mixture import COUNTS, TRAINED_WITH, Mixture, counted, routed_to
from workbench.models.families.windows import FULL, SLIDING, Windowed, windows
from workbench.models.keys import NULL, Key, integer, real
from workbench.models.rope_config import THETA
from workbench.models.specs import Piece

#: What a checkpoint calls the matrices of an expert.
STORED = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}


@dataclass(frozen=True, kw_only=True)
class Mixtral(Mixture, Windowed):
    family = "Mixtral"
    router = "block_sparse_moe.gate"
    experts_name = "block_sparse_moe.experts"
    size_keys = ("intermediate_size", "num_local_experts")
    keys = keys_of(
        *named("mixtral", "MixtralForCausalLM"),
        HEAD_DIM,
        Key("num_key_value_heads", integer(1) | NULL, 8),
        Key("max_position_embeddings", integer(1), 131072),
        Key("rms_norm_eps", real(0, 1, above=True), 1e-5),
        Key("rope_theta", THETA | NULL, 1e6),
        Key("sliding_window", integer(1) | NULL, None),
        Key("layer_types", NULL, None, "all layers of Mixtral are alike"),
        Key("num_experts_per_tok", integer(1), 2),
        *COUNTS,
        *TRAINED_WITH,
    )

    @classmethod
    def fields(cls, config: Mapping, read: Mapping[str, Any]) -> dict[str, Any]:
        kind, experts = FULL if read["sliding_window"] is None else SLIDING, counted(read, 8)
        layers = read["num_hidden_layers"]
        return {
            **super().fields(config, read),
            "window": windows(read, [kind] * layers),
            "mixed": (True,) * layers,
            "experts": experts,
            "expert_size": read["intermediate_size"],
            "routing": Routing(routed_to(read, experts), normalised=True),
        }

    def piece(self, name: str, part: str, rows: int, expert: int) -> Piece:
        return Piece(f"{name}.{expert}.{STORED[part]}.weight", rows)
