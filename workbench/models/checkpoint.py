"""Reading a Hugging Face checkpoint: `config.json` beside `model.safetensors`, or shards with an index.

The files are memory-mapped by the safetensors library, and a tensor is read when it is asked for, so that a
checkpoint larger than memory can be converted. Pickled weights (`pytorch_model.bin`) are refused: loading
them can run code. The reading surface (names, describe, tensor, parts) is the one of
`workbench.formats.reader.StoredModel`.
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from workbench.errors import CheckpointError
from workbench.files.reading import is_regular, open_regular, read_text, require_regular
from workbench.formats.spec import WeightFormat
from workbench.formats.tensor import WeightTensor
from workbench.models.hub import resolve

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
DTYPES = {"F32": "f32", "F16": "f16", "BF16": "bf16"}
Header = tuple[tuple[int, ...], str]  # shape and dtype, as safetensors names it
PART_BYTES = 64 << 20  # parts() gives this many bytes of float32 at most, or one row

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
)


class Checkpoint:
    """An unquantized checkpoint folder. Made by `Checkpoint.open`; every failure is a CheckpointError."""

    def __init__(self, path: Path, config: dict[str, Any], files: dict[str, str], headers: dict[str, Header]):
        self.path = path
        self.config = config
        self.tokenizer_path = path
        self._files = files  # tensor name -> file name
        self._headers = headers  # tensor name -> (shape, dtype)
        self._hashes: dict[str, str] | None = None

    @classmethod
    def open(cls, dir_or_hub_id: str | Path) -> Checkpoint:
        """Open a folder or a hub id: reads config, index and every header, and no weights."""
        path = resolve(dir_or_hub_id)
        for name in ("config.json", INDEX, WEIGHTS, *TOKENIZER_FILES):
            _is_there(path / name)
        config = _read_json(path / "config.json")
        if (path / INDEX).is_file():
            files = _read_index(path)
        elif (path / WEIGHTS).is_file():
            files = None
        else:
            raise CheckpointError(_why_no_weights(path))
        headers: dict[str, dict[str, Header]] = {}
        for file in sorted(set(files.values())) if files else [WEIGHTS]:
            headers[file] = _read_header(path / file)
        if files is None:
            files = dict.fromkeys(headers[WEIGHTS], WEIGHTS)
        for name, file in files.items():
            if name not in headers[file]:
                raise CheckpointError(f"{path / file}: tensor {name!r} is missing, but {INDEX} puts it there")
        return cls(path, config, files, {name: headers[file][name] for name, file in files.items()})

    def names(self) -> list[str]:
        """Names of all tensors, in the order of the files."""
        return list(self._files)

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def describe(self, name: str) -> tuple[tuple[int, ...], WeightFormat]:
        """Shape and format of a tensor, from the header alone."""
        if name not in self._headers:
            raise CheckpointError(f"{self.path}: no tensor {name!r}; it has {_some(self._headers)}")
        shape, stored = self._headers[name]
        if stored not in DTYPES:
            raise CheckpointError(
                f"{self.path / self._files[name]}: tensor {name!r} has dtype {stored}; "
                f"allowed: {', '.join(DTYPES)}"
            )
        return shape, WeightFormat(DTYPES[stored])

    def tensor(self, name: str) -> WeightTensor:
        """The whole tensor in its own dtype."""
        shape, fmt = self.describe(name)
        return self._read(name, shape, fmt, None)

    def parts(self, name: str) -> Iterator[tuple[int, WeightTensor]]:
        """The tensor in ranges of rows of at most PART_BYTES as float32: (first row, rows), in order."""
        shape, fmt = self.describe(name)
        if not shape:
            yield 0, self._read(name, shape, fmt, None)
            return
        row_bytes = 4 * math.prod(shape[1:])
        rows = max(1, PART_BYTES // max(1, row_bytes))
        for start in range(0, shape[0], rows):
            stop = min(shape[0], start + rows)
            yield start, self._read(name, (stop - start, *shape[1:]), fmt, slice(start, stop))

    def source_hashes(self, given_up: threading.Event | None = None) -> dict[str, str]:
        """SHA-256 of every file that a conversion reads, by file name; computed once.

        Setting `given_up` from another thread ends it with InterruptedError.
        """
        if self._hashes is not None:
            return self._hashes
        names = {
            "config.json",
            *self._files.values(),
            *(n for n in TOKENIZER_FILES if (self.path / n).is_file()),
        }
        if (self.path / INDEX).is_file():
            names.add(INDEX)
        hashes = {}
        for name in sorted(names):
            hashes[name] = _sha256(self.path / name, given_up)
        self._hashes = hashes
        return hashes

    def _read(self, name: str, shape: tuple[int, ...], fmt: WeightFormat, rows: slice | None) -> WeightTensor:
        file = self._files[name]
        try:
            if fmt.dtype == "bf16":  # numpy has no bfloat16: torch reads the bits
                import torch

                values = self._values(file, "pt", name, rows).view(torch.uint16).numpy()
            else:
                values = self._values(file, "np", name, rows)
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(f"{self.path / file}: tensor {name!r} cannot be read: {error}") from error
        values = np.asarray(values).reshape(shape)
        values.flags.writeable = False
        return WeightTensor(name, shape, fmt, {"values": values})

    def _values(self, file: str, framework: str, name: str, rows: slice | None):
        # Mapped anew each time: with the mapping go the pages that were read, and memory stays at a tensor.
        with _open_file(self.path / file, framework) as opened:
            return opened.get_tensor(name) if rows is None else opened.get_slice(name)[rows]


def _sha256(path: Path, given_up: threading.Event | None) -> str:
    digest, chunk = hashlib.sha256(), memoryview(bytearray(1 << 20))
    with open_regular(path) as stream:
        while count := stream.readinto(chunk):
            if given_up is not None and given_up.is_set():
                raise InterruptedError(f"hashing {path} was given up")
            digest.update(chunk[:count])
    return digest.hexdigest()


def _read_header(path: Path) -> dict[str, Header]:
    with _open_file(path, "np") as opened:
        slices = ((name, opened.get_slice(name)) for name in opened.keys())  # noqa: SIM118 (no mapping)
        return {name: (tuple(each.get_shape()), each.get_dtype()) for name, each in slices}


def _open_file(path: Path, framework: str):
    try:
        return safe_open(str(require_regular(path)), framework=framework)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: the file is missing") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a whole safetensors file: {error}") from error


def _is_there(path: Path) -> bool:
    """Whether a file is; a CheckpointError for a folder, a FIFO or a device in its place, which is no absence."""
    try:
        return is_regular(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(read_text(path))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path}: the file is missing; a checkpoint has config.json beside its weights"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def _read_index(path: Path) -> dict[str, str]:
    weight_map = _read_json(path / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(
            f"{path / INDEX}: field 'weight_map' must be a non-empty object of tensor: file name"
        )
    for name, file in weight_map.items():
        # Judged by the name alone: files in the hub's cache are links that lead elsewhere rightly.
        pure = PurePosixPath(file) if isinstance(file, str) else None
        escapes = pure is None or pure.is_absolute() or ".." in pure.parts or "\\" in file or ":" in file
        if escapes or pure.suffix != ".safetensors":
            raise CheckpointError(
                f"{path / INDEX}: tensor {name!r} points to {file!r}; "
                f"allowed is a .safetensors file inside the folder"
            )
        if not _is_there(path / file):
            raise CheckpointError(
                f"{path / INDEX}: tensor {name!r} is in the shard {file!r}, which is missing"
            )
    return weight_map


def _why_no_weights(path: Path) -> str:
    pickled = sorted(p.name for pattern in ("*.bin", "*.pth", "*.pt") for p in path.glob(pattern))
    if pickled:
        return (
            f"{path}: only pickled weights ({', '.join(pickled[:3])}), never loaded because a pickle "
            "can run code. Save them as safetensors where you trust them: "
            "AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(OUT, safe_serialization=True)"
        )
    if any(path.glob("*.gguf")):
        return f"{path}: only GGUF weights; allowed: {WEIGHTS}, or shards with {INDEX}"
    return f"{path}: no weights; expected {WEIGHTS}, or shards with {INDEX}"


def _some(names, limit: int = 4) -> str:
    names = list(names)
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
