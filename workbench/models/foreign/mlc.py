"""MLC's folders of weights, group quantization in 4 bits along the rows (q4f16_1 and its like), as checkpoints.

    mlc-chat-config.json                        model_type, quantization, model_config, ids that end a text
    ndarray-cache.json or tensor-cache.json     which tensors lie where in the files of weights
    params_shard_0.bin, ...                     their bytes, one behind the other

    X.q_weight  uint32 [N, K / 8]     q along a row, the first in the lowest bits
    X.q_scale   [N, K / 32]           w = scale (q - 7)

MLC multiplies in the type of the scales; here the weights are what f32 gives. q, k and v are one matrix (`qkv_proj`, of
Qwen `c_attn`), and so are gate and up (`gate_up_proj`).
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from workbench.errors import CheckpointError, UnsupportedModelError
from workbench.files.reading import open_regular
from workbench.models.architecture import Architecture
from workbench.models.checkpoint import TOKENIZER_FILES
from workbench.models.checkpoint_files import is_file_name, is_there, read_json
from workbench.models.contents import Header
from workbench.models.families import architecture_of
from workbench.models.foreign.integers import Grid
from workbench.models.foreign.packed import FLOATS, Headers, Packed, Read
from workbench.models.foreign.packed_checkpoint import PackedCheckpoint
from workbench.models.foreign.words import unpack_words
from workbench.models.keys import shown

CONFIG = "mlc-chat-config.json"
#: The list of tensors, under its name of today and the one before.
LISTS = ("tensor-cache.json", "ndarray-cache.json")
#: Families whose matrices MLC has as the checkpoint's, but for those that it stacks.
KNOWN = ("llama", "mistral", "qwen2", "qwen3")
#: Of these, whose attention may have a window.
WINDOWED = "mistral"
#: Modes whose groups are runs of a row; they differ in the type of the scales and in what stays floats.
MODES = ("q4f16_1", "q4f32_1", "q4bf16_1", "q4f16_2")
BITS, GROUP, ZERO = 4, 32, 7
#: Keys of model_config, and what they are in config.json.
KEYS = {
    **{
        name: name
        for name in (
            "hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "num_key_value_heads",
            "head_dim", "rms_norm_eps", "vocab_size", "tie_word_embeddings", "rope_scaling", "rope_theta",
            "hidden_act", "attention_bias",
        )
    },
    "position_embedding_base": "rope_theta",
    "context_window_size": "max_position_embeddings",
}  # fmt: skip
#: Keys that say how a model is run, and of weights in blocks of FP8, which these modes have not.
OF_RUNNING = {
    "prefill_chunk_size", "tensor_parallel_shards", "pipeline_parallel_stages", "max_batch_size", "disaggregation",
    "dtype", "weight_block_size", "sliding_window_size", "attention_sink_size",
}  # fmt: skip
_STACKS = {"qkv_proj": "qkv", "c_attn": "qkv", "gate_up_proj": ("gate", "up")}
_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
_ELEMENTS = {
    "uint32": ("U32", "<u4"),
    "float16": ("F16", "<f2"),
    "float32": ("F32", "<f4"),
    "bfloat16": ("BF16", "<u2"),
}
#: How floats of 32 bits are shortened in a file.
_SHORTENED = "f32-to-bf16"
_CODES = dict(_ELEMENTS.values())


@dataclass(frozen=True)
class MlcMatrix(Packed):
    def grid(self, read: Read) -> Grid:
        return Grid(BITS, self.shape[1], GROUP, np.ascontiguousarray(read(self.parts["q_scale"])), ZERO)

    def quants(self, read: Read) -> np.ndarray:
        return unpack_words(read(self.parts["q_weight"]), BITS, self.shape[1])


def find(headers: Headers) -> Iterator[tuple[str, Packed]]:
    """Matrices by name. Raises CheckpointError."""
    for name in headers.ending(".q_weight"):
        parts = {part: f"{name}.{part}" for part in ("q_weight", "q_scale")}
        rows, words = headers.matrix(parts["q_weight"], ("U32",))
        if words * 8 % GROUP:
            raise CheckpointError(
                f"{headers.where}: {name} has {words} words a row; allowed: whole groups of {GROUP}"
            )
        headers.found(parts["q_scale"], FLOATS, (rows, words * 8 // GROUP))
        yield f"{name}.weight", MlcMatrix((rows, words * 8), parts, f"MLC, {BITS} bits")


@dataclass(frozen=True)
class Place:
    """Where a tensor's bytes lie: in a file of the folder, from `offset` on."""

    file: str
    offset: int
    header: Header


