"""OLMo 2 (OLMo team 2024): norms behind attention and MLP instead of before, and norms of whole queries and keys."""

from __future__ import annotations

from dataclasses import dataclass

from workbench.models.blocks import Blocks
from workbench.models.families.dense import ATTENTION_BIAS, HEAD_DIM, Biased, keys_of, named
from workbench.models.keys import Key, real
from workbench.models.specs import TensorSpec


@dataclass(frozen=True, kw_only=True)
class Olmo2(Biased):
    family = "Olmo2"
    keys = keys_of(
        *named("olmo2", "Olmo2ForCausalLM"),
        HEAD_DIM,
        ATTENTION_BIAS,
        Key("rms_norm_eps", real(0, 1, above=True), 1e-5),
    )

    def norms(self) -> tuple[str, ...]:
        return "post_attention_layernorm.weight", "post_feedforward_layernorm.weight"

    def layer_tensors(self) -> dict[str, TensorSpec]:
        found = super().layer_tensors()
        for part in "qk":
            rows = found[f"self_attn.{part}_proj.weight"]
            found[f"self_attn.{part}_norm.weight"] = TensorSpec(rows.shape[:1], rows.keys)
        return found

    def layer(self, plan: Blocks, index: int, x: str) -> str:
        layer, tensor = f"layers.{index}", f"model.layers.{index}"
        for part, block, norm in (
            ("attn", self.attention, "post_attention_layernorm"),
            ("mlp", self.mlp, "post_feedforward_layernorm"),
        ):
            out = block(plan, index, x)
            out = self.norm(plan, f"{tensor}.{norm}.weight", out, f"{layer}.{part}.normed", dtype="f32")
            x = self.add(plan, x, out, f"{layer}.out" if part == "mlp" else f"{layer}.attn.residual")
        return x
