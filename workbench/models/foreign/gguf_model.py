"""A model in a GGUF file, or in its shards, as a source like any other: names, shapes and rows as in a Hugging Face
checkpoint, config.json, and a folder with its tokenizer.

Types that are `w = s (q - z)` keep their integers bit for bit; the others are dequantized to f32 by the `gguf` package,
and `notes` says which.
"""

from __future__ import annotations

import hashlib
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np

from workbench.dtypes import NUMPY
from workbench.errors import CheckpointError, UnsupportedModelError
from workbench.files.reading import open_regular
from workbench.files.writing import storing
from workbench.formats.errors import FormatError
from workbench.formats.spec import WeightFormat
from workbench.formats.tensor import WeightTensor, float_tensor
from workbench.models.checkpoint import PART_BYTES
from workbench.models.contents import check_read, unread
from workbench.models.families import architecture_of
from workbench.models.finite import require_finite
from workbench.models.foreign import gguf_config, gguf_tokenizer
from workbench.models.foreign.gguf_blocks import FLOATS, INTEGERS, WHY, floats_of, grid_of, quants_of
from workbench.models.foreign.gguf_file import GgufFile, GgufTensor, open_gguf
from workbench.models.foreign.integers import fitting, to_tensor
from workbench.models.specs import TensorSpec

#: Metadata that the provenance of a conversion keeps: texts and numbers that are no vocabulary.
_KEPT = "general."


