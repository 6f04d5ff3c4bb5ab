"""A sweep by its folder alone: one that runs in another process or on another machine, has ended, or was killed.

    sweep = Followed("runs/blocks")
    sweep.refresh()                  # look again; then as with a `Sweep`: print(sweep), sweep.rows(), sweep.table()
    sweep.resumable().run()          # go on with what is missing, if nobody else does

Models and texts need not be here, except to go on.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from workbench.errors import SweepError

from .cells import Cell
from .journal import TOLD, last_state, read_sweep
from .state import CellState, Facts, SweepState
from .store import Store
from .sweep import Sweep

#: A run that has not told anything for so long is lost: its beat comes every few seconds.
SILENCE_SECONDS = 20.0


class Followed(SweepState):
    """The sweep that began last in `folder`; where none has left its cells, the folder's results alone.

    lost: the run was not ended and yet tells nothing any more, as after a kill. Raises SweepError for a folder with
    neither a sweep nor a result.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__(Store(folder), "")
        self.lost = False
        self._key = ""
        self._stored: dict[str, Any] = {}
        self._heard: tuple[Any, float] = (None, 0.0)
        self._damaged: set[str] = set()
        self.refresh()
        if not self.cells:
            raise SweepError(
                f"{folder}: there is nothing to follow; allowed: the output folder of a sweep that has begun, or one "
                "with results in cells/"
            )

    def refresh(self) -> None:
        """Look into the folder once more."""
        told = last_state(self.store)
        if told is None:
            self._results_alone()
            return
        key, state = told
        if key != self._key:
            self._open(key, state)
        again = state["began"] != self.began
        self._listen(state)
        for cell in self.cells:
            if cell.status == "done" and not again:
                continue
            if record := cell.record or self.store.result(cell.key):
                cell.take(record)
                cell.stored = _older(record, state)
            elif (news := state["cells"].get(cell.key)) and (self.running or news["status"] == "failed"):
                for name in TOLD:
                    setattr(cell, name, news[name])
            else:
                cell.wait()

    def _open(self, key: str, state: dict[str, Any]) -> None:
        """Another sweep has begun here."""
        stored = read_sweep(self.store, key)
        if stored is None:
            raise SweepError(f"{self.store.sweep(key)}: is missing, or of another version")
        self._key, self._stored, self.name = key, stored, stored["name"]
        self.cells = tuple(
            CellState(None, Facts(**cell["facts"]), cell["key"], {}, cell["baseline"])
            for cell in stored["cells"]
        )

    def _listen(self, state: dict[str, Any]) -> None:
        """Whether the run is alive. Clocks of two machines may differ, so a new beat counts whatever its time."""
        self.began, self.ended = state["began"], state["ended"]
        self.slots, self.note = state["slots"], state["note"]
        beat, now = (self._key, state["written"]), time.monotonic()
        if beat != self._heard[0]:
            first = self._heard[0] is None
            self._heard = beat, now - (max(0.0, time.time() - state["written"]) if first else 0.0)
        silent = now - self._heard[1] > SILENCE_SECONDS
        self.running = self.ended is None and not silent
        self.lost = self.ended is None and silent
        if self.lost:
            self.ended = state["written"]

    def _results_alone(self) -> None:
        known = {state.key for state in self.cells} | self._damaged
        new = [state for key in self.store.results() if key not in known for state in self._result(key)]
        self.cells += tuple(new)

    def _result(self, key: str) -> Iterator[CellState]:
        record = self.store.result(key)
        if record is None:
            self._damaged.add(key)
            return
        try:
            state = CellState(None, Facts.of_record(record), key, record["identity"], stored=True)
            state.take(record)
            yield state
        except (KeyError, TypeError, AttributeError):  # of another version, or no result
            self._damaged.add(key)

    def resumable(self) -> Sweep:
        """The same cells as a sweep that can run here. Hashes models and texts; raises SweepError where the folder does
        not say what its cells are, or while the sweep still runs elsewhere, and what opening models raises."""
        if self.running:
            raise SweepError(f"{self.store.folder}: the sweep runs already, in another process")
        if not self._stored:
            raise SweepError(
                f"{self.store.folder}: the folder holds results, and not what was to be run; start from the TOML file"
            )
        cells = [Cell.from_json(stored["cell"]) for stored in self._stored["cells"]]
        return Sweep(cells, self.store.folder, name=self.name, keep_logits=self._stored["keep_logits"])


def _older(record: dict[str, Any], state: dict[str, Any]) -> bool:
    """Whether a result was there before the run began (both to the second)."""
    try:
        return datetime.fromisoformat(record["created"]).timestamp() < int(state["began"])
    except (KeyError, TypeError, ValueError):
        return False


def opened(source: Any) -> SweepState:
    """What a view may be given: a sweep, a TOML file that describes one, or a folder that holds one."""
    if isinstance(source, SweepState):
        return source
    path = Path(source)
    return Sweep.read(path) if path.is_file() or path.suffix == ".toml" else Followed(path)
