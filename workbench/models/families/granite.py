"""Granite 3 (IBM 2024): factors of the embedding, of scores, of what layers add, and of logits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workbench.models.blocks import Blocks
from workbench.models.families.dense import ATTENTION_BIAS, HEAD_DIM, MLP_BIAS, Biased, keys_of, named
from workbench.models.keys import Key, number

FACTORS = ("embedding_multiplier", "attention_multiplier", "residual_multiplier", "logits_scaling")


@dataclass(frozen=True, kw_only=True)
class Granite(Biased):
    """The factors as config.json names them; logits are divided by `logits_scaling`."""

    family = "Granite"
    keys = keys_of(
        *named("granite", "GraniteForCausalLM"),
        HEAD_DIM,
        ATTENTION_BIAS,
        MLP_BIAS,
        *(Key(name, number(1e-6, 1e6), 1.0) for name in FACTORS),
    )

    embedding_multiplier: float
    attention_multiplier: float
    residual_multiplier: float
    logits_scaling: float

    @classmethod
    def fields(cls, config: Mapping, read: Mapping[str, Any]) -> dict[str, Any]:
        return {**super().fields(config, read), **{name: float(read[name]) for name in FACTORS}}

    def embed(self, plan: Blocks) -> str:
        return plan.scaled(super().embed(plan), self.embedding_multiplier, "embedded.scaled")

    def bounds(self, index: int) -> dict[str, float]:
        return {**super().bounds(index), "scale": self.attention_multiplier}

    def add(self, plan: Blocks, x: str, more: str, out: str) -> str:
        return plan.add(x, more, out, self.residual_multiplier)

    def logits(self, plan: Blocks, x: str, y: str) -> None:
        if self.logits_scaling == 1:
            super().logits(plan, x, y)
            return
        products = plan.buffer("logits.products", plan.shape(y), "f32", "activation")
        super().logits(plan, x, products)
        plan.call("scale", {"x": products}, {"y": y}, factor=1 / self.logits_scaling)