class GgufModel:
    """Made by `open`. path: of the file, or of the first shard. unread, notes, origin: as of a Checkpoint."""

    def __init__(self, file: GgufFile) -> None:
        self.path = file.files[0]
        self._file = file
        where = str(self.path)
        self._kind = gguf_config.known(file.metadata, where)
        stored = dict(file.tensors)
        factors = stored.pop(gguf_config.ROPE_FACTORS, None)
        shapes = {name: tensor.shape for name, tensor in stored.items()}
        try:
            own = None if factors is None else floats_of(factors.data, factors)[0]
        except (ValueError, NotImplementedError) as error:
            raise CheckpointError(f"{where}: {gguf_config.ROPE_FACTORS} cannot be read: {error}") from error
        self.config = {
            **gguf_config.config_of(file.metadata, shapes, own, where),
            **gguf_tokenizer.ids_of(file.metadata, where),
        }
        self._tensors = {gguf_config.name_here(name, self._kind, where): t for name, t in stored.items()}
        self._formats: dict[str, WeightFormat] = {}
        model = architecture_of(self.config)
        self._tensors = {n: _by_rows(n, t, model.tensors(), where) for n, t in self._tensors.items()}
        headers = {name: (tensor.shape, "F32") for name, tensor in self._tensors.items()}
        check_read(model.tensors(), headers, where)
        self.unread = unread(model, headers, where)
        self._tensors = {name: t for name, t in self._tensors.items() if name not in self.unread}
        for name, tensor in {t.type_name: (n, t) for n, t in self._tensors.items()}.values():
            _require_readable(tensor, name, where)
        types = Counter(tensor.type_name for tensor in self._tensors.values())
        self.notes = tuple(
            f"tensors in {name} ({count}) {_becomes(name)}"
            for name, count in types.items()
            if name not in FLOATS
        )
        described = {name: value for name, value in file.metadata.items() if name.startswith(_KEPT)}
        self.origin = {"gguf": {**_json(described), "types": dict(types.most_common())}}

    @classmethod
    def open(cls, path: str | Path) -> GgufModel:
        """A GGUF file or any shard of one. Raises CheckpointError, UnsupportedModelError naming what is not known."""
        return cls(open_gguf(Path(path)))

    @property
    def tokenizer_path(self) -> Path:
        """A folder with the tokenizer's files, which lasts as long as the process."""
        return self._tokenizer_path

    @cached_property
    def _tokenizer_path(self) -> Path:
        files = gguf_tokenizer.files_of(self._file.metadata, str(self.path))
        digest = hashlib.sha256(b"\0".join(files.values())).hexdigest()
        folder = Path(_tokenizers().name) / digest[:16]
        with storing(folder):
            folder.mkdir(exist_ok=True)
            for name, data in files.items():
                (folder / name).write_bytes(data)
        return folder

    def names(self) -> list[str]:
        """Names of all tensors that the model reads, in the order of the file."""
        return list(self._tensors)

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def _tensor(self, name: str) -> GgufTensor:
        if name not in self._tensors:
            raise CheckpointError(f"{self.path}: no tensor {name!r}")
        return self._tensors[name]

    def describe(self, name: str) -> tuple[tuple[int, ...], WeightFormat]:
        """Shape and format of a tensor; the first time it looks at the scales."""
        tensor = self._tensor(name)
        if name not in self._formats:
            grid = grid_of(tensor) if len(tensor.shape) == 2 else None
            if grid is not None and not grid.finite:
                raise CheckpointError(f"{self.path}: scales of {name!r} are not finite")
            fmt = None if grid is None else fitting(grid)[0]
            self._formats[name] = fmt or WeightFormat(FLOATS.get(tensor.type_name, "f32"))
        return tensor.shape, self._formats[name]

    def stored_as(self, name: str) -> str:
        """The GGUF type of a tensor; for people."""
        return self._tensor(name).type_name

    def tensor(self, name: str) -> WeightTensor:
        return self._rows(name, slice(None))

    def parts(self, name: str) -> Iterator[tuple[int, WeightTensor]]:
        """The tensor in ranges of rows of at most PART_BYTES as float32: (first row, rows), in order."""
        shape, _ = self.describe(name)
        if len(shape) != 2:
            yield 0, self.tensor(name)
            return
        step = max(1, PART_BYTES // (4 * shape[1]))
        for start in range(0, shape[0], step):
            yield start, self._rows(name, slice(start, min(start + step, shape[0])))

    def _rows(self, name: str, rows: slice) -> WeightTensor:
        """Rows of a matrix, in the order of a Hugging Face checkpoint; or a whole vector."""
        tensor, (shape, fmt) = self._tensor(name), self.describe(name)
        heads = gguf_config.heads_of(name, self._kind, self.config)
        data = tensor.data[rows]
        if heads is not None:
            data = tensor.data[gguf_config.order_of_halves(shape[0], heads)[rows]]
        if fmt.is_quantized:
            grid = grid_of(GgufTensor((len(data), shape[1]), tensor.kind, tensor.block, data))
            assert grid is not None, "describe found its format"
            try:
                return to_tensor(name, grid, quants_of(data, tensor), fmt)
            except FormatError as error:
                raise CheckpointError(f"{self.path}: {error}") from error
        here = shape if len(shape) != 2 else (len(data), shape[1])
        if tensor.type_name in FLOATS:
            values = np.ascontiguousarray(data).view(NUMPY[fmt.dtype]).reshape(here)
        else:
            values = floats_of(data, tensor).reshape(here)
        require_finite(self.path, name, rows.start or 0, values)
        return float_tensor(name, values, fmt.dtype)

    def weight_files(self) -> list[Path]:
        """The file, or each shard."""
        return list(self._file.files)

    def source_hashes(self, given_up: threading.Event | None = None) -> dict[str, str]:
        """SHA-256 of the file or of each shard, by name. Setting `given_up` ends it with InterruptedError."""
        found = {}
        for path in self._file.files:
            digest = hashlib.sha256()
            with open_regular(path) as stream:
                while chunk := stream.read(1 << 20):
                    if given_up is not None and given_up.is_set():
                        raise InterruptedError(f"hashing {path} was given up")
                    digest.update(chunk)
            found[path.name] = digest.hexdigest()
        return found


def _by_rows(name: str, tensor: GgufTensor, specs: Mapping[str, TensorSpec], where: str) -> GgufTensor:
    """A tensor [experts, rows, columns] as the matrix that it is here, one expert under the other; others as they are.

    Raises UnsupportedModelError where the metadata say other numbers of experts.
    """
    if len(tensor.shape) != 3 or name not in specs:
        return tensor
    count, rows, columns = tensor.shape
    if count != specs[name].experts:
        raise UnsupportedModelError(
            f"{where}: {name} has {count} experts; the metadata say {specs[name].experts}"
        )
    return replace(tensor, shape=(count * rows, columns))


@cache
def _tokenizers() -> tempfile.TemporaryDirectory:
    """Where tokenizers' files are put for transformers to read; gone with the process."""
    return tempfile.TemporaryDirectory(prefix="workbench-tokenizers-")


def _becomes(type_name: str) -> str:
    if type_name in INTEGERS:
        return "keep their integers"
    return f"are dequantized to f32: {WHY.get(type_name, 'their values lie on no even grid')}"


def _require_readable(tensor: GgufTensor, name: str, where: str) -> None:
    """Raise UnsupportedModelError for a type that nobody here reads."""
    if tensor.type_name in INTEGERS:
        return
    try:
        floats_of(tensor.data[:1], tensor)
    except NotImplementedError as error:
        raise UnsupportedModelError(
            f"{where}: tensor {name!r} is of type {tensor.type_name}, which the gguf package does not read"
        ) from error


def _json(values: dict[str, Any]) -> dict[str, Any]:
    """What of metadata is JSON: arrays of numbers are not kept."""
    return {name: value for name, value in values.items() if isinstance(value, str | int | float | bool)}


def gguf_in(folder: Path) -> Path | None:
    """The GGUF file of a folder that holds nothing else of a model: the one, or the first shard.

    Raises CheckpointError where there are several models.
    """
    found = sorted(folder.glob("*.gguf"))
    if not found:
        return None
    first = found[0]
    own = set(open_gguf(first).files) if "-of-" in first.name else {first}
    if set(found) - own:
        raise CheckpointError(
            f"{folder}: several GGUF files ({', '.join(each.name for each in found[:4])}); name one"
        )
    return first
