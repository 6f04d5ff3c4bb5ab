"""Opening whatever holds a model: a converted folder (`manifest.json`) or a Hugging Face checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from workbench.errors import CheckpointError
from workbench.formats.reader import StoredModel
from workbench.formats.spec import WeightFormat
from workbench.formats.tensor import WeightTensor
from workbench.models.architecture import Architecture
from workbench.models.catalogue import provenance_of
from workbench.models.checkpoint import Checkpoint
from workbench.models.contents import check_read, unread, unread_notes
from workbench.models.families import architecture_of
from workbench.models.foreign.checkpoint import open_checkpoint
from workbench.models.foreign.gguf_model import GgufModel, gguf_in
from workbench.models.foreign.mlc import MlcModel, mlc_in
from workbench.models.foreign.onnx_model import OnnxModel, onnx_in
from workbench.models.hub import INDEX, WEIGHTS, resolve
from workbench.models.orders import check_orders


class Source(Protocol):
    """What holds a model: a StoredModel, a Checkpoint, or what reads like them. config: as in `config.json`; path and
    tokenizer_path: its folder, and the one of the tokenizer's files."""

    path: Path

    @property
    def config(self) -> dict[str, Any]: ...

    @property
    def tokenizer_path(self) -> Path: ...

    def weight_files(self) -> list[Path]:
        """The files that hold the weights."""
        ...

    def names(self) -> list[str]:
        """Names of all tensors that the model reads."""
        ...

    def describe(self, name: str, /) -> tuple[tuple[int, ...], WeightFormat]:
        """Shape and format of a tensor, before any weight is read. Raises an error for one that is missing."""
        ...

    def tensor(self, name: str) -> WeightTensor:
        """The whole tensor, planar and low-first."""
        ...

    def parts(self, name: str) -> Iterator[tuple[int, WeightTensor]]:
        """The tensor in ranges of rows: (first row, rows), in order."""
        ...


#: A source that no conversion of ours has made.
Original = Checkpoint | GgufModel


def open_source(model: Any, *, verify: bool = True) -> Any:
    """A StoredModel where the folder (or hub repository) has a `manifest.json`, a GgufModel where it is a GGUF file, or
    a folder of those alone, an OnnxModel where it is an ONNX file, or a folder with no other weights, an MlcModel where
    MLC has written the folder, else a Checkpoint, whose matrices may be quantized in layouts of others.

    model: a path or a hub id; anything that can `describe` its tensors is opened already, and comes back as it is.
    `verify` is passed to StoredModel.open: whether the checksums of the weights are read through at once.
    Raises FormatError for a damaged converted model, UnsupportedModelError for a configuration or tensors of no family
    that is known, CheckpointError for everything else (WorkbenchError where a package that reads it is missing).
    """
    if hasattr(model, "describe"):
        return model
    source = _opened(resolve(model), verify)
    check_orders(source, architecture_of(source.config).orders)
    return source


def _opened(path: Path, verify: bool) -> Any:
    """What reads a path, whose contents are what its configuration asks for."""
    if (path / "manifest.json").exists():
        stored = StoredModel.open(path, verify=verify)
        check_contents(stored, architecture_of(stored.config))
        return stored
    if path.suffix == ".gguf" and not path.is_dir():
        return GgufModel.open(path)
    if not (path / "config.json").exists() and (file := gguf_in(path)) is not None:
        return GgufModel.open(file)
    if not (path / "config.json").exists() and path.is_dir() and mlc_in(path):
        return MlcModel.open_folder(path)
    if path.suffix == ".onnx" and not path.is_dir():
        return OnnxModel.open_file(path)
    if not any((path / name).exists() for name in (WEIGHTS, INDEX)) and (file := onnx_in(path)) is not None:
        return OnnxModel.open_file(file)
    return open_checkpoint(path)


def check_contents(stored: StoredModel, config: Architecture) -> dict[str, str]:
    """The tensors of a converted model that it does not read, and why; there are some where an earlier version
    stored all that it found.

    Raises CheckpointError for what is missing, UnsupportedModelError for what is another family's.
    """
    headers = {name: (stored.describe(name)[0], "F32") for name in stored.names()}
    check_read(config.tensors(), headers, str(stored.path))
    return unread(config, headers, str(stored.path))


def require_floats(source: Source, why: str) -> None:
    """Raises CheckpointError for a source with a matrix that is quantized: why says what needs its floats."""
    for name in source.names():
        if (has := source.describe(name)[1]).is_quantized:
            raise CheckpointError(
                f"{source.path}: tensor {name!r} is quantized already ({has}); {why}, which needs the checkpoint in "
                "floats (f32, f16 or bf16) that this was made from"
            )


def notes_of(source: Source, config: Architecture) -> list[tuple[str, str, str]]:
    """What a user should know of a model's files, as choices (what, chosen, why) beside those of the runtime: what does
    not count, and where a fetched one came from if that changes figures."""
    notes = [*config.notes, *getattr(source, "notes", ()), *unread_notes(getattr(source, "unread", {}))]
    if "note" in (provenance := provenance_of(source.path) or {}):
        notes.append(provenance["note"])
    return [("note", note, "of the model's files") for note in notes]