class MlcModel(PackedCheckpoint):
    """Made by `open_folder`, as a Checkpoint."""

    _described = CONFIG
    _optional = (*LISTS, *TOKENIZER_FILES)

    def __init__(self, path: Path, config: dict[str, Any], places: Mapping[str, Place], mode: str) -> None:
        headers = {name: place.header for name, place in places.items()}
        super().__init__(path, config, {name: place.file for name, place in places.items()}, headers)
        self._places = places
        self.origin = {"mlc": {"quantization": mode}}

    @classmethod
    def open_folder(cls, path: Path) -> MlcModel:
        """Raises CheckpointError, UnsupportedModelError naming what is not understood."""
        told = read_json(path / CONFIG)
        mode = told.get("quantization")
        if mode not in MODES:
            raise UnsupportedModelError(
                f"{path / CONFIG}: quantization is {shown(mode)}; allowed: {', '.join(MODES)}"
            )
        config = _config(told, str(path / CONFIG))
        architecture_of(config)
        opened = cls(path, config, _places(path), str(mode))
        sinks = told["model_config"].get("attention_sink_size")
        opened._select([_of_sinks(sinks)] if sinks and config.get("sliding_window") else [])
        return opened

    def _select(self, notes: list[str]) -> None:
        self._parts = {}
        self._assemble(dict(find(Headers(dict(self._headers), str(self.path), self._part))))
        if not self._parts:
            raise CheckpointError(f"{self.path}: quantization says 4 bits, but no tensor is packed so")
        super()._select([*self._said(), *notes])

    def _stacks(self, model: Architecture) -> dict[str, tuple[str, ...]]:
        found = dict(super()._stacks(model))
        for name in self._headers:
            stack = name.split(".")[-2] if "." in name else ""
            if stack in _STACKS:
                parts = (name.replace(f".{stack}.", f".{part}_proj.") for part in _STACKS[stack])
                found[name] = tuple(parts)
        unknown = [each for parts in found.values() for each in parts if each not in model.tensors()]
        if unknown:
            raise UnsupportedModelError(
                f"{self.path}: {model.family} has no {unknown[0]!r}, which a tensor stacks"
            )
        return found

    def _values(self, file: str, framework: str, name: str, rows: slice | None):
        import torch

        name, rows = self._rows_of(name, rows)
        place = self._places[name]
        shape, dtype = place.header
        with open_regular(self.path / file) as stream:
            mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        values = np.frombuffer(mapped, _CODES[dtype], math.prod(shape), place.offset).reshape(shape)
        values = np.array(values if rows is None else values[rows])  # of its own: the file's are mapped
        if framework == "np":
            return values
        if dtype == "BF16":
            return torch.from_numpy(values.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(values)


def mlc_in(folder: Path) -> bool:
    """Whether a folder is one of MLC's. Raises CheckpointError for what is there and no file."""
    return is_there(folder / CONFIG)


def _config(told: Mapping[str, Any], where: str) -> dict[str, Any]:
    """config.json of what a file says. Raises UnsupportedModelError naming the key."""
    kind, given = told.get("model_type"), told.get("model_config")
    if kind not in KNOWN:
        raise UnsupportedModelError(f"{where}: model_type is {shown(kind)}; allowed: {', '.join(KNOWN)}")
    if not isinstance(given, dict):
        raise UnsupportedModelError(f"{where}: model_config is {shown(given)}; allowed: an object")
    if unknown := sorted(given.keys() - KEYS.keys() - OF_RUNNING):
        raise UnsupportedModelError(
            f"{where}: model_config.{unknown[0]} is not understood; allowed: {', '.join(sorted(KEYS))}"
        )
    for key in ("weight_block_size", *(() if kind == WINDOWED else ("sliding_window_size",))):
        if given.get(key) not in (None, -1):
            raise UnsupportedModelError(
                f"{where}: model_config.{key} is {shown(given[key])}; allowed: null or -1"
            )
    # A size of 0 asks for the default, and with a window there is no end of the context, -1.
    config = {KEYS[key]: value for key, value in given.items() if key in KEYS and value not in (0, -1)}
    if kind == WINDOWED:
        config["sliding_window"] = None if (window := given.get("sliding_window_size")) == -1 else window
        config.setdefault("num_key_value_heads", config.get("num_attention_heads"))
    config |= {key: given[key] for key in ("tie_word_embeddings", "attention_bias") if key in given}
    ids = {key: told[key] for key in _IDS if key in told}
    return {"model_type": kind, **config, **ids}


def _places(path: Path) -> dict[str, Place]:
    """Tensors by name. Raises CheckpointError for a list that is none, or that lies about its files."""
    listed = next((path / name for name in LISTS if is_there(path / name)), None)
    if listed is None:
        raise CheckpointError(f"{path}: {' or '.join(LISTS)} is missing, which says where tensors lie")
    found: dict[str, Place] = {}
    for shard in _objects(read_json(listed).get("records"), listed, "records"):
        file = shard.get("dataPath")
        if not is_file_name(file):
            raise CheckpointError(f"{listed}: dataPath is {shown(file)}; allowed: a file of the same folder")
        try:
            with open_regular(path / file) as stream:
                size = stream.seek(0, 2)
        except OSError as error:
            raise CheckpointError(f"{path / file}: cannot be read: {error.strerror}") from error
        for record in _objects(shard.get("records"), listed, f"records of {file}"):
            name, place = _place(record, file, size, listed)
            if name in found:
                raise CheckpointError(f"{listed}: tensor {name!r} is there twice")
            found[name] = place
    return found


def _of_sinks(count: object) -> str:
    return (
        f"MLC sees the first {shown(count)} tokens beyond the window as well (attention_sink_size), which is not done "
        "here: Mistral's own attention does not"
    )


def _objects(value: object, where: Path, what: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise CheckpointError(f"{where}: {what} are {shown(value)}; allowed: a list of objects")
    return value


def _place(record: Mapping[str, Any], file: str, size: int, where: Path) -> tuple[str, Place]:
    name, shape, dtype = (record.get(key) for key in ("name", "shape", "dtype"))
    if not isinstance(name, str) or not isinstance(dtype, str) or dtype not in _ELEMENTS:
        raise CheckpointError(
            f"{where}: tensor {shown(name)} has dtype {shown(dtype)}; allowed: {', '.join(_ELEMENTS)}"
        )
    if record.get("format") == _SHORTENED and dtype == "float32":
        dtype = "bfloat16"
    sizes = shape if isinstance(shape, list) else [-1]
    if not all(type(each) is int and 0 < each < 1 << 40 for each in sizes) or math.prod(sizes) > 1 << 40:
        raise CheckpointError(f"{where}: tensor {name!r} has shape {shown(shape)}; allowed: sizes from 1")
    kind, code = _ELEMENTS[dtype]
    nbytes, offset = math.prod(sizes) * np.dtype(code).itemsize, record.get("byteOffset")
    if type(offset) is not int or offset < 0 or record.get("nbytes") != nbytes or offset + nbytes > size:
        raise CheckpointError(
            f"{where}: tensor {name!r} has {shown(record.get('nbytes'))} bytes at {shown(offset)} of {file}, "
            f"which has {size}; its shape needs {nbytes}"
        )
    return name, Place(file, offset, (tuple(sizes), kind))
