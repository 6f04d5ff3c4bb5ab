"""StreamingLLM (Xiao et al. 2023) written as the paper says it, a token at a time in f64: keys are kept unrotated, and
queries and keys are rotated by their places in the cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file


def rotated(x: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """x [heads, n, d], each of n at its place."""
    half = x.shape[-1] // 2
    angles = places[:, None].double() * 10000.0 ** (-torch.arange(half).double() / half)
    cos, sin = angles.cos(), angles.sin()
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def normed(x: torch.Tensor, weight: torch.Tensor, eps: float = 1e-5) -> torch.Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def streamed_logits(
    path: Path, ids: np.ndarray, heads: int, kv_heads: int, window: int, sinks: int
) -> np.ndarray:
    """Logits f64 [tokens, vocab] of a Llama without biases and with plain rotary embeddings."""
    w = {name.removeprefix("model."): x.double() for name, x in load_file(path / "model.safetensors").items()}
    layers = 1 + max(int(name.split(".")[1]) for name in w if name.startswith("layers."))
    parts = [
        {k.removeprefix(f"layers.{n}."): v for k, v in w.items() if k.startswith(f"layers.{n}.")}
        for n in range(layers)
    ]
    kept: list[list[tuple[torch.Tensor, torch.Tensor]]] = [[] for _ in range(layers)]
    found = []
    for token in ids.tolist():
        x = w["embed_tokens.weight"][token]
        for n, part in enumerate(parts):
            h = normed(x, part["input_layernorm.weight"])
            q, k, v = (part[f"self_attn.{p}_proj.weight"] @ h for p in "qkv")
            q, k, v = q.view(heads, -1), k.view(kv_heads, -1), v.view(kv_heads, -1)
            kept[n].append((k, v))
            if len(kept[n]) > sinks + window:
                del kept[n][sinks]  # the oldest that is no sink
            keys, values = (
                torch.stack(each, 1).repeat_interleave(heads // kv_heads, 0)
                for each in zip(*kept[n], strict=True)
            )
            places = torch.arange(keys.shape[1])
            scores = rotated(q[:, None], places[-1:]) @ rotated(keys, places).transpose(1, 2)
            weights = (scores * q.shape[1] ** -0.5).softmax(-1)
            x = x + part["self_attn.o_proj.weight"] @ (weights @ values).flatten()
            h = normed(x, part["post_attention_layernorm.weight"])
            gate, up = (part[f"mlp.{p}_proj.weight"] @ h for p in ("gate", "up"))
            x = x + part["mlp.down_proj.weight"] @ (torch.nn.functional.silu(gate) * up)
        found.append(w["lm_head.weight"] @ normed(x, w["norm.weight"]))
    return torch.stack(found).numpy()
