"""Published cells by name: what was measured by whom, and how this project measures it again.

The registry is `published.toml` beside this file. A cell's model and text are looked for on this machine; nothing is
downloaded but the data sets of `eval.texts`.
"""

from __future__ import annotations

import hashlib
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from workbench.errors import SweepError, WorkbenchError
from workbench.files.reading import read_bytes
from workbench.formats.errors import FormatError

from .cells import EMBEDDED, Cell, TextSource, convert_options, with_text_files

REGISTRY = Path(__file__).with_name("published.toml")
MODELS_VARIABLE, TEXTS_VARIABLE = "WORKBENCH_MODELS", "WORKBENCH_TEXTS"
#: A folder with `models` and `data` in it, where neither of the above is given.
SHARED_VARIABLE = "WORKBENCH_SHARED"


class NotHereError(SweepError):
    """A published cell's model, text or quantizer is not here; says how to get it."""


@dataclass(frozen=True)
class Published:
    """A published perplexity. source: title, url, where, own; model and text: the registry's entries. tolerance: of the
    ratio to `ppl`. options: of the conversion, None for the model as it is."""

    name: str
    source: Mapping[str, Any]
    model: Mapping[str, Any]
    text: Mapping[str, Any]
    protocol: str
    ppl: float
    tolerance: float
    options: Mapping[str, Any] | None = None
    max_windows: int | None = None
    note: str = ""

    @property
    def own(self) -> bool:
        """Whether the figure is this project's own and not somebody else's."""
        return bool(self.source.get("own", False))

    @property
    def reference(self) -> str:
        return f"{self.source['title']} ({self.source['url']}; {self.source['where']})"

    @property
    def unavailable(self) -> str:
        """Why this version cannot make the cell's conversion, "" if it can."""
        try:
            if self.options:
                convert_options({key: self.options[key] for key in ("format", "quantizer")})
        except (WorkbenchError, FormatError) as error:
            return str(error)
        return ""

    def accepts(self, ppl: float | None) -> bool:
        return ppl is not None and abs(ppl / self.ppl - 1) <= self.tolerance

    def cell(self, models: str | Path | None = None, texts: str | Path | None = None) -> Cell:
        """The cell to run, with model and text found in these folders (default: what the environment names).

        Raises NotHereError.
        """
        if why := self.unavailable:
            raise NotHereError(f"{self.name}: this version cannot convert so: {why}")
        texts = _folder(texts, TEXTS_VARIABLE, "data")
        options = self.options and with_text_files(self.options, texts)
        return Cell(
            model=self._find_model(_folder(models, MODELS_VARIABLE, "models")),
            protocol=self.protocol,
            text=self._find_text(texts),
            options=options,
            max_windows=self.max_windows,
            paired=False,
            name=self.model["folder"],
        )

    def _find_model(self, folder: Path | None) -> str:
        name, hub_id = self.model["folder"], self.model.get("id")
        if name == EMBEDDED:
            return EMBEDDED
        if folder and (folder / name / "config.json").is_file():
            return str((folder / name).resolve())
        if hub_id and (snapshot := _in_hub_cache(hub_id)):
            return snapshot
        where = f"in {folder}" if folder else f"since neither --models nor {MODELS_VARIABLE} names a folder"
        raise NotHereError(
            f"{self.name}: the model {name!r} is not there, {where}. To get it: {self.model['get']}"
        )

    def _find_text(self, folder: Path | None) -> TextSource:
        name, separator = self.text["file"], self.text.get("separator")
        if name == EMBEDDED:
            return TextSource(EMBEDDED, separator)
        if folder and (file := folder / name).is_file():
            found = hashlib.sha256(read_bytes(file)).hexdigest()
            if found != self.text["sha256"]:
                raise NotHereError(
                    f"{self.name}: {file} is another text (sha256 {found[:12]}, not {self.text['sha256'][:12]})"
                )
            return TextSource(str(file.resolve()), separator)
        if "dataset" in self.text:
            return TextSource(self.text["dataset"], separator, dataset=True)
        where = f"in {folder}" if folder else f"since neither --texts nor {TEXTS_VARIABLE} names a folder"
        raise NotHereError(f"{self.name}: the text {name!r} is not there, {where}. It is: {self.text['get']}")


def _folder(given: str | Path | None, variable: str, shared: str) -> Path | None:
    if given:
        return Path(given)
    if named := os.environ.get(variable):
        return Path(named)
    return Path(os.environ[SHARED_VARIABLE]) / shared if os.environ.get(SHARED_VARIABLE) else None


def _in_hub_cache(hub_id: str) -> str | None:
    """The folder of a model that was downloaded before."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(hub_id, "config.json")
    return str(Path(found).parent) if isinstance(found, str) else None


@cache
def registry() -> dict[str, Published]:
    """All published cells by name, in the order of the file."""
    return parse(REGISTRY.read_text(encoding="utf-8"))


def parse(text: str) -> dict[str, Published]:
    """The cells of a registry's text. Raises SweepError for a cell whose source, model or text is not in it."""
    values = tomllib.loads(text)
    found = {}
    for name, cell in values["cells"].items():
        for key in ("source", "model", "text"):
            if cell[key] not in values[f"{key}s"]:
                raise SweepError(f"published cell {name!r}: {key} = {cell[key]!r} is not in [{key}s]")
        parts = {key: values[f"{key}s"][cell[key]] for key in ("source", "model", "text")}
        found[name] = Published(name=name, **{**cell, **parts})
    return found


def select(patterns: Sequence[str]) -> list[Published]:
    """The cells whose names match one of the patterns (`*`, `?`). SweepError for a pattern that matches none."""
    known = registry()
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in known):
            raise SweepError(f"no published cell {pattern!r}; allowed: {', '.join(known)}")
    return [cell for name, cell in known.items() if any(fnmatchcase(name, p) for p in patterns)]
