"""Writing a dense decoder as ONNX, for onnxruntime and onnxruntime-genai: integers as MatMulNBits, the rest in f32.

The folder has `model.onnx`, and `model.onnx.data` where the whole is more than protobuf holds; config.json, which says
what is inside to readers of weights; genai_config.json, which says so to onnxruntime-genai; and the tokenizer.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from workbench.errors import WorkbenchError
from workbench.files.writing import json_bytes
from workbench.models.families import architecture_of
from workbench.models.float_checkpoint import tokenizer_files
from workbench.models.foreign.onnx_file import MOST_BYTES, require_onnx
from workbench.models.foreign.onnx_graph import DecoderGraph, Initializers
from workbench.models.foreign.onnx_model import KNOWN
from workbench.models.foreign.onnx_weights import block_of, offsets_of
from workbench.models.source import Source

FILE = "model.onnx"
#: Types of the inputs of products, and the `accuracy_level` that asks for each.
LEVELS = {"f32": 1, "int8": 4}
#: Of that, nodes and names take less.
_NODES = 64 << 20
#: Weights up to here are in the file itself.
INSIDE_BYTES = MOST_BYTES - _NODES
#: What GroupQueryAttention asks of the size of a head that it rotates.
_HEAD = 16
_SEARCH = ("do_sample", "temperature", "top_k", "top_p", "repetition_penalty")


def check(source: Source, floats: str | None) -> None:
    """Raise WorkbenchError for what an ONNX file of this kind cannot hold, and where the package onnx is missing."""
    require_onnx("export: ONNX files are written")
    if floats not in (None, "f32"):
        raise WorkbenchError(
            f"export: floats = {floats!r}: an ONNX graph of onnxruntime's CPU provider computes in f32, and has its "
            "floats so; allowed: f32, or none"
        )
    if (kind := source.config.get("model_type")) not in KNOWN:
        raise WorkbenchError(f"export: onnx is written of {', '.join(KNOWN)}; this is {kind}")
    model: Any = architecture_of(source.config)  # all of KNOWN are dense
    if model.head_dim % _HEAD:
        raise WorkbenchError(
            f"export: onnx has no rotation for heads of {model.head_dim}; what fits: multiples of {_HEAD}"
        )
    for name in source.names():
        shape, fmt = source.describe(name)
        if not fmt.is_quantized:
            continue
        why, fits = "", "int2, int4 and int8, blocks of any size, whole zero-points or offsets, or floats"
        if fmt.offset and shape[1] % block_of(fmt, shape[1]):
            why, fits = f"it has offsets, and blocks that do not divide rows of {shape[1]}", "blocks that do"
        elif fmt.offset and offsets_of(source.tensor(name)) is None:
            why = "its offsets are not f32 beside integers from 0 up"
        elif fmt.zero_frac_bits and name == model.embedding:
            why = "its zero-points have fractions, which a table's have not"
        elif fmt.zero_frac_bits and fmt.scale_dtype != "f16":
            why = "its zero-points have fractions, and products with scales in f32 are rounded"
        if why:
            raise WorkbenchError(f"export: onnx cannot hold {name} ({fmt}): {why}; what fits: {fits}")


def write_onnx(source: Source, folder: Path, activations: str) -> list[str]:
    """Write a source that `check` let pass into a folder that is there; returns the names of the files.

    activations: one of `LEVELS`. Raises OSError.
    """
    beside = folder / f"{FILE}.data" if _nbytes(source) > INSIDE_BYTES else None
    model: Any = architecture_of(source.config)
    proto = DecoderGraph(source, model, Initializers(beside), LEVELS[activations]).proto()
    config = {name: value for name, value in source.config.items() if name != "torch_dtype"}
    files = tokenizer_files(source)
    generation = json.loads(files.get("generation_config.json", b"{}"))
    files |= {
        FILE: proto.SerializeToString(),
        "config.json": json_bytes(config | {"dtype": "float32"}),
        "genai_config.json": json_bytes(_genai(model, config, generation)),
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return [*files, *([beside.name] if beside is not None else [])]


def _nbytes(source: Source) -> int:
    """Bytes of all tensors in the file, at most."""
    total = 0
    for name in source.names():
        shape, fmt = source.describe(name)
        if fmt.is_quantized:
            # Blocks of 32, f32 beside each twice, and at most a byte.
            total += math.prod(shape[:-1]) * -(-shape[-1] // 32) * (4 * fmt.bits + 9)
        else:
            total += 4 * math.prod(shape)
    model: Any = architecture_of(source.config)
    return total + 4 * model.context_length * model.head_dim


def _genai(model: Any, config: dict[str, Any], generation: dict[str, Any]) -> dict[str, Any]:
    """genai_config.json: what onnxruntime-genai asks of a decoder, and how it samples unless told otherwise."""
    said = {**config, **{name: value for name, value in generation.items() if value is not None}}
    ends = said.get("eos_token_id")
    first = ends[0] if isinstance(ends, list) and ends else ends
    ids = {
        "bos_token_id": said.get("bos_token_id"),
        "eos_token_id": ends,
        "pad_token_id": said["pad_token_id"] if said.get("pad_token_id") is not None else first,
    }
    return {
        "model": {
            **{name: value for name, value in ids.items() if value is not None},
            "context_length": model.context_length,
            "decoder": {
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
                "filename": FILE,
                "head_size": model.head_dim,
                "hidden_size": model.hidden_size,
                "inputs": {
                    "input_ids": "input_ids",
                    "attention_mask": "attention_mask",
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value",
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
                "num_attention_heads": model.heads,
                "num_hidden_layers": model.layers,
                "num_key_value_heads": model.kv_heads,
            },
            "type": config["model_type"],
            "vocab_size": model.vocab_size,
        },
        "search": {
            "max_length": model.context_length,
            "past_present_share_buffer": True,
            **{name: generation[name] for name in _SEARCH if generation.get(name) is not None},
        },
    }
