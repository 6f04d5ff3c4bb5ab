"""Writing a model as a GGUF file, by the `gguf` package: what Q4_0, Q4_1, Q8_0 and floats hold exactly.

A matrix goes into the smaller type that holds its q - z: Q4_0 from -8 to 7, Q8_0 from -128 to 127; one with offsets
and at most 4 bits into Q4_1. All have blocks of 32 with scales in f16; larger blocks repeat theirs. The tokenizer is
written where reading it back gives the same one.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from workbench.errors import WorkbenchError
from workbench.files.writing import written_whole
from workbench.formats.spec import WeightFormat
from workbench.formats.tensor import WeightTensor, float_tensor
from workbench.models.families import architecture_of
from workbench.models.foreign import gguf_config, gguf_tokenizer
from workbench.models.foreign.gguf_blocks import packed_q4_0, packed_q4_1, packed_q8_0
from workbench.models.source import Source
from workbench.models.tokenizer import load_tokenizer

_FITS = (
    "int4/32/sym (Q4_0), int4/32/offset (Q4_1), int8/32/sym (Q8_0), blocks that are multiples of 32, scales that f16 "
    "holds, or floats"
)
_FLOATS = {"f32": "F32", "f16": "F16", "bf16": "BF16"}
#: Encoded by the tokenizer of the model and by the one that the file gives, which must agree.
SAMPLE = "Hello, world! In 1999, “quoted”\n\n\tthe  3½ 猫 it's I'LL  x_y\r\n don't 12345 ﬁne éa  "


def write_gguf(source: Source, output: Path, floats: str | None) -> None:
    """Write a source as a GGUF file. floats: as `export` has it.

    Raises WorkbenchError for what cannot be held, StorageError.
    """
    import gguf

    kinds = {kind.model_type: kind for kind in gguf_config.KNOWN}
    if (model_type := source.config.get("model_type")) not in kinds:
        raise WorkbenchError(f"export: gguf is written of {', '.join(kinds)}; this is {model_type}")
    kind = kinds[model_type]
    name, config = kind.name, _config(source, kind)
    types = types_of(source, floats)
    vocabulary = tokenizer_metadata(source.tokenizer_path, config)
    model: Any = architecture_of(config)  # all of KNOWN have its fields
    specs, scaling = model.tensors(), model.rope_scaling
    with written_whole(output) as partial:
        writer = gguf.GGUFWriter(partial, name)
        try:
            for key, value in gguf_config.metadata_of(config, kind):
                _add(writer, f"{name}.{key}", value)
            for key, value in vocabulary.items():
                _add(writer, key, value)
            if scaling is not None:
                _add_scaling(writer, name, config, scaling)
            for each, type_name in types.items():
                data = _data(source, each, type_name, gguf_config.heads_of(each, kind, config))
                there = gguf_config.name_there(each, kind)
                if there is None:
                    raise WorkbenchError(f"export: GGUF has no name for the tensor {each}")
                if "_exps." in there:
                    data = data.reshape(specs[each].experts, -1, data.shape[1])
                writer.add_tensor(there, data, raw_dtype=gguf.GGMLQuantizationType[type_name])
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()


def types_of(source: Source, floats: str | None) -> dict[str, str]:
    """GGUF type of each tensor, by its name here. Raises WorkbenchError where none holds it exactly."""
    return {name: _type(source, name, floats) for name in source.names()}


def widened(source: Source, types: Mapping[str, str]) -> str | None:
    """What is to be said of matrices of at most 4 bits that take 8 in the file: how many, and what would take 4."""
    formats = [str(source.describe(name)[1]) for name, there in types.items() if there == "Q8_0"]
    narrow = Counter(fmt for fmt in formats if not fmt.startswith("int8"))
    if not narrow:
        return None
    counted = ", ".join(f"{count} {fmt}" for fmt, count in narrow.items())
    return (
        f"matrices that take 8 bits and not 4 in GGUF, whose 4-bit types have no zero-points: {counted}; "
        "int4/32/sym (Q4_0) and int4/32/offset (Q4_1) take 4"
    )


def _config(source: Source, kind: gguf_config.Known) -> dict[str, Any]:
    """config.json with what it leaves to its family or says elsewhere. Raises WorkbenchError for what has no key."""
    model: Any = architecture_of(source.config)
    why = ""
    if any(getattr(model, "window", ())):
        why = "layers that look back no further than a window"
    elif kind.experts and not all(model.mixed):
        why = "layers without experts beside those that have them"
    elif kind.experts and not model.routing.normalised:
        why = "scores that are not normalised over the chosen experts"
    if why:
        raise WorkbenchError(f"export: gguf has no metadata of {kind.name} for {why}; what fits: --to hf")
    own = {
        "num_key_value_heads": model.kv_heads,
        "head_dim": model.head_dim,
        "rms_norm_eps": model.norm_eps,
        "rope_theta": model.rope_theta,
        "max_position_embeddings": model.context_length,
    }
    if kind.experts:
        counts = {"num_local_experts": model.experts, "num_experts": model.experts}
        own |= {name: counts[name] for name in kind.keys.values() if name in counts}
        own |= {"num_experts_per_tok": model.routing.chosen}
    return {**source.config, **own}


def _type(source: Source, name: str, floats: str | None) -> str:
    """GGUF type of a tensor. Raises WorkbenchError where none holds it exactly."""
    shape, fmt = source.describe(name)
    if len(shape) != 2:
        return "F32"
    if not fmt.is_quantized:
        return _FLOATS[floats or fmt.dtype]
    low, high = _range(fmt)
    why = ""
    if fmt.zero_frac_bits:
        why = "its zero-points have fractions"
    elif shape[1] % 32 or fmt.padded_columns(shape[1]) != shape[1]:
        why = f"rows of {shape[1]} are padded"
    elif fmt.offset and fmt.dtype == "int8":
        why = "offsets stand beside 4 bits alone"
    elif not fmt.offset and not (low >= -128 and high <= 127):
        why = f"q - z reaches from {low} to {high}"
    elif fmt.scale_dtype != "f16":
        planes = source.tensor(name).planes
        for plane in ("scales", "offsets"):
            with np.errstate(over="ignore"):
                if plane in planes and (planes[plane].astype(np.float16) != planes[plane]).any():
                    why = f"its {plane} do not fit f16"
    if why:
        raise WorkbenchError(f"export: gguf cannot hold {name} ({fmt}): {why}; what fits: {_FITS}")
    if fmt.offset:
        return "Q4_1"
    return "Q4_0" if low >= -8 and high <= 7 else "Q8_0"


def _range(fmt: WeightFormat) -> tuple[int, int]:
    """Smallest and largest q - z that the format can hold."""
    low, high = (-128, 127) if fmt.dtype == "int8" else (0, 2**fmt.bits - 1)
    return (low - fmt.implied_zero, high - fmt.implied_zero) if fmt.symmetric else (low - high, high - low)


def _data(source: Source, name: str, type_name: str, heads: int | None) -> np.ndarray:
    """What the file holds of a tensor: rows in its order, of floats or of blocks."""
    tensor = source.tensor(name)
    if type_name in ("Q4_0", "Q4_1", "Q8_0"):
        rows = _blocks(tensor, type_name)
    else:
        dtype = {there: here for here, there in _FLOATS.items()}[type_name]
        rows = float_tensor(name, tensor.dequantize(), dtype).planes["values"]
        if dtype == "bf16":  # of which numpy knows nothing: bytes
            rows = rows.view(np.uint8)
    return rows if heads is None else rows[gguf_config.order_of_neighbours(len(rows), heads)]


def _blocks(tensor: WeightTensor, type_name: str) -> np.ndarray:
    fmt, (rows, columns) = tensor.format, tensor.shape
    blocks = fmt.blocks(columns)

    def of_32(plane: np.ndarray) -> np.ndarray:
        return np.repeat(
            np.broadcast_to(plane, (rows, blocks)).astype(np.float16), columns // 32 // blocks, axis=1
        )

    scales, q = of_32(tensor.planes["scales"]), tensor.quants()[:, :columns].astype(np.int16)
    if type_name == "Q4_1":
        return packed_q4_1(q, scales, of_32(tensor.planes["offsets"]))
    zeros = np.broadcast_to(tensor.zero_points().astype(np.int16), (rows, blocks))
    q -= np.repeat(zeros, columns // blocks, axis=1)
    return packed_q4_0(q + 8, scales) if type_name == "Q4_0" else packed_q8_0(q, scales)


def _add(writer: Any, key: str, value: Any) -> None:
    import gguf

    if isinstance(value, list):
        of = gguf.GGUFValueType.STRING if isinstance(value[0], str) else gguf.GGUFValueType.INT32
        of = gguf.GGUFValueType.FLOAT32 if isinstance(value[0], float) else of
        writer.add_key_value(key, value, gguf.GGUFValueType.ARRAY, of)
        return
    kinds = {bool: "BOOL", int: "UINT32", float: "FLOAT32", str: "STRING"}
    writer.add_key_value(key, value, gguf.GGUFValueType[kinds[type(value)]])


def _add_scaling(writer: Any, name: str, config: Mapping[str, Any], scaling: Mapping[str, Any]) -> None:
    kind = scaling.get("rope_type", scaling.get("type"))
    if kind == "linear":
        _add(writer, f"{name}.rope.scaling.type", "linear")
        _add(writer, f"{name}.rope.scaling.factor", float(scaling["factor"]))
    elif kind == "llama3":
        model: Any = architecture_of(config)
        factors = gguf_config.rope_factors(model.head_dim, model.rope_theta, scaling)
        writer.add_tensor(gguf_config.ROPE_FACTORS, factors)


def tokenizer_metadata(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata of the tokenizer in a folder. Raises WorkbenchError where GGUF has none that splits text alike."""
    tokenizer = load_tokenizer(folder)
    file = Path(folder) / "tokenizer.json"
    if not file.is_file():
        raise WorkbenchError(f"export: gguf is written with a tokenizer.json; {folder} has none")
    read = json.loads(file.read_text(encoding="utf-8"))
    found = gguf_tokenizer.metadata_of(read, config["vocab_size"])
    ids = {"bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id, "padding": tokenizer.pad_token_id,
           "unknown": tokenizer.unk_token_id}  # fmt: skip
    ends = config.get("eos_token_id")
    for each in ends if isinstance(ends, list) else [ends]:
        if each is not None and each != ids["eos"] and ids["eos"] is not None:
            ids["eot"] = each
    found |= {f"tokenizer.ggml.{role}_token_id": each for role, each in ids.items() if each is not None}
    found["tokenizer.ggml.add_bos_token"] = list(tokenizer("a").input_ids)[:1] == [tokenizer.bos_token_id]
    if isinstance(tokenizer.chat_template, str):
        found["tokenizer.chat_template"] = tokenizer.chat_template
    _check(found, tokenizer)
    return found


def _check(metadata: Mapping[str, Any], tokenizer: Any) -> None:
    """Raise WorkbenchError unless the tokenizer of the metadata gives the ids that this one does."""
    from tokenizers import Tokenizer

    again = Tokenizer.from_str(gguf_tokenizer.files_of(metadata, "export")["tokenizer.json"].decode())
    for text in (SAMPLE, *SAMPLE.split()):
        if again.encode(text).ids != list(tokenizer(text).input_ids):
            raise WorkbenchError(
                f"export: GGUF has no tokenizer that splits {text!r} as this one does; what fits: --to hf"
            )
