"""Opening whatever holds a model: a converted folder (`manifest.json`) or a Hugging Face checkpoint."""

from __future__ import annotations

from typing import Any

from workbench.formats.reader import StoredModel
from workbench.models.checkpoint import Checkpoint
from workbench.models.hub import resolve


def open_source(model: Any, *, verify: bool = True) -> Any:
    """A StoredModel where the folder (or hub repository) has a `manifest.json`, a Checkpoint otherwise.

    model: a path or a hub id; anything that can `describe` its tensors is opened already, and comes back as it is.
    `verify` is passed to StoredModel.open: whether the checksums of the weights are read through at once.
    Raises FormatError for a damaged converted model, CheckpointError for everything else.
    """
    if hasattr(model, "describe"):
        return model
    path = resolve(model)
    if (path / "manifest.json").exists():
        return StoredModel.open(path, verify=verify)
    return Checkpoint.open(path)
