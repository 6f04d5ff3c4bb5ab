"""Small folders of MLC's: names, stacks and the list of tensors as its converter writes them, not by the reader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.models.checkpoints import random_state
from tests.support.foreign import SIZES, along_rows

STACKED = {"self_attn.q_proj": "self_attn.qkv_proj", "mlp.gate_proj": "mlp.gate_up_proj"}
INTO = {"self_attn.k_proj", "self_attn.v_proj", "mlp.up_proj"}


def rounded(w: np.ndarray, dtype: type = np.float16) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """q_weight and q_scale of a matrix, and its weights in f32."""
    groups = w.reshape(len(w), -1, 32)
    scales = (np.abs(groups).max(2) / 7).astype(dtype)
    s = scales.astype(np.float32)[..., None]
    q = np.clip(np.rint(groups / s) + 7, 0, 14).astype(int)
    parts = {"q_weight": along_rows(q.reshape(w.shape), 4).view("<u4"), "q_scale": scales}
    return parts, ((q - 7).astype(np.float32) * s).reshape(w.shape)


def write_mlc(
    folder: Path,
    mode: str = "q4f16_1",
    config: dict[str, Any] = SIZES,
    shard: int = 20_000,
    cache: str = "ndarray-cache.json",
    **told: Any,
) -> dict[str, np.ndarray]:
    """A folder of shards of about so many bytes; returns every tensor's weights in f32, by names in a checkpoint.

    told: other values in mlc-chat-config.json. A config of Qwen has `c_attn` for `qkv_proj`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    float_type = np.float32 if mode == "q4f32_1" else np.float16
    state = {name: value.float().numpy() for name, value in random_state(SIZES | config).items()}
    tensors: dict[str, np.ndarray] = {}
    weights: dict[str, np.ndarray] = {}
    for name, w in state.items():
        module = name.removesuffix(".weight")
        own = module.split(".", 3)[-1]
        if own in INTO:
            continue
        names = [name]
        if own in STACKED:
            parts = ("q", "k", "v") if own.startswith("self") else ("gate", "up")
            names = [name.replace(f"{parts[0]}_proj", f"{part}_proj") for part in parts]
            w = np.concatenate([state[each] for each in names])
            module = module.replace(own, STACKED[own])
            if config["model_type"].startswith("qwen"):
                module = module.replace("qkv_proj", "c_attn")
        if w.ndim == 1 or (mode == "q4f16_2" and "embed" in name):
            tensors[name] = w.astype(float_type)
            weights[name] = tensors[name].astype(np.float32)
            continue
        packed, whole = rounded(w, float_type)
        tensors |= {f"{module}.{part}": values for part, values in packed.items()}
        ends = np.cumsum([len(state[each]) for each in names])[:-1]
        weights |= dict(zip(names, np.split(whole, ends), strict=True))
    records: list[dict[str, Any]] = []
    data = b""
    for name, values in tensors.items():
        if not records or len(data) > shard:
            data = b""
            records.append(
                {"dataPath": f"params_shard_{len(records)}.bin", "format": "raw-shard", "records": []}
            )
        raw, form = values.tobytes(), "raw"
        if values.dtype == np.float32:  # bf16 where nothing is lost: f32 is shortened
            form = "f32-to-bf16"
            bits = values.view(np.uint32) >> 16 << 16
            raw = (bits >> 16).astype(np.uint16).tobytes()
            if name in weights:
                weights[name] = bits.view(np.float32)
        records[-1]["records"].append(
            {"name": name, "shape": list(values.shape), "dtype": values.dtype.name, "format": form,
             "nbytes": len(raw), "byteOffset": len(data)}
        )  # fmt: skip
        data += raw
        records[-1]["nbytes"] = len(data)
        (folder / records[-1]["dataPath"]).write_bytes(data)
    (folder / cache).write_text(json.dumps({"metadata": {"ParamSize": len(tensors)}, "records": records}))
    same = (
        "hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "num_key_value_heads",
        "head_dim", "rms_norm_eps", "vocab_size", "tie_word_embeddings",
    )  # fmt: skip
    model = {name: config[name] for name in same if name in config}
    model |= {
        "position_embedding_base": config["rope_theta"],
        "context_window_size": config["max_position_embeddings"],
    }
    if window := config.get("sliding_window"):
        model |= {"context_window_size": -1, "sliding_window_size": window, "attention_sink_size": 4}
    model |= {"prefill_chunk_size": 64, "tensor_parallel_shards": 1, "max_batch_size": 1}
    chat = {
        "version": "0.1.0",
        "model_type": config["model_type"],
        "quantization": mode,
        "model_config": model,
    }
    chat |= {"bos_token_id": 1, "eos_token_id": [2], "temperature": 0.7, "conv_template": {}}
    (folder / "mlc-chat-config.json").write_text(json.dumps(chat | told))
    return weights
