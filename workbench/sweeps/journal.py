"""What a running sweep tells those who follow it by its folder, from whatever process or machine.

`sweeps/KEY.json` is written when a run begins: the cells. `sweeps/KEY.state` is rewritten while it runs: what has
become of the cells that have no result, and a beat that shows whether anybody is still there. KEY is a hash of the
cells' keys, so that sweeps that share a folder do not share these files.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from typing import Any

from workbench.errors import StorageError
from workbench.files.writing import write_json
from workbench.known import known

from .identity import key
from .state import CellState, SweepState
from .store import Store, read_json

SWEEP_KIND, STATE_KIND, VERSION = "workbench-sweep", "workbench-sweep-state", 1
#: Between two writings of a state that changes, and of one that does not.
LEAST_SECONDS, BEAT_SECONDS = 1.0, 5.0
#: What the state says of a cell without a result.
TOLD = ("status", "stage", "progress", "began", "error", "worker", "lost")


class Journal:
    """Made when a run begins, called after every change, closed at its end."""

    def __init__(self, sweep: SweepState, keep_logits: int) -> None:
        self._store, self._sweep = sweep.store, sweep
        self._key = key({"cells": sorted(state.key for state in sweep.cells)})
        self._last, self._written, self._beat = 0.0, {}, 0
        cells = [
            {
                "key": state.key,
                "baseline": state.baseline,
                "facts": state.facts._asdict(),
                "cell": known(state.cell).to_json(),
            }
            for state in sweep.cells
        ]
        values = {"kind": SWEEP_KIND, "version": VERSION, "name": sweep.name, "keep_logits": keep_logits}
        write_json(self._store.sweep(self._key), {**values, "cells": cells})
        self()

    def __call__(self) -> None:
        """Write the state, unless it was just written, or says nothing new."""
        now = time.monotonic()
        if now - self._last >= LEAST_SECONDS:
            told = self._told()
            if told != self._written or now - self._last >= BEAT_SECONDS:
                self._write(told)

    def close(self) -> None:
        """Write how the run has ended."""
        self._write(self._told())

    def _told(self) -> dict[str, Any]:
        sweep = self._sweep
        return {
            "began": sweep.began,
            "ended": sweep.ended,
            "slots": sweep.slots,
            "note": sweep.note,
            "cells": dict(_untold(sweep.cells)),
        }

    def _write(self, told: dict[str, Any]) -> None:
        self._last, self._written, self._beat = time.monotonic(), told, self._beat + 1
        values = {"kind": STATE_KIND, "version": VERSION, "beat": self._beat, "written": time.time(), **told}
        # A folder that cannot be written for a moment costs followers a beat, and must not cost the run.
        with contextlib.suppress(StorageError):
            write_json(self._store.sweep_state(self._key), values, durable=False)


def _untold(cells: Iterable[CellState]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Cells that neither have a result nor simply wait, as key and `TOLD`."""
    for state in cells:
        if state.status != "done" and (state.status != "waiting" or state.stage or state.lost):
            yield state.key, {name: getattr(state, name) for name in TOLD}


def last_state(store: Store) -> tuple[str, dict[str, Any]] | None:
    """Key and state of the sweep that began last in a folder; None where none has left a state."""
    found = []
    for path in (store.folder / "sweeps").glob("[!.]*.state"):
        values = read_json(path)
        if values and values.get("kind") == STATE_KIND and values.get("version") == VERSION:
            found.append((path.stem, values))
    return max(found, key=lambda each: (each[1]["began"], each[0]), default=None)


def read_sweep(store: Store, key: str) -> dict[str, Any] | None:
    """The cells of a sweep, as `Journal` wrote them; None where they are not there."""
    values = read_json(store.sweep(key))
    good = values is not None and values.get("kind") == SWEEP_KIND and values.get("version") == VERSION
    return values if good else None
