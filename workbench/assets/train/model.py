"""The Llama decoder that is trained, with the names and conventions of Hugging Face's `LlamaForCausalLM`.

Written out so that `torch.compile` sees one plain graph and dropout can be put on the residual branches.
Exported weights compute the same function in transformers (dropout off). `mixture.py` makes a mixture of experts
of it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Shape:
    vocab_size: int = 4096
    hidden_size: int = 256
    intermediate_size: int = 768
    layers: int = 8
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    context: int = 512
    rope_theta: float = 10000.0
    eps: float = 1e-5
    head_norms: bool = False

    def to_config(self) -> dict:
        """`config.json`. The model ends a story by starting the next with `<s>`, so both ids end generation."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": 1,
            "dtype": "float16",
            "eos_token_id": [2, 1],
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.hidden_size,
            "initializer_range": 0.02,
            "intermediate_size": self.intermediate_size,
            "max_position_embeddings": self.context,
            "mlp_bias": False,
            "model_type": "llama",
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads,
            "pad_token_id": 0,
            "rms_norm_eps": self.eps,
            "rope_parameters": {"rope_theta": self.rope_theta, "rope_type": "default"},
            "rope_theta": self.rope_theta,
            "tie_word_embeddings": True,
            "use_cache": True,
            "vocab_size": self.vocab_size,
        }


class Norm(nn.Module):
    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x):
        return F.rms_norm(x.float(), (x.shape[-1],), self.weight, self.eps).to(x.dtype)


class Attention(nn.Module):
    def __init__(self, s: Shape):
        super().__init__()
        self.s = s
        self.q_proj = nn.Linear(s.hidden_size, s.heads * s.head_dim, bias=False)
        self.k_proj = nn.Linear(s.hidden_size, s.kv_heads * s.head_dim, bias=False)
        self.v_proj = nn.Linear(s.hidden_size, s.kv_heads * s.head_dim, bias=False)
        self.o_proj = nn.Linear(s.heads * s.head_dim, s.hidden_size, bias=False)
        if s.head_norms:
            self.q_norm, self.k_norm = Norm(s.head_dim, s.eps), Norm(s.head_dim, s.eps)

    def forward(self, x, cos, sin):
        batch, length, _ = x.shape
        shape = (batch, length, -1, self.s.head_dim)
        q, k, v = (p(x).view(shape).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        if self.s.head_norms:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        groups = self.s.heads // self.s.kv_heads
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(y.transpose(1, 2).reshape(batch, length, -1))


class MLP(nn.Module):
    def __init__(self, s: Shape):
        super().__init__()
        self.gate_proj = nn.Linear(s.hidden_size, s.intermediate_size, bias=False)
        self.up_proj = nn.Linear(s.hidden_size, s.intermediate_size, bias=False)
        self.down_proj = nn.Linear(s.intermediate_size, s.hidden_size, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, s: Shape, mlp: nn.Module, dropout: float):
        super().__init__()
        self.input_layernorm = Norm(s.hidden_size, s.eps)
        self.self_attn = Attention(s)
        self.post_attention_layernorm = Norm(s.hidden_size, s.eps)
        self.mlp = mlp
        self.dropout = dropout

    def forward(self, x, cos, sin):
        x = x + F.dropout(self.self_attn(self.input_layernorm(x), cos, sin), self.dropout, self.training)
        return x + F.dropout(self.mlp(self.post_attention_layernorm(x)), self.dropout, self.training)


def rotate(x, cos, sin):
    """Rotary embedding, halves convention; x [batch, heads, length, head_dim], cos, sin [length, head_dim/2]."""
    a, b = x.float().chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(x.dtype)


class Llama(nn.Module):
    def __init__(self, shape: Shape, dropout: float = 0.0):
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(Layer(shape, self.mlp(), dropout) for _ in range(shape.layers))
        self.norm = Norm(shape.hidden_size, shape.eps)
        half = torch.arange(0, shape.head_dim, 2, dtype=torch.float64) / shape.head_dim
        angles = torch.outer(torch.arange(shape.context, dtype=torch.float64), shape.rope_theta**-half)
        self.register_buffer("cos", angles.cos().float(), persistent=False)
        self.register_buffer("sin", angles.sin().float(), persistent=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                residual = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(parameter, std=0.02 / (2 * shape.layers) ** 0.5 if residual else 0.02)

    def mlp(self) -> nn.Module:
        """A new layer's MLP."""
        return MLP(self.shape)

    def forward(self, ids):
        """Logits [batch, length, vocabulary] of ids [batch, length]."""
        x = self.embed_tokens(ids)  # the residual stream stays f32 under autocast
        cos, sin = self.cos[: ids.shape[1]], self.sin[: ids.shape[1]]
        for layer in self.layers:
            x = layer(x, cos, sin)
        return F.linear(self.norm(x), self.embed_tokens.weight)

    def loss(self, ids, reduction: str = "mean"):
        """Cross entropy of each token from those before it; targets that are `<pad>` (0) are not scored."""
        logits = self(ids[:, :-1])
        targets = ids[:, 1:].reshape(-1)
        return F.cross_entropy(
            logits.reshape(len(targets), -1).float(), targets, ignore_index=0, reduction=reduction
        )

    def tensors(self) -> dict[str, torch.Tensor]:
        """Weights by their names in a checkpoint, without `model.` in front."""
        return self.state_dict()

    def export(self, folder: Path) -> None:
        """Write `model.safetensors` (f16), `config.json` and `generation_config.json` for transformers."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {
            f"model.{k}": v.detach().to("cpu", torch.float16).contiguous() for k, v in self.tensors().items()
        }
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "config.json").write_text(json.dumps(self.shape.to_config(), indent=2) + "\n")
        generation = {"bos_token_id": 1, "eos_token_id": [2, 1], "pad_token_id": 0}
        (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
