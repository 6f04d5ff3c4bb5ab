"""A sweep's folder. Everything in it is named by key and written whole, so that any number of processes may work there.

    cells/KEY.json        a result: the figures, what they rest on, what they are called
    models/KEY/           a converted model, shared by the cells that differ in protocol alone
    models/KEY.json       what its conversion took, written after the folder
    baselines/KEY.npz     an unconverted model's scores; KEY.logits beside it, f32, where they are not too large
    tokens/KEY.npz        a text, tokenized
    sweeps/KEY.json       which cells a sweep has; KEY.state beside it, what has become of those without a result

Only `cells` holds results, and `sweeps` tells others of a run (see `journal`). The rest is intermediate, and made again
where it is missing.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from eval.result import PerplexityResult
from workbench.errors import ProtocolError, SweepError
from workbench.files.reading import read_text

CELL_KIND = "workbench-cell"


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a file, None where there is no such file or it holds no JSON object."""
    try:
        values = json.loads(read_text(path))
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) else None


def require_folder(folder: Path) -> None:
    """Raise SweepError if a folder can be neither there nor made: a file stands in its place, or on the way."""
    folder = folder.absolute()
    there = next(each for each in (folder, *folder.parents) if os.path.lexists(each))
    if not there.is_dir():
        raise SweepError(f"{there} is a file, or leads nowhere; allowed: a folder, or one that can be made")


class Store:
    """The files of one sweep's folder."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).absolute()

    def cell(self, key: str) -> Path:
        return self.folder / "cells" / f"{key}.json"

    def model(self, key: str) -> Path:
        return self.folder / "models" / key

    def model_record(self, key: str) -> Path:
        return self.folder / "models" / f"{key}.json"

    def baseline(self, key: str) -> Path:
        return self.folder / "baselines" / f"{key}.npz"

    def logits(self, key: str) -> Path:
        return self.folder / "baselines" / f"{key}.logits"

    def tokens(self, key: str) -> Path:
        return self.folder / "tokens" / f"{key}.npz"

    def sweep(self, key: str) -> Path:
        return self.folder / "sweeps" / f"{key}.json"

    def sweep_state(self, key: str) -> Path:
        return self.folder / "sweeps" / f"{key}.state"

    def results(self) -> list[str]:
        """Keys of the results that are there."""
        return sorted(path.stem for path in (self.folder / "cells").glob("[!.]*.json"))

    def result(self, key: str) -> dict[str, Any] | None:
        """A finished cell's record, None if it is not there."""
        found = read_json(self.cell(key))
        return found if found and found.get("kind") == CELL_KIND and found.get("key") == key else None

    def has_model(self, key: str) -> bool:
        return read_json(self.model_record(key)) is not None and (self.model(key) / "manifest.json").is_file()

    def has_baseline(self, key: str) -> bool:
        """Whether cells can be paired with it: its result is there, and scores that can be read."""
        if self.result(key) is None:
            return False
        try:
            PerplexityResult.load(self.baseline(key))
        except ProtocolError:  # missing or damaged: it is scored again
            return False
        return True

    def remove_intermediate(self) -> None:
        """Delete converted models, stored baselines and tokens; results stay, and what is told of runs."""
        for name in ("models", "baselines", "tokens"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
