"""Llama 4, text (Meta 2025; MobileLLM-R1, which is dense).

Most layers have an interleaved rotary embedding, norms of heads without a weight behind it, and attention within
chunks; every fourth has none of these, and queries that grow with their position. Some layers, or all, have experts: a
token goes to those with the largest logits, whose sigmoids multiply what they read, and to one that all tokens share.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workbench.models.blocks import Blocks, Heads, Routing
from workbench.models.families.dense import (
    ATTENTION_BIAS,
    WHERE,
    WIDTH,
    Biased,
    keys_of,
    named,
    require_a_kind_a_layer,
)
from workbench.models.families.mixture import TRAINED_WITH, Mixture, routed_to
from workbench.models.keys import (
    ANYTHING,
    NULL,
    TRUTH,
    Key,
    integer,
    list_of,
    number,
    one_of,
    real,
    refused,
)
from workbench.models.rope_config import THETA
from workbench.models.specs import Piece, TensorSpec

CHUNKED, FULL = "chunked_attention", "full_attention"
SHARED = "feed_forward.shared_expert"
#: Keys of mixtures of experts, which count where a layer is one.
OF_EXPERTS = ("intermediate_size", "num_local_experts", "num_experts_per_tok")


@dataclass(frozen=True, kw_only=True)
class Llama4(Mixture, Biased):
    """rotated: whether each layer has a rotary embedding. chunk: of each layer's attention, 0 for none. normed: whether
    rotated queries and keys are. growth, floor: `scale` and `floor` of the op `position_scale` for queries that are not
    rotated; growth is None where they do not grow.
    """

    family = "Llama4Text"
    mlp_name = "feed_forward"
    router = "feed_forward.router"
    experts_name = "feed_forward.experts"
    size_keys = ("intermediate_size", "num_local_experts")
    keys = keys_of(
        *named("llama4_text", "Llama4ForCausalLM"),
        Key("head_dim", integer(1) | NULL, 128),
        Key("num_key_value_heads", integer(1) | NULL, 8),
        Key("max_position_embeddings", integer(1), 131072),
        Key("rms_norm_eps", real(0, 1, above=True), 1e-5),
        Key("rope_theta", THETA | NULL, 500000.0),
        Key("intermediate_size_mlp", WIDTH),
        Key("moe_layers", list_of(integer(0)) | NULL, None),
        Key("interleave_moe_layer_step", integer(0), 1),
        *(Key(name, ANYTHING, default) for name, default in zip(OF_EXPERTS, (8192, 16, 1), strict=True)),
        *TRAINED_WITH,
        Key("use_qk_norm", TRUTH, True),
        Key("no_rope_layers", list_of(one_of(0, 1)) | NULL, None),
        Key("no_rope_layer_interval", integer(1), 4),
        Key("attention_chunk_size", integer(1) | NULL, 8192),
        Key("layer_types", list_of(one_of(CHUNKED, FULL)) | NULL, None),
        Key(
            "attn_temperature_tuning", TRUTH | one_of(0, 1, 4), True
        ),  # 4 in published files: any number is a yes
        Key("floor_scale", integer(1), 8192),
        Key("attn_scale", number(0, 1e3), 0.1),
        ATTENTION_BIAS,
    )

    rotated: tuple[bool, ...]
    chunk: tuple[int, ...]
    normed: bool
    growth: float | None
    floor: float

    @classmethod
    def fields(cls, config: Mapping, read: Mapping[str, Any]) -> dict[str, Any]:
        require_a_kind_a_layer(read, "layer_types")
        layers, step = read["num_hidden_layers"], read["interleave_moe_layer_step"]
        experts = read["moe_layers"]
        if experts is None:
            experts = list(range(step - 1, layers, step)) if step else []
        mixed = tuple(index in experts for index in range(layers))
        interval = read["no_rope_layer_interval"]
        # transformers' own name means the opposite: 1 has an embedding
        rotated = read["no_rope_layers"] or [(index + 1) % interval != 0 for index in range(layers)]
        if len(rotated) != layers:
            raise refused(WHERE, "no_rope_layers", rotated, f"as many entries as num_hidden_layers {layers}")
        size = read["attention_chunk_size"] or 0
        kinds = read["layer_types"] or [CHUNKED if each and size else FULL for each in rotated]
        if CHUNKED in kinds and not size:
            raise refused(
                WHERE, "attention_chunk_size", None, f"an integer, as layers are of kind {CHUNKED!r}"
            )
        if size >= read["max_position_embeddings"]:
            size = 0  # cuts nothing within the context
        return {
            **super().fields(config, {**read, "intermediate_size": read["intermediate_size_mlp"]}),
            "rotated": tuple(map(bool, rotated)),
            "chunk": tuple(size if kind == CHUNKED else 0 for kind in kinds),
            **_experts(read, mixed),
            "normed": read["use_qk_norm"],
            "growth": float(read["attn_scale"]) if read["attn_temperature_tuning"] else None,
            "floor": float(read["floor_scale"]),
        }

    @property
    def attention_heads(self) -> Heads:
        return Heads(self.heads, self.kv_heads, self.head_dim, self.norm_eps, interleaved=True)

    def layer_tensors(self) -> dict[str, TensorSpec]:
        return {name.replace("mlp.", "feed_forward."): spec for name, spec in super().layer_tensors().items()}

    def mixture_tensors(self) -> dict[str, TensorSpec]:
        found = super().mixture_tensors()
        for part, shape in self.parts().items():
            found[f"{SHARED}.{part}.weight"] = TensorSpec(
                shape, ("intermediate_size", "hidden_size", "num_hidden_layers")
            )
        return found

    def piece(self, name: str, part: str, rows: int, expert: int) -> Piece:
        if part == "down_proj":
            return Piece(f"{name}.down_proj", rows, expert, width=rows)
        return Piece(f"{name}.gate_up_proj", rows, expert, 0 if part == "gate_proj" else rows, 2 * rows)

    def one_by_one(self) -> dict[str, tuple[Piece, ...]]:
        return self.pieces(super().piece)

    def behind_mlp(self, plan: Blocks, index: int, x: str, normed: str) -> str:
        if self.mixed[index]:
            shared = plan.gated_mlp(f"layers.{index}", f"model.layers.{index}.{SHARED}", normed)
            x = self.add(plan, x, shared, f"layers.{index}.mlp.residual")
        return super().behind_mlp(plan, index, x, normed)

    def mlp(self, plan: Blocks, index: int, x: str) -> str:
        return plan.gated_mlp(f"layers.{index}", f"model.layers.{index}.feed_forward", x)

    def attention(self, plan: Blocks, index: int, x: str) -> str:
        layer, rotated = f"layers.{index}", self.rotated[index]

        def turned(part: str, rows: str, dtype: str) -> str:
            width = plan.width(rows)
            if rotated:
                y = plan.rows(f"{layer}.attn.{part}_normed", width, dtype)
                plan.call("head_norm", {"x": rows}, {"y": y}, eps=self.norm_eps, head_dim=self.head_dim)
                return y
            if part == "k" or self.growth is None:
                return rows
            y = plan.rows(f"{layer}.attn.q_scaled", width, dtype)
            params = {"scale": self.growth, "floor": self.floor}
            plan.call("position_scale", {"x": rows, "state": "state"}, {"y": y}, **params)
            return y

        return plan.attention(
            layer,
            f"model.layers.{index}.self_attn",
            x,
            self.attention_heads,
            "rope_table" if rotated else None,
            turned if not rotated or self.normed else None,
            **({"chunk": self.chunk[index]} if self.chunk[index] else {}),
        )


def _experts(read: Mapping[str, Any], mixed: tuple[bool, ...]) -> dict[str, Any]:
    """The fields of mixtures. Raises UnsupportedModelError for keys that a layer needs."""
    if not any(mixed):
        return {"mixed": mixed, "experts": 0, "expert_size": 0, "routing": Routing(0)}
    for name in OF_EXPERTS:
        if not WIDTH.holds(read[name]):
            raise refused(WHERE, name, read[name], WIDTH.allowed, "layers have experts")
    experts = read["num_local_experts"]
    routing = Routing(routed_to(read, experts), sigmoid=True, on_inputs=True)
    size = read["intermediate_size"]
    return {"mixed": mixed, "experts": experts, "expert_size": size, "routing": routing}
