"""A Llama in a GGUF file as a Hugging Face checkpoint: config.json, model.safetensors in f16, tokenizer, chat template.

Formats are read and dequantized by the `gguf` package. GGUF keeps the rows of q and k in the order that its rotary
embedding wants, which is undone; a file's metadata is understood key by key, or refused.
Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import json
import re
import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from workbench.errors import CheckpointError, UnsupportedModelError
from workbench.models.hub import WEIGHTS

#: Metadata of a Llama by its key without `llama.`, and what it is in config.json.
CONFIG = {
    "vocab_size": "vocab_size",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "block_count": "num_hidden_layers",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "rope.dimension_count": "head_dim",
    "context_length": "max_position_embeddings",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
}
#: Ids by their key without `tokenizer.ggml.`, and the token's name for transformers; config.json has that with `_id`.
IDS = {
    "bos_token_id": "bos_token",
    "eos_token_id": "eos_token",
    "padding_token_id": "pad_token",
    "unknown_token_id": "unk_token",
}
#: Values that a tokenizer's metadata must have: a byte-level BPE that splits digits and adds nothing.
TOKENIZER = {"model": "gpt2", "pre": "smollm", "add_bos_token": False, "add_space_prefix": False}
TENSOR = re.compile(r"(?:blk\.(?P<layer>\d+)\.)?(?P<own>\w+)\.weight")
#: Of a tensor: what it is called here, and in a Hugging Face checkpoint.
NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
#: `tokenizer.ggml.token_type` of tokens that are no text.
CONTROL = 3


def read_gguf(file: Path) -> tuple[dict[str, bytes], dict[str, int]]:
    """The files of the checkpoint by name, and how many tensors there are of each GGUF type, the most first.

    Raises CheckpointError for a damaged file, UnsupportedModelError naming a key or a tensor that is not understood.
    """
    import gguf
    from safetensors.numpy import save

    try:
        reader = gguf.GGUFReader(file)
        metadata = {name: field.contents() for name, field in reader.fields.items()}
    except (ValueError, IndexError, KeyError, OverflowError, struct.error) as error:
        raise CheckpointError(f"{file.name}: not a whole GGUF file: {error}") from error
    config = _config(metadata, {tensor.name for tensor in reader.tensors}, file.name)
    tensors = dict(_tensors(reader.tensors, config, file.name))
    files = {
        "config.json": _json(config),
        **_tokenizer(metadata, file.name),
        WEIGHTS: save(tensors, metadata={"format": "pt"}),
    }
    return files, dict(Counter(tensor.tensor_type.name for tensor in reader.tensors).most_common())


def _json(values: dict[str, Any]) -> bytes:
    return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()


def _config(metadata: dict[str, Any], tensors: set[str], where: str) -> dict[str, Any]:
    """config.json of the metadata."""
    architecture = metadata.get("general.architecture")
    if architecture != "llama":
        raise UnsupportedModelError(f"{where}: general.architecture is {architecture!r}; allowed: 'llama'")
    found = _under("llama.", metadata, CONFIG, {}, where)
    # Numbers are stored as f32: 1e-5 is recovered from 9.999999747378752e-06.
    values = {
        CONFIG[name]: float(str(np.float32(value))) if isinstance(value, float) else value
        for name, value in found.items()
    }
    ids = {f"{role}_id": metadata.get(f"tokenizer.ggml.{name}") for name, role in IDS.items()}
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **values,
        "tie_word_embeddings": "output.weight" not in tensors,
        "dtype": "float16",
        **{name: value for name, value in ids.items() if value is not None},
    }


def _under(
    prefix: str, metadata: dict[str, Any], needed: Iterable[str], optional: Iterable[str], where: str
) -> dict[str, Any]:
    """What of the metadata begins with the prefix, without it. Raises UnsupportedModelError for what is neither needed
    nor optional, and for what is missing."""
    found = {name.removeprefix(prefix): value for name, value in metadata.items() if name.startswith(prefix)}
    allowed = {*needed, *optional}
    if unknown := sorted(found.keys() - allowed):
        names = ", ".join(prefix + name for name in sorted(allowed))
        raise UnsupportedModelError(f"{where}: {prefix}{unknown[0]} is not understood; allowed: {names}")
    if missing := sorted(set(needed) - found.keys()):
        raise UnsupportedModelError(f"{where}: {prefix}{missing[0]} is missing")
    return found


def _tensors(stored: Any, config: dict[str, Any], where: str) -> Iterator[tuple[str, np.ndarray]]:
    """Names of a Hugging Face Llama, and values in f16."""
    import gguf

    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    for tensor in stored:
        match = TENSOR.fullmatch(tensor.name)
        if match is None or match["own"] not in NAMES:
            raise UnsupportedModelError(f"{where}: tensor {tensor.name!r} is not one of a Llama")
        own, layer = match["own"], match["layer"]
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        if own in heads:
            values = rows_of_halves(values, heads[own])
        largest = np.abs(values).max()
        if not largest <= np.finfo(np.float16).max:  # also NaN
            raise CheckpointError(f"{where}: tensor {tensor.name!r} holds {largest}, which f16 does not")
        yield f"{f'model.layers.{layer}.' if layer else ''}{NAMES[own]}.weight", values.astype(np.float16)


def rows_of_halves(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows of q or k [heads * head_dim, columns] from GGUF's order, which rotates neighbours (2i, 2i + 1), to that of
    transformers, which rotates (i, i + head_dim / 2)."""
    head_dim = rows.shape[0] // heads
    return rows.reshape(heads, head_dim // 2, 2, -1).swapaxes(1, 2).reshape(rows.shape)


def _tokenizer(metadata: dict[str, Any], where: str) -> dict[str, bytes]:
    """tokenizer.json, tokenizer_config.json and chat_template.jinja."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    needed = ("model", "pre", "tokens", "token_type", "merges")
    found = _under("tokenizer.ggml.", metadata, needed, (*TOKENIZER, *IDS), where)
    for name, wanted in TOKENIZER.items():
        if found.get(name, False) != wanted:
            raise UnsupportedModelError(
                f"{where}: tokenizer.ggml.{name} is {found.get(name)!r}; allowed: {wanted!r}"
            )
    tokens = found["tokens"]
    merges = [tuple(merge.split(" ")) for merge in found["merges"]]
    tokenizer = Tokenizer(models.BPE({token: at for at, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, found["token_type"], strict=True) if kind == CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    special = {role: tokens[found[name]] for name, role in IDS.items() if name in found}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        **special,
    }
    files = {
        "tokenizer.json": tokenizer.to_str(pretty=True).encode(),
        "tokenizer_config.json": _json(settings),
    }
    if template := metadata.get("tokenizer.chat_template"):
        files["chat_template.jinja"] = template.encode()
    return files
