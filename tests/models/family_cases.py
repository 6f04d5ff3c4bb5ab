"""Random checkpoints of every family, with configurations that exercise what is special to it, and transformers in f64
as the oracle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from tests.eval.conftest import byte_tokenizer

#: Long enough for windows to cut, and for more than one step.
LENGTH = 70
SMALL = {
    "vocab_size": 259,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
#: Llama 4 without experts, and what its mixtures have in common: chunks and a temperature that bite.
DENSE = {"moe_layers": [], "intermediate_size_mlp": 96}
BITING = {"attention_chunk_size": 16, "floor_scale": 8, "no_rope_layer_interval": 2, "head_dim": 16}
MIXED = ["sliding_attention", "full_attention", "sliding_attention"]


def longrope(rotated: int, original: int, context: int, part: float = 1.0) -> dict:
    """LongRoPE with factors far from 1; rotated: channels of a head that are."""
    pairs = range(rotated // 2)
    return {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1 + 0.1 * pair for pair in pairs],
        "long_factor": [2 + 0.9 * pair for pair in pairs],
        "original_max_position_embeddings": original,
        "factor": context / original,
        "partial_rotary_factor": part,
    }


#: Family -> what its configurations say beside `SMALL`; the first is used for all that is not about logits.
CASES: dict[str, tuple[dict, ...]] = {
    "mistral": (
        {"sliding_window": 9, "head_dim": 32},
        {"sliding_window": 33, "num_key_value_heads": 4, "tie_word_embeddings": True},
        {"sliding_window": None, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
    ),
    "qwen2": (
        {},
        {"tie_word_embeddings": True, "num_key_value_heads": 4, "rope_parameters": LLAMA3},
        {"use_sliding_window": True, "sliding_window": 11, "max_window_layers": 2},
        {"use_sliding_window": True, "sliding_window": 6, "layer_types": MIXED},
    ),
    "qwen3": (
        {"head_dim": 32, "rms_norm_eps": 1e-2},
        {"head_dim": 16, "attention_bias": True, "tie_word_embeddings": True, "num_key_value_heads": 4},
        {"head_dim": 24, "use_sliding_window": True, "sliding_window": 7, "layer_types": MIXED},
        {"head_dim": 8, "use_sliding_window": True, "sliding_window": 20, "max_window_layers": 1},
    ),
    "llama4_text": (
        {**BITING, "intermediate_size_mlp": 80, "interleave_moe_layer_step": 2, "num_local_experts": 4},
        {
            "head_dim": 32,
            **DENSE,
            "attention_chunk_size": 16,
            "floor_scale": 8,
            "no_rope_layer_interval": 2,
        },
        {
            "head_dim": 16,
            **DENSE,
            "attention_chunk_size": 40,
            "no_rope_layers": [0, 1, 0],
            "floor_scale": 3,
        },
        {
            "head_dim": 24,
            **DENSE,
            "use_qk_norm": False,
            "attn_temperature_tuning": False,
            "no_rope_layer_interval": 3,
            "tie_word_embeddings": True,
            "rope_parameters": LLAMA3,
        },
        {**BITING, "intermediate_size_mlp": 80, "num_local_experts": 16, "num_experts_per_tok": 2},
        {
            **BITING,
            "intermediate_size": 72,
            "intermediate_size_mlp": 80,
            "moe_layers": [0, 2],
            "num_local_experts": 2,
            "num_experts_per_tok": 2,
            "rope_parameters": LLAMA3,
        },
    ),
    "mixtral": (
        {"num_local_experts": 4, "num_experts_per_tok": 2},
        {"num_local_experts": 8, "num_experts_per_tok": 3, "head_dim": 24, "sliding_window": 9},
        {
            "num_local_experts": 2,
            "num_experts_per_tok": 1,
            "intermediate_size": 72,
            "tie_word_embeddings": True,
        },
    ),
    "qwen3_moe": (
        {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 32, "decoder_sparse_step": 2},
        {
            "num_experts": 16,
            "num_experts_per_tok": 4,
            "moe_intermediate_size": 40,
            "norm_topk_prob": True,
            "mlp_only_layers": [1],
            "head_dim": 24,
            "rms_norm_eps": 1e-2,
        },
        {
            "num_experts": 4,
            "num_experts_per_tok": 1,
            "moe_intermediate_size": 64,
            "use_sliding_window": True,
            "sliding_window": 11,
            "attention_bias": True,
            "tie_word_embeddings": True,
        },
    ),
    "smollm3": (
        {"no_rope_layer_interval": 2},
        {"no_rope_layers": [0, 1, 0], "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
        {"no_rope_layer_interval": 3, "use_sliding_window": True, "sliding_window": 8},
    ),
    "granite": (
        {
            "embedding_multiplier": 12.0,
            "attention_multiplier": 0.4,
            "residual_multiplier": 0.22,
            "logits_scaling": 8.0,
        },
        {"residual_multiplier": 1.7, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
        {"embedding_multiplier": 0.1, "logits_scaling": 0.3, "num_key_value_heads": 4},
    ),
    "olmo2": (
        {"rms_norm_eps": 1e-3},
        {"num_key_value_heads": 4, "attention_bias": True, "tie_word_embeddings": True},
        {"num_attention_heads": 2, "num_key_value_heads": 1, "rope_parameters": LLAMA3},
    ),
    "phi3": (
        {"sliding_window": 11, "num_key_value_heads": 4},
        {"hidden_size": 96, "rope_parameters": longrope(24, 16, 128), "original_max_position_embeddings": 16},
        {"rope_parameters": longrope(12, 96, 128, 0.75), "original_max_position_embeddings": 96},
    ),
    "gemma2": (
        {"head_dim": 32, "sliding_window": 9, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
        {"head_dim": 16, "query_pre_attn_scalar": 6, "tie_word_embeddings": True, "attention_bias": True},
        {"head_dim": 24, "layer_types": MIXED, "sliding_window": 21, "attn_logit_softcapping": None},
        {"head_dim": 16, "final_logit_softcapping": None, "num_key_value_heads": 4},
    ),
    "gemma3_text": (
        {"head_dim": 32, "sliding_window": 9, "layer_types": MIXED},
        {
            "head_dim": 16,
            "sliding_window": 12,
            "tie_word_embeddings": True,
            "query_pre_attn_scalar": 5,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5e4},
                "sliding_attention": {"rope_type": "default", "rope_theta": 300.0},
            },
        },
        {"head_dim": 24, "sliding_window": 300, "layer_types": MIXED, "final_logit_softcapping": 2.0},
    ),
}
#: Families whose stacks of experts have rows of outputs, where transformers has them.
OUTPUTS_FIRST = ("mixtral", "qwen3_moe")
#: Families whose files hold what a Llama reads, and nothing else.
LIKE_LLAMA = ("mistral", "smollm3", "granite")
IDS = [(family, index) for family, cases in CASES.items() for index in range(len(cases))]


def config_of(family: str, index: int = 0) -> dict:
    return {"model_type": family, **SMALL, **CASES[family][index]}


def write_family(folder: Path, family: str, index: int = 0, seed: int = 0) -> Path:
    """A checkpoint as transformers saves it: matrices of deviation 1/sqrt(K), norms far from 1, biases of 0.3."""
    from transformers import AutoConfig, AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config_of(family, index)))
    randomise(model, family, seed)
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def randomise(model: torch.nn.Module, family: str, seed: int = 0) -> None:
    """Weights that matter: those that transformers begins with hardly do."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith("bias"):
                value.copy_(0.3 * torch.randn(value.shape, generator=generator))
            elif value.ndim == 1:
                value.copy_(1.6 * torch.rand(value.shape, generator=generator) + 0.2)
            else:
                inputs = value.shape[-1 if family in OUTPUTS_FIRST else 1]
                value.copy_(torch.randn(value.shape, generator=generator) / inputs**0.5)


def oracle_of(folder: Path, dtype=torch.float64):
    from transformers import AutoModelForCausalLM

    eager = {"attn_implementation": "eager", "experts_implementation": "eager"}
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **eager).eval()


def oracle_logits(folder: Path, ids: np.ndarray) -> np.ndarray:
    """Logits f64 [tokens, vocab]."""
    with torch.inference_mode():
        return oracle_of(folder)(torch.as_tensor(ids)[None]).logits[0].numpy()
