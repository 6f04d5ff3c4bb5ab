"""Writing a source as a Hugging Face checkpoint of floats: config.json, safetensors, and the tokenizer's files."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from workbench.errors import CheckpointError
from workbench.files.writing import json_bytes, os_error, storing
from workbench.formats.errors import FormatError
from workbench.formats.tensor import float_tensor
from workbench.models.checkpoint import TOKENIZER_FILES
from workbench.models.families import architecture_of
from workbench.models.hub import INDEX, WEIGHTS
from workbench.models.source import Source

#: What config.json calls a type, by what it is called here.
DTYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
#: A file of weights holds about so many bytes.
SHARD_BYTES = 4 << 30


def write_floats(source: Source, folder: Path, dtype: str | None) -> list[str]:
    """Write every tensor of a source as floats into a folder that is there; returns the names of the files.

    dtype: one of `DTYPES`; None for the own type of floats and f32 for integers, which rounds nothing. Raises
    CheckpointError for weights that it cannot hold, OSError.
    """
    config = {name: value for name, value in source.config.items() if name != "torch_dtype"}
    own = {_own(source, name) for name in source.names() if len(source.describe(name)[0]) == 2}
    of_all = dtype or (own.pop() if len(own) == 1 else "f32")
    files = {"config.json": json_bytes(config | {"dtype": DTYPES[of_all]}), **tokenizer_files(source)}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    groups = _as_checkpoints_have_it(source)
    sizes = {
        first: sum(4 * math.prod(source.describe(name)[0]) for name in names)
        for first, names in groups.items()
    }
    return [*files, *write_safetensors(folder, sizes, lambda first: _stored(source, groups[first], dtype))]


def _as_checkpoints_have_it(source: Source) -> dict[str, list[str]]:
    """Names of tensors in groups that go into the same tensors of a checkpoint, by the first of each: one alone, but
    for experts whose gate and up are one."""
    gathered, groups, first_in = architecture_of(source.config).gathered(), {}, {}
    for name in source.names():
        stored = gathered[name][0].tensor if name in gathered else name
        groups.setdefault(first_in.setdefault(stored, name), []).append(name)
    return groups


def _stored(source: Source, names: list[str], dtype: str | None) -> dict[str, Any]:
    """The tensors of a checkpoint that hold a group, as `floats_of` gives each; of several types in f32."""
    import torch

    model = architecture_of(source.config)
    gathered, specs = model.gathered(), model.tensors()
    own = {dtype or _own(source, name) for name in names}
    found: dict[str, Any] = {}
    for name in names:
        values = floats_of(source, name, own.copy().pop() if len(own) == 1 else "f32")
        if name not in gathered:
            return {name: values}
        pieces = gathered[name]
        for piece, part in zip(pieces, values.split([piece.rows for piece in pieces]), strict=True):
            if piece.at is None:
                found[piece.tensor] = part
                continue
            if piece.tensor not in found:
                found[piece.tensor] = torch.empty(piece.shape(specs[name]), dtype=part.dtype)
            found[piece.tensor][piece.at, :, piece.first : piece.first + piece.rows] = part.T
    return found


def tokenizer_files(source: Source) -> dict[str, bytes]:
    """The files of a source's tokenizer, by name."""
    folder = Path(source.tokenizer_path)
    return {name: (folder / name).read_bytes() for name in TOKENIZER_FILES if (folder / name).is_file()}


def _own(source: Source, name: str) -> str:
    """The type of floats that holds a tensor exactly: its own, or f32 for integers."""
    fmt = source.describe(name)[1]
    return "f32" if fmt.is_quantized else fmt.dtype


def floats_of(source: Source, name: str, dtype: str | None) -> Any:
    """A tensor of the source as one of torch, as `write_floats` has its type. Raises CheckpointError for weights that
    it cannot hold."""
    import torch

    shape, _ = source.describe(name)
    dtype = dtype or _own(source, name)
    stored = np.empty(shape, {"f32": "<f4", "f16": "<f2", "bf16": "<u2"}[dtype])
    for start, part in source.parts(name):
        try:
            values = float_tensor(name, part.dequantize(), dtype).planes["values"]
        except FormatError as error:
            raise CheckpointError(f"{source.path}: {error}") from error
        if shape:
            stored[start : start + len(values)] = values
        else:
            stored[...] = values
    return torch.from_numpy(stored).view(torch.bfloat16) if dtype == "bf16" else torch.from_numpy(stored)


def write_safetensors(
    folder: Path, sizes: Mapping[str, int], make: Callable[[str], Mapping[str, Any]]
) -> list[str]:
    """Write tensors of torch as one file, or as shards with their index; returns the names of the files.

    sizes: bytes, about, of what `make` gives for a name: one tensor, or several that belong together. A shard of them
    is in memory. Raises StorageError.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    shards: list[list[str]] = [[]]
    for name, size in sizes.items():
        if shards[-1] and sum(sizes[each] for each in shards[-1]) + size > SHARD_BYTES:
            shards.append([])
        shards[-1].append(name)
    weight_map, total = {}, 0
    for number, names in enumerate(shards, 1):
        file = WEIGHTS if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        held = {own: tensor for name in names for own, tensor in make(name).items()}
        with storing(folder / file):
            try:
                save_file(held, folder / file, metadata={"format": "pt"})
            except SafetensorError as error:
                raise os_error(error) from error
        weight_map |= dict.fromkeys(held, file)
        total += sum(tensor.numel() * tensor.element_size() for tensor in held.values())
    files = list(dict.fromkeys(weight_map.values()))
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / INDEX).write_bytes(json_bytes(index))
        files.append(INDEX)
    return files
