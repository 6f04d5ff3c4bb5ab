"""A decoder layer of a Llama as a function of its weights, in torch: run for calibration, differentiated in training.

Tensors are named as in a checkpoint, within the layer: `self_attn.q_proj.weight`, `input_layernorm.weight`. The
parts are the references of the kernel library; attention, which there reads a cache, is torch's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext

import torch
import torch.nn.functional as F

from wgsl_kernels.activations import silu_mul
from wgsl_kernels.rms_norm import rms_norm
from wgsl_kernels.rope import inverse_frequencies, rope_table
from workbench.models.llama_config import LlamaConfig

#: Input of linear layers, named as the plan names it -> the linear layers that read it.
GROUPS: dict[str, tuple[str, ...]] = {
    "attn.input": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attn.context": ("self_attn.o_proj",),
    "mlp.input": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.hidden": ("mlp.down_proj",),
}

Weights = Mapping[str, torch.Tensor]
#: Called as tap(group, x) with the inputs of each group of linear layers, x [n, T, K].
Tap = Callable[[str, torch.Tensor], None]


def normalised(config: LlamaConfig, hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Root mean square normalisation of hidden [..., hidden_size]."""
    return rms_norm.reference(hidden, weight, config.norm_eps)


class Decoder:
    """Runs decoder layers on sequences that begin at position 0."""

    def __init__(self, config: LlamaConfig, length: int, device: str | torch.device = "cpu"):
        self.config = config
        frequencies = inverse_frequencies(config.head_dim, config.rope_theta, config.rope_scaling)
        table = torch.from_numpy(rope_table(frequencies, length)).to(device)
        self._cos, self._sin = table[:, None].chunk(2, dim=-1)  # [length, 1, head_dim / 2]

    def __call__(self, weights: Weights, hidden: torch.Tensor, tap: Tap | None = None) -> torch.Tensor:
        """hidden [n, T, hidden_size] -> the same shape; T is at most the `length` given."""
        tap = tap or (lambda group, x: None)
        x = normalised(self.config, hidden, weights["input_layernorm.weight"])
        tap("attn.input", x)
        context = self._attention(weights, x)
        tap("attn.context", context)
        hidden = hidden + _linear(weights, "self_attn.o_proj", context)
        x = normalised(self.config, hidden, weights["post_attention_layernorm.weight"])
        tap("mlp.input", x)
        gate, up = (_linear(weights, f"mlp.{part}_proj", x) for part in ("gate", "up"))
        x = silu_mul.reference(gate, up)
        tap("mlp.hidden", x)
        return hidden + _linear(weights, "mlp.down_proj", x)

    def _attention(self, weights: Weights, x: torch.Tensor) -> torch.Tensor:
        n, length, _ = x.shape
        q, k, v = (
            _linear(weights, f"self_attn.{part}_proj", x).view(n, length, heads, self.config.head_dim)
            for part, heads in zip(
                "qkv", (self.config.heads, self.config.kv_heads, self.config.kv_heads), strict=True
            )
        )
        q, k, v = (each.transpose(1, 2) for each in (self._rotated(q), self._rotated(k), v))
        grouped = self.config.heads != self.config.kv_heads
        with _repeatable(x):
            context = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
        return context.transpose(1, 2).reshape(n, length, -1)

    def _rotated(self, x: torch.Tensor) -> torch.Tensor:
        """Rotary embedding of x [n, T, heads, head_dim], in the half-split form of `wgsl_kernels.rope`."""
        cos, sin = self._cos[: x.shape[1]], self._sin[: x.shape[1]]
        a, b = x.chunk(2, dim=-1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def _linear(weights: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    return F.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))


def _repeatable(x: torch.Tensor):
    """Attention whose gradients are the same in every run: on CUDA the fused kernels add them in any order."""
    if not (x.is_cuda and torch.is_grad_enabled()):
        return nullcontext()
    from torch.nn.attention import SDPBackend, sdpa_kernel

    return sdpa_kernel(SDPBackend.MATH)
