"""Reading a Hugging Face checkpoint: `config.json` beside `model.safetensors`, or shards with an index.

The files are memory-mapped by the safetensors library, and a tensor is read when it is asked for, so that a
checkpoint larger than memory can be converted. Pickled weights (`pytorch_model.bin`) are refused: loading
them can run code. The reading surface (names, describe, tensor, parts) is the one of
`workbench.formats.reader.StoredModel`. Of the tensors in the files it shows those that a model of this configuration
reads; the others are in `unread`, once, with their reasons (`workbench.models.contents`).
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

from workbench.errors import CheckpointError, UnsupportedModelError
from workbench.files.reading import is_regular, open_regular, read_text, require_regular
from workbench.formats.spec import WeightFormat
from workbench.formats.tensor import WeightTensor
from workbench.models.architecture import Architecture
from workbench.models.contents import HEAD, Header, check_read, some, unread
from workbench.models.families import architecture_of
from workbench.models.finite import require_finite
from workbench.models.hub import INDEX, WEIGHTS, resolve
from workbench.models.index_beside import compare_index

ADAPTER = "adapter_config.json"
DTYPES = {"F32": "f32", "F16": "f16", "BF16": "bf16"}
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
    """An unquantized checkpoint folder. Made by `Checkpoint.open`; what is wrong with a file is a CheckpointError.

    config: as in `config.json`, but with `tie_word_embeddings` false where the file has an LM head of its own.
    unread: tensors that are in the files but not the model's, and why. notes: what else a user should know of them.
    origin: what the provenance of a conversion says of the weights, beside the hashes of the files.
    """

    #: Files that may be there, and are then read.
    _optional: tuple[str, ...] = (INDEX, *TOKENIZER_FILES)

    def __init__(self, path: Path, config: dict[str, Any], files: dict[str, str], headers: dict[str, Header]):
        self.path = path
        self.config = config
        self.tokenizer_path = path
        self.unread: dict[str, str] = {}
        self.notes: tuple[str, ...] = ()
        self.origin: dict[str, Any] = {}
        self._files = files  # tensor name -> file name
        self._headers = headers  # tensor name -> (shape, dtype)
        self._rows: dict[
            str, tuple[str, int]
        ] = {}  # part of a stack -> name of the stack, its first row there
        self._hashes: dict[str, str] | None = None

    @classmethod
    def open(cls, dir_or_hub_id: str | Path) -> Checkpoint:
        """Open a folder or a hub id: reads config, index and every header; no weights, unless two copies that should
        be equal have to be compared (an LM head beside a tied embedding, shards beside a single file).

        Raises UnsupportedModelError for a configuration, or tensors, of no family that is known.
        """
        path = resolve(dir_or_hub_id)
        for name in ("config.json", INDEX, WEIGHTS, *TOKENIZER_FILES):
            is_there(path / name)
        config = cls._config(path)
        architecture_of(config)
        notes: list[str] = []
        if (path / ADAPTER).is_file():
            notes.append(f"without the adapter of {ADAPTER}: merge it into the weights to have it")
        if (path / WEIGHTS).is_file():
            headers = {WEIGHTS: _read_header(path / WEIGHTS)}
            files = dict.fromkeys(headers[WEIGHTS], WEIGHTS)
            if (path / INDEX).is_file():
                notes += compare_index(path, headers[WEIGHTS], _read_index(path), _read_header)
        elif (path / INDEX).is_file():
            files = _read_index(path)
            _require_shards(path, files)
            headers = {file: _read_header(path / file) for file in sorted(set(files.values()))}
        else:
            raise CheckpointError(_why_no_weights(path))
        for name, file in files.items():
            if name not in headers[file]:
                raise CheckpointError(f"{path / file}: tensor {name!r} is missing, but {INDEX} puts it there")
        opened = cls(path, config, files, {name: headers[file][name] for name, file in files.items()})
        opened._select(notes)
        return opened

    @classmethod
    def _config(cls, path: Path) -> dict[str, Any]:
        """What config.json says of the model."""
        return read_json(path / "config.json")

    def _select(self, notes: list[str]) -> None:
        """Keep what the model reads; the rest is listed, or refused."""
        self._take_apart(architecture_of(self.config))
        model = self._checked()
        if model.tied_embeddings and not self._same(HEAD, model.embedding):
            # As transformers has it: an LM head that is there and differs is used, whatever the configuration says.
            self.config = self.config | {"tie_word_embeddings": False}
            notes.append(
                f"not tied, though tie_word_embeddings is true: {HEAD} differs from {model.embedding}"
            )
            model = self._checked()
        tensors = model.tensors()
        self.unread = unread(model, self._headers, str(self.path))
        self._headers = {name: each for name, each in self._headers.items() if name in tensors}
        self.notes = tuple(notes)

    def _take_apart(self, model: Architecture) -> None:
        """Put the parts of stacked tensors in their places. Raises UnsupportedModelError for other numbers of rows."""
        tensors = model.tensors()
        for stack, parts in self._stacks(model).items():
            if stack not in self._headers:
                continue
            (rows, *rest), dtype = self._headers.pop(stack)
            wanted = sum(tensors[part].shape[0] for part in parts)
            if rows != wanted:
                raise UnsupportedModelError(
                    f"{self.path}: {stack} has {rows} rows, but config.json asks for {wanted} "
                    f"({', '.join(tensors[parts[0]].keys)})"
                )
            file, first = self._files.pop(stack), 0
            for part in parts:
                count = tensors[part].shape[0]
                self._headers[part], self._files[part] = ((count, *rest), dtype), file
                self._rows[part] = stack, first
                first += count

    def _stacks(self, model: Architecture) -> dict[str, tuple[str, ...]]:
        """Tensors of the files that hold the rows of several, as `Architecture.stacked` has them."""
        return model.stacked()

    def _checked(self) -> Architecture:
        """What the configuration describes, all of whose tensors are there."""
        model = architecture_of(self.config)
        check_read(model.tensors(), self._headers, str(self.path))
        return model

    def _same(self, name: str, other: str) -> bool:
        """Whether a tensor is not there, or holds the values of another."""
        if name not in self._headers:
            return True
        if self._headers[name][0] != self._headers[other][0]:
            return False
        pairs = zip(self.parts(name), self.parts(other), strict=True)
        return all(np.array_equal(a.dequantize(), b.dequantize()) for (_, a), (_, b) in pairs)

    def names(self) -> list[str]:
        """Names of all tensors that the model reads, in the order of the files."""
        return list(self._headers)

    def __contains__(self, name: str) -> bool:
        return name in self._headers

    def describe(self, name: str) -> tuple[tuple[int, ...], WeightFormat]:
        """Shape and format of a tensor, from the header alone."""
        if name not in self._headers:
            raise CheckpointError(f"{self.path}: no tensor {name!r}; it has {some(self._headers)}")
        shape, stored = self._headers[name]
        if stored not in DTYPES:
            raise CheckpointError(
                f"{self.path / self._files[name]}: tensor {name!r} has dtype {stored}; "
                f"allowed: {', '.join(DTYPES)}"
            )
        return shape, WeightFormat(DTYPES[stored])

    def stored_as(self, name: str) -> str:
        """How the file stores a tensor; for people."""
        return self._headers[name][1]

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
            *(name for name in self._optional if (self.path / name).is_file()),
        }
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
        require_finite(self.path / file, name, rows.start if rows else 0, values)
        values.flags.writeable = False
        return WeightTensor(name, shape, fmt, {"values": values})

    def _rows_of(self, name: str, rows: slice | None) -> tuple[str, slice | None]:
        """The tensor of the files that holds a tensor, and which of its rows; None for all."""
        if name not in self._rows:
            return name, rows
        count = self._headers[name][0][0]
        stack, first = self._rows[name]
        start, stop = (rows.start, rows.stop) if rows else (0, count)
        return stack, slice(first + start, first + stop)

    def _values(self, file: str, framework: str, name: str, rows: slice | None):
        name, rows = self._rows_of(name, rows)
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
        raise CheckpointError(f"{path}: not a whole safetensors file: {str(error)[:300]}") from error


def is_there(path: Path) -> bool:
    """Whether a file is; a CheckpointError for a folder, a FIFO or a device in its place, which is no absence."""
    try:
        return is_regular(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object of a file of a checkpoint; raises CheckpointError naming the file for all that is none."""
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
    weight_map = read_json(path / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(
            f"{path / INDEX}: field 'weight_map' must be a non-empty object of tensor: file name"
        )
    for name, file in weight_map.items():
        # Judged by the name alone: files in the hub's cache are links that lead elsewhere rightly.
        pure = PurePosixPath(
            file if isinstance(file, str) else "/"
        )  # what is not a name counts as one that leads out
        escapes = pure.is_absolute() or ".." in pure.parts or "\\" in file or ":" in file
        if escapes or pure.suffix != ".safetensors":
            raise CheckpointError(
                f"{path / INDEX}: tensor {name!r} points to {file!r}; "
                f"allowed is a .safetensors file inside the folder"
            )
    return weight_map


def _require_shards(path: Path, weight_map: dict[str, str]) -> None:
    for name, file in weight_map.items():
        if not is_there(path / file):
            raise CheckpointError(
                f"{path / INDEX}: tensor {name!r} is in the shard {file!r}, which is missing"
            )


def _why_no_weights(path: Path) -> str:
    pickled = sorted(p.name for pattern in ("*.bin", "*.pth", "*.pt") for p in path.glob(pattern))
    if pickled:
        return (
            f"{path}: only pickled weights ({', '.join(pickled[:3])}), never loaded because a pickle "
            "can run code. Save them as safetensors where you trust them: "
            "AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(OUT, safe_serialization=True)"
        )
    return f"{path}: no weights; expected {WEIGHTS}, or shards with {INDEX}"
