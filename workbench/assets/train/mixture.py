"""The mixture of experts that is trained, as Hugging Face's `Qwen3MoeForCausalLM` computes it.

All experts of a layer are one wide MLP whose hidden units are multiplied by the score of their expert, 0 for experts
that a token does not go to: the same function as computing the chosen ones alone, in three plain matrix products,
which a large GPU does sooner than it sorts tokens. Weights are taken apart into experts when they are written.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from workbench.assets.train.model import Llama, Shape


@dataclass(frozen=True)
class MixtureShape(Shape):
    """intermediate_size: width of an expert; chosen: how many of the experts a token goes to; balance: weight of the
    load-balancing loss."""

    hidden_size: int = 128
    intermediate_size: int = 128
    layers: int = 6
    head_dim: int = 32
    head_norms: bool = True
    experts: int = 8
    chosen: int = 2
    balance: float = 0.01

    def to_config(self) -> dict:
        config = super().to_config()
        del config["mlp_bias"]
        return config | {
            "architectures": ["Qwen3MoeForCausalLM"],
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "model_type": "qwen3_moe",
            "moe_intermediate_size": self.intermediate_size,
            "norm_topk_prob": True,
            "num_experts": self.experts,
            "num_experts_per_tok": self.chosen,
            "router_aux_loss_coef": self.balance,
            "sliding_window": None,
            "use_sliding_window": False,
        }


class Experts(nn.Module):
    """Keeps, of its last call, `balance` (the load-balancing loss) and `taken` [experts], the share of the choices
    that went to each expert."""

    def __init__(self, s: MixtureShape):
        super().__init__()
        self.s = s
        units = s.experts * s.intermediate_size
        self.gate = nn.Linear(s.hidden_size, s.experts, bias=False)
        self.gate_proj = nn.Linear(s.hidden_size, units, bias=False)
        self.up_proj = nn.Linear(s.hidden_size, units, bias=False)
        self.down_proj = nn.Linear(units, s.hidden_size, bias=False)

    def forward(self, x):
        scores = self.scores(x)
        hidden = F.silu(self.gate_proj(x)) * self.up_proj(x)
        scored = hidden.unflatten(-1, (self.s.experts, -1)) * scores.unsqueeze(-1).to(hidden.dtype)
        return self.down_proj(scored.flatten(-2))

    def scores(self, x):
        """[..., experts], f32, of x [..., hidden]: softmax over all, the chosen scaled to the sum 1, 0 elsewhere."""
        with torch.autocast(x.device.type, enabled=False):
            probabilities = F.linear(x.float(), self.gate.weight).softmax(-1)
        largest, chosen = probabilities.topk(self.s.chosen, dim=-1)
        places = torch.zeros_like(probabilities).scatter(-1, chosen, 1.0)
        self.taken = places.flatten(0, -2).mean(0) / self.s.chosen
        # experts * sum f_i P_i (Fedus et al. 2022, eq. 4 to 6): 1 where all experts are used alike
        self.balance = self.s.experts * (self.taken * probabilities.flatten(0, -2).mean(0)).sum()
        return probabilities * places / largest.sum(-1, keepdim=True)


class Mixture(Llama):
    shape: MixtureShape

    def mlp(self) -> nn.Module:
        return Experts(self.shape)

    def loss(self, ids, reduction: str = "mean"):
        """Cross entropy as a Llama's; while training with the mean load-balancing loss of the layers beside it."""
        loss = super().loss(ids, reduction)
        if not self.training:
            return loss
        return loss + self.shape.balance * torch.stack([layer.mlp.balance for layer in self.layers]).mean()

    @torch.no_grad()
    def traffic(self, batches) -> list[list[float]]:
        """Shares of the choices that go to each expert, layer by layer; batches: of ids, of one size each."""
        self.eval()
        found = []
        for ids in batches:
            self(ids)
            found.append(torch.stack([layer.mlp.taken for layer in self.layers]) * len(ids))
        self.train()
        total = sum(len(ids) for ids in batches)
        return [[round(float(share), 4) for share in layer] for layer in sum(found) / total]

    def tensors(self) -> dict[str, torch.Tensor]:
        found = {}
        for name, value in self.state_dict().items():
            prefix, part = name.removesuffix(".weight").rpartition(".")[::2]
            if not prefix.endswith(".mlp") or part == "gate":
                found[name] = value
                continue
            pieces = value.chunk(self.shape.experts, dim=1 if part == "down_proj" else 0)
            for expert, piece in enumerate(pieces):
                found[f"{prefix}.experts.{expert}.{part}.weight"] = piece
        return found
