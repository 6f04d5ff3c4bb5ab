"""Small GGUF files, written by the `gguf` package from random weights of a Hugging Face model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from tokenizers.pre_tokenizers import ByteLevel

from tests.models.checkpoints import CONFIG, random_state

MERGES = ["Ġ Ġ", "h e", "Ġ t", "Ġt he", "i n"]
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TOKENS = [*CONTROL, *sorted(ByteLevel.alphabet()), *(merge.replace(" ", "") for merge in MERGES)]
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}"
LLAMA: dict[str, Any] = CONFIG | {
    "vocab_size": len(TOKENS),
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "head_dim": 16,
    "tie_word_embeddings": True,
}
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
Kind = gguf.GGMLQuantizationType


def neighbours(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows in the order of GGUF: i and i + head_dim / 2 of each head become neighbours."""
    per_head = np.split(rows, heads)
    return np.concatenate([np.stack(np.split(head, 2), 1).reshape(head.shape) for head in per_head])


def mostly_q4_1(name: str, values: np.ndarray) -> tuple[np.ndarray, Kind]:
    """Matrices in Q4_1, the embedding in Q8_0."""
    return quantized(name, values, Kind.Q8_0 if "embed" in name else Kind.Q4_1)


def quantized(name: str, values: np.ndarray, kind: Kind) -> tuple[np.ndarray, Kind]:
    kind = kind if values.ndim == 2 else Kind.F32
    return gguf.quantize(values, kind), kind


def random_blocks(values: np.ndarray, kind: Kind, rng: np.random.Generator) -> np.ndarray:
    """Rows of any type, of random bytes whose weights are finite: of types that `gguf` reads and does not write."""
    weights, nbytes = gguf.GGML_QUANT_SIZES[kind]
    blocks = np.empty((values.size // weights, nbytes), np.uint8)
    wrong = np.ones(len(blocks), bool)
    while wrong.any():
        blocks[wrong] = rng.integers(0, 256, (wrong.sum(), nbytes), np.uint8)
        with np.errstate(all="ignore"):
            wrong = ~np.isfinite(gguf.dequantize(blocks, kind)).all(1)
    return blocks.reshape(len(values), -1)


def write_gguf(
    path: Path,
    config: Mapping[str, Any] = LLAMA,
    store: Callable[[str, np.ndarray], tuple[np.ndarray, Kind]] = mostly_q4_1,
    extra: Mapping[str, np.ndarray] | None = None,
    split: int = 0,
    state: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Path:
    """A model of two layers. store: bytes and type of a tensor by its name in the checkpoint; extra: tensors by their
    GGUF names; split: tensors a shard; state: weights, else random ones; changes: of the metadata."""
    architecture = changes.pop("architecture", "llama")
    writer = gguf.GGUFWriter(path, architecture, split_max_tensors=split)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(changes.pop("pre", "smollm"))
    writer.add_token_list(TOKENS)
    writer.add_token_types([3] * len(CONTROL) + [1] * (len(TOKENS) - len(CONTROL)))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template(TEMPLATE)
    kinds = {
        str: gguf.GGUFValueType.STRING,
        int: gguf.GGUFValueType.UINT32,
        float: gguf.GGUFValueType.FLOAT32,
    }
    for name, value in changes.items():
        writer.add_key_value(name.replace("__", "."), value, kinds[type(value)])
    for name, value in (state or random_state(dict(config))).items():
        module, _, what = name.rpartition(".")
        layer, _, own = module.removeprefix("model.layers.").partition(".")
        own, before = (own, f"blk.{layer}.") if layer.isdigit() else (module, "")
        values = value.float().numpy()
        if architecture == "llama" and own.endswith(("q_proj", "k_proj")):
            values = neighbours(
                values, config["num_attention_heads" if "q_" in own else "num_key_value_heads"]
            )
        data, kind = store(name, values)
        writer.add_tensor(f"{before}{NAMES[own]}.{what}", data, raw_dtype=kind)
    for name, values in (extra or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
