"""Reading a Hugging Face checkpoint: `config.json` beside `model.safetensors`, or shards with an index.

The files are memory-mapped by the safetensors library, and a tensor is read when it is asked for, so that a
checkpoint larger than memory can be converted. Pickled weights (`pytorch_model.bin`) are refused: loading
them can run code. The reading surface (names, describe, tensor, parts) is the one of
`workbench.formats.reader.StoredModel`. Of the tensors in the files it shows those that a model of this configuration
reads; the others are in `unread`, once, with their reasons (`workbench.models.contents`). Tensors of a decoder of text
inside another model are named without its prefix; experts, which files hold one by one or as columns, are put together.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

from workbench.errors import CheckpointError, UnsupportedModelError
from workbench.formats.spec import WeightFormat
from workbench.formats.tensor import WeightTensor
from workbench.models.architecture import Architecture
from workbench.models.checkpoint_files import (
    is_there,
    open_file,
    read_header,
    read_index,
    read_json,
    require_shards,
    sha256_of,
    why_no_weights,
)
from workbench.models.contents import HEAD, Header, check_read, some, unread
from workbench.models.families import architecture_of
from workbench.models.families.multimodal import multimodal, text_part
from workbench.models.finite import require_finite
from workbench.models.hub import INDEX, WEIGHTS, resolve
from workbench.models.index_beside import compare_index
from workbench.models.specs import Piece, TensorSpec

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

    config: as in `config.json`, of a multimodal model the part of text; with `tie_word_embeddings` false where the file
    has an LM head of its own.
    unread: tensors that are in the files but not the model's, and why. notes: what else a user should know of them.
    origin: what the provenance of a conversion says of the weights, beside the hashes of the files.
    """

    #: The file that describes the model; and those that may be there, and are then read.
    _described = "config.json"
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
        self._pieces: dict[str, tuple[Piece, ...]] = {}  # what is put together -> its pieces
        self._stored: dict[str, str] = {}  # name -> another one that the files have for it
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
            headers = {WEIGHTS: read_header(path / WEIGHTS)}
            files = dict.fromkeys(headers[WEIGHTS], WEIGHTS)
            if (path / INDEX).is_file():
                notes += compare_index(path, headers[WEIGHTS], read_index(path), read_header)
        elif (path / INDEX).is_file():
            files = read_index(path)
            require_shards(path, files)
            headers = {file: read_header(path / file) for file in sorted(set(files.values()))}
        else:
            raise CheckpointError(why_no_weights(path))
        for name, file in files.items():
            if name not in headers[file]:
                raise CheckpointError(f"{path / file}: tensor {name!r} is missing, but {INDEX} puts it there")
        opened = cls(path, config, files, {name: headers[file][name] for name, file in files.items()})
        if (other := multimodal(read_json(path / "config.json"))) is not None:
            opened._leave_out(other.prefix)
            notes.append(f"the decoder of text alone, whose tensors begin with {other.prefix}")
        opened._select(notes)
        return opened

    @classmethod
    def _config(cls, path: Path) -> dict[str, Any]:
        """What config.json says of the model."""
        return text_part(read_json(path / "config.json"))

    def _leave_out(self, prefix: str) -> None:
        """Name the tensors behind a prefix without it. Raises CheckpointError where that is another's name."""
        for name in [name for name in self._headers if name.startswith(prefix)]:
            if (own := name.removeprefix(prefix)) in self._headers:
                raise CheckpointError(f"{self.path}: tensors {name!r} and {own!r} would have one name")
            self._headers[own], self._files[own] = self._headers.pop(name), self._files.pop(name)
            self._stored[own] = name

    def _select(self, notes: list[str]) -> None:
        """Keep what the model reads; the rest is listed, or refused."""
        self._take_apart(architecture_of(self.config))
        self._put_together(architecture_of(self.config))
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

    def _put_together(self, model: Architecture) -> None:
        """Give tensors that the files hold in pieces their own names. Raises CheckpointError for a missing piece,
        UnsupportedModelError for one of another shape or type."""
        tensors = model.tensors()
        for name, pieces in model.pieces_in(self._headers).items():
            if name in self._headers:  # as conversions and exports of ours have it
                continue
            types = {self._piece_type(piece, tensors[name]): piece.tensor for piece in pieces}
            if len(types) > 1 or not types.keys() <= DTYPES.keys():
                told = ", ".join(f"{tensor} {dtype}" for dtype, tensor in types.items())
                raise UnsupportedModelError(
                    f"{self.path}: experts of a layer have one type of {', '.join(DTYPES)}, not {told}"
                )
            self._pieces[name] = pieces
            self._headers[name] = tensors[name].shape, next(iter(types))
            self._files[name] = self._files[pieces[0].tensor]
        for tensor in {piece.tensor for pieces in self._pieces.values() for piece in pieces}:
            del self._headers[tensor]

    def _piece_type(self, piece: Piece, spec: TensorSpec) -> str:
        """The type of a piece, whose tensor is there in the right shape."""
        asked = f"config.json asks for it ({', '.join(spec.keys)})"
        if piece.tensor not in self._headers:
            raise CheckpointError(f"{self.path}: tensor {piece.tensor!r} is missing, but {asked}")
        shape, dtype = self._headers[piece.tensor]
        if shape != (wanted := piece.shape(spec)):
            raise UnsupportedModelError(
                f"{self.path}: {piece.tensor} has shape {list(shape)}, but {asked} in {list(wanted)}"
            )
        return dtype

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

    def weight_files(self) -> list[Path]:
        """The files that hold tensors, in order of their names."""
        return [self.path / name for name in sorted(set(self._files.values()))]

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
            self._described,
            *self._files.values(),
            *(name for name in self._optional if (self.path / name).is_file()),
        }
        hashes = {}
        for name in sorted(names):
            hashes[name] = sha256_of(self.path / name, given_up)
        self._hashes = hashes
        return hashes

    def _read(self, name: str, shape: tuple[int, ...], fmt: WeightFormat, rows: slice | None) -> WeightTensor:
        file = self._files[name]
        try:
            # numpy has no bfloat16: torch reads the bits
            framework = "pt" if fmt.dtype == "bf16" else "np"
            if name in self._pieces:
                values = self._gathered(framework, name, rows or slice(0, shape[0]))
            else:
                values = _plain(self._values(file, framework, name, rows))
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(f"{self.path / file}: tensor {name!r} cannot be read: {error}") from error
        values = np.asarray(values).reshape(shape)
        require_finite(self.path / file, name, rows.start if rows else 0, values)
        values.flags.writeable = False
        return WeightTensor(name, shape, fmt, {"values": values})

    def _gathered(self, framework: str, name: str, rows: slice) -> np.ndarray:
        """Some rows of a tensor that the files hold in pieces."""
        found, above = [], 0
        for piece in self._pieces[name]:
            start, stop = max(rows.start, above) - above, min(rows.stop, above + piece.rows) - above
            above += piece.rows
            if start >= stop:
                continue
            file = self._files[piece.tensor]
            if piece.at is None:
                found.append(_plain(self._values(file, framework, piece.tensor, slice(start, stop))))
                continue
            columns = slice(piece.first + start, piece.first + stop)
            with open_file(self.path / file, framework) as opened:
                stack = opened.get_slice(self._stored.get(piece.tensor, piece.tensor))
                found.append(_plain(stack[piece.at : piece.at + 1, :, columns])[0].T)
        return np.concatenate(found)

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
        name = self._stored.get(name, name)
        # Mapped anew each time: with the mapping go the pages that were read, and memory stays at a tensor.
        with open_file(self.path / file, framework) as opened:
            return opened.get_tensor(name) if rows is None else opened.get_slice(name)[rows]


def _plain(values: Any) -> np.ndarray:
    """An array of numpy, of bfloat16 the bits."""
    if isinstance(values, np.ndarray):
        return values
    import torch

    return values.view(torch.uint16).numpy()
