"""A family that exists in tests alone: other names in config.json and in the file, attention and MLP in parallel as in
GPT-J, a rotary embedding in every second layer; with its forward pass in plain torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from workbench.models.architecture import Architecture
from workbench.models.blocks import Blocks, Heads
from workbench.models.keys import Key, integer, one_of, read_keys
from workbench.models.specs import TensorSpec
from workbench.plan.constants import RotaryTable

CONFIG = {"model_type": "parallel", "n_vocab": 259, "n_embd": 64, "n_layer": 3, "n_head": 4, "n_ctx": 64}
KEYS = (
    Key("model_type", one_of("parallel")),
    *(Key(name, integer(1)) for name in ("n_vocab", "n_embd", "n_layer", "n_head", "n_ctx")),
)
EPS = 1e-5


@dataclass(frozen=True, kw_only=True)
class Parallel(Architecture):
    """x + attention(norm(x)) + mlp(norm(x))."""

    family = "Parallel"

    heads: int

    @classmethod
    def parse(cls, config: Mapping) -> Parallel:
        read, _ = read_keys(config, KEYS, "config.json")
        return cls(
            vocab_size=read["n_vocab"],
            hidden_size=read["n_embd"],
            layers=read["n_layer"],
            context_length=read["n_ctx"],
            heads=read["n_head"],
            embedding="wte",
            lm_head="head",
        )

    def tensors(self) -> dict[str, TensorSpec]:
        n, keys = self.hidden_size, ("n_embd",)
        found = {"wte": TensorSpec((self.vocab_size, n), ("n_vocab",))}
        for h in (f"h.{index}" for index in range(self.layers)):
            found[f"{h}.norm"] = TensorSpec((n,), keys)
            found |= {f"{h}.mix.{part}_proj.weight": TensorSpec((n, n), keys) for part in "qkvo"}
            found |= {f"{h}.ffn.{part}_proj.weight": TensorSpec((2 * n, n), keys) for part in ("gate", "up")}
            found[f"{h}.ffn.down_proj.weight"] = TensorSpec((n, 2 * n), keys)
        return found | {
            "ln_f": TensorSpec((n,), keys),
            "head": TensorSpec((self.vocab_size, n), ("n_vocab",)),
        }

    @property
    def frequencies(self) -> tuple[float, ...]:
        pairs = self.hidden_size // self.heads // 2
        return tuple(torch.logspace(0, -3, pairs, 10.0, dtype=torch.float32).tolist())

    def embed(self, plan: Blocks) -> str:
        plan.rotary_table("angles", RotaryTable(self.frequencies))
        return plan.embedding("wte", "embedded")

    def layer(self, plan: Blocks, index: int, x: str) -> str:
        layer, heads = f"layers.{index}", Heads(self.heads, self.heads, self.hidden_size // self.heads)
        normed = plan.norm(f"h.{index}.norm", x, f"{layer}.input", EPS)
        table = "angles" if index % 2 == 0 else None
        mixed = plan.attention(layer, f"h.{index}.mix", normed, heads, table)
        x = plan.add(x, mixed, f"{layer}.attn.residual")
        return plan.add(x, plan.gated_mlp(layer, f"h.{index}.ffn", normed), f"{layer}.out")

    def final(self, plan: Blocks, x: str) -> str:
        return plan.norm("ln_f", x, "final", EPS)

    def facts(self) -> dict[str, str]:
        return {"architecture": f"Parallel, {self.layers} layers"}


def forward(config: dict, state: Mapping[str, torch.Tensor], ids: list[int]) -> torch.Tensor:
    """Logits f64 [tokens, vocab] in plain torch."""
    state = {name: value.double() for name, value in state.items()}
    model, tokens = Parallel.parse(config), len(ids)
    dim = model.hidden_size // model.heads
    angles = torch.arange(tokens)[:, None].double() * torch.tensor(model.frequencies).double()
    cos, sin = torch.cat([angles.cos()] * 2, 1), torch.cat([angles.sin()] * 2, 1)
    x = state["wte"][torch.tensor(ids)]
    for index in range(model.layers):
        w = {
            name.removeprefix(f"h.{index}."): v for name, v in state.items() if name.startswith(f"h.{index}.")
        }
        normed = F.rms_norm(x, (model.hidden_size,), w["norm"], EPS)
        q, k, v = (
            (normed @ w[f"mix.{part}_proj.weight"].T).view(tokens, model.heads, dim).transpose(0, 1)
            for part in "qkv"
        )
        if index % 2 == 0:
            q, k = (a * cos + torch.cat([-a[..., dim // 2 :], a[..., : dim // 2]], -1) * sin for a in (q, k))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(0, 1).reshape(tokens, -1)
        gate, up = (normed @ w[f"ffn.{part}_proj.weight"].T for part in ("gate", "up"))
        x = x + mixed @ w["mix.o_proj.weight"].T + (F.silu(gate) * up) @ w["ffn.down_proj.weight"].T
    return F.rms_norm(x, (model.hidden_size,), state["ln_f"], EPS) @ state["head"].T
