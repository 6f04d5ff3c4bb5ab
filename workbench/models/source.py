"""Opening whatever holds a model: a converted folder (`manifest.json`) or a Hugging Face checkpoint."""

from __future__ import annotations

from pathlib import Path

from workbench.formats.reader import StoredModel
from workbench.models.checkpoint import Checkpoint
from workbench.models.hub import resolve


def open_source(path_or_hub_id: str | Path, *, verify: bool = True) -> StoredModel | Checkpoint:
    """A StoredModel where the folder (or hub repository) has a `manifest.json`, a Checkpoint otherwise.

    `verify` is passed to StoredModel.open: whether the checksums of the weights are read through at once.
    Raises FormatError for a damaged converted model, CheckpointError for everything else.
    """
    path = resolve(path_or_hub_id)
    if (path / "manifest.json").is_file():
        return StoredModel.open(path, verify=verify)
    return Checkpoint.open(path)
