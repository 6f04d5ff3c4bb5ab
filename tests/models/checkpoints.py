"""Small random Llama checkpoints, written by transformers and safetensors as real ones are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 172,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}


#: Tensors that mean nothing to a model of two layers, by name.
STRAYS = {
    "model.layers.2.self_attn.q_proj.weight": torch.full((48, 48), 7.0),
    "model.layers.17.mlp.up_proj.bias": torch.full((172,), 7.0),
    "model.layers.0.self_attn.q_proj.lora_A.weight": torch.full((4, 48), 7.0),
    "model.layers.0.mlp.up_proj.lora_B.default.weight": torch.full((172, 4), 7.0),
    "model.layers.0.self_attn.rotary_emb.inv_freq": torch.full((4,), 7.0),
    "model.layers.0.self_attn.masked_bias": torch.tensor(-1e4),
    "model.layers.0.self_attn.bias": torch.ones(1, 1, 8, 8),
    "model.layers.0.attn.bias": torch.ones(1, 1, 8, 8, dtype=torch.bool),
    "model.layers.0.counter": torch.arange(5),
    "model.layers.0.self_attn.k_scale": torch.tensor(0.5),
    "model.layers.0.self_attn.v_scale": torch.tensor([0.5], dtype=torch.bfloat16),
    "model.position_ids": torch.arange(64)[None],
    "v_head.summary.weight": torch.full((1, 48), 7.0),
    "steps": torch.tensor(3, dtype=torch.int64),
}


def random_state(config: dict, dtype=torch.float32, seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights of standard deviation 1/sqrt(K), norms in [0.5, 1.5], named as LlamaForCausalLM names them."""
    from transformers import LlamaConfig, LlamaForCausalLM

    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, value in LlamaForCausalLM(LlamaConfig(**config)).state_dict().items():
        if name == "lm_head.weight" and config["tie_word_embeddings"]:
            continue
        if value.ndim == 1:
            made = torch.rand(value.shape, generator=generator) + 0.5
        else:
            made = torch.randn(value.shape, generator=generator) / value.shape[1] ** 0.5
        state[name] = made.to(dtype)
    return state


def write_checkpoint(
    folder: Path, state: dict[str, torch.Tensor], config: dict, shards: int = 1, tokenizer: Path | None = None
) -> Path:
    """A checkpoint folder with one file, or with shards and their index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if shards == 1:
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    else:
        weight_map = {}
        for index in range(shards):
            file = f"model-{index + 1:05}-of-{shards:05}.safetensors"
            names = sorted(state)[index::shards]
            save_file({n: state[n] for n in names}, folder / file, metadata={"format": "pt"})
            weight_map |= dict.fromkeys(names, file)
        index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    if tokenizer is not None:
        for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
            if (tokenizer / name).is_file():
                shutil.copy(tokenizer / name, folder / name)
    return folder
