"""A sweep: cells, what has become of each, and the loop that runs what is missing.

    sweep = Sweep(cells, "runs/blocks")
    sweep.run(processes=2)          # or sweep.start(); in a notebook the object shows its state
    sweep.table().markdown()

The state is plain data that anybody may read while the sweep runs (`Sweep.cells`, `rows`, `seconds_left`), and
`observe` tells of changes. A result is a file by its key (see `identity` and `store`), so a sweep that is started again
runs only the cells that have none.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workbench.errors import SweepError

from .cells import Cell
from .executor import Event, Executor
from .identity import Identities, key
from .schedule import Schedule
from .store import Store

STATUSES = ("waiting", "running", "done", "failed")
#: Logits of a baseline are kept for its cells up to this size; beyond it cells have no KL.
KEEP_LOGITS = 4 << 30
TICK_SECONDS = 0.5


@dataclass
class CellState:
    """A cell and what has become of it. Only the running sweep writes it.

    status      one of STATUSES
    stage       of a waiting or running cell: "", "quantizing" or "scoring"
    progress    share of its windows scored, 0 to 1
    seconds     of scoring, once done
    error       why it failed
    lost        workers that were lost while they had it
    stored      whether its result was there before
    """

    cell: Cell
    key: str
    identity: dict[str, Any] = field(repr=False)
    baseline: str | None = None
    status: str = "waiting"
    stage: str = ""
    progress: float = 0.0
    seconds: float | None = None
    error: str = ""
    worker: str = ""
    lost: int = 0
    stored: bool = False
    record: dict[str, Any] | None = field(default=None, repr=False)

    @property
    def label(self) -> str:
        return self.cell.label


Observer = Callable[["Sweep"], None]


class Sweep:
    """Cells of one folder. Hashes models and texts when made; raises what opening them raises.

    cells: a cell that is paired brings its baseline with it; cells with equal content are one. folder: where everything
    goes, made if missing. keep_logits: bytes, see KEEP_LOGITS.
    """

    def __init__(
        self, cells: Sequence[Cell], folder: str | Path, *, name: str = "", keep_logits: int = KEEP_LOGITS
    ) -> None:
        if not cells:
            raise SweepError("a sweep without cells: nothing is left to run")
        self.store, self.keep_logits = Store(folder), keep_logits
        self.name = name or self.store.folder.name
        self._identities = Identities()
        states: dict[str, CellState] = {}
        for cell in cells:
            baseline = self._add(states, cell.baseline) if cell.baseline else None
            self._add(states, cell, baseline)
        self.cells: tuple[CellState, ...] = tuple(states.values())
        self._observers: list[Observer] = []
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self.slots: int | None = None
        self.note = ""
        self.refresh()

    @classmethod
    def read(cls, path: str | Path, *, output: str | Path | None = None) -> Sweep:
        """The sweep that a TOML file describes; see `workbench.sweep.spec`."""
        from .spec import read_spec

        spec = read_spec(path)
        return cls(spec.cells, output or spec.output, name=spec.name, keep_logits=spec.keep_logits)

    def _add(self, states: dict[str, CellState], cell: Cell, baseline: str | None = None) -> str:
        identity = self._identities.cell(cell)
        found = key(identity)
        states.setdefault(found, CellState(cell, found, identity, baseline))
        return found

    def refresh(self) -> None:
        """Look into the folder for results of cells that are not done."""
        for state in self.cells:
            if state.status != "done" and (record := self.store.result(state.key)):
                state.status, state.stored, state.progress = "done", True, 1.0
                state.seconds, state.record, state.error = record["seconds"], record, ""

    # Reading the state

    def state(self, cell: Cell) -> CellState:
        """Of a cell that the sweep was made with."""
        found = key(self._identities.cell(cell))
        return next(state for state in self.cells if state.key == found)

    def count(self, status: str) -> int:
        return sum(state.status == status for state in self.cells)

    @property
    def finished(self) -> bool:
        """Whether no cell waits or runs."""
        return all(state.status in ("done", "failed") for state in self.cells)

    @property
    def progress(self) -> float:
        """Share of the work that is done, 0 to 1, every cell counted the same."""
        done = (1.0 if state.status in ("done", "failed") else state.progress for state in self.cells)
        return sum(done) / len(self.cells)

    @property
    def seconds_left(self) -> float | None:
        """From the cells of the same model and protocol that are done, or all; None before one is."""
        left = [state for state in self.cells if state.status in ("waiting", "running")]
        known: dict[tuple, list[float]] = {}
        for state in self.cells:
            if state.seconds is not None:
                known.setdefault(_group(state.cell), []).append(state.seconds)
        if not left or not known:
            return None if left else 0.0
        everything = [seconds for group in known.values() for seconds in group]
        total = 0.0
        for state in left:
            typical = known.get(_group(state.cell), everything)
            total += (1 - state.progress) * sum(typical) / len(typical)
        at_once = self.slots or max(1, self.count("running"))
        return total / min(at_once, len(left))

    def rows(self) -> list[dict[str, Any]]:
        """A dict a cell, of plain values: `pandas.DataFrame(sweep.rows())`."""
        return [
            {
                "model": state.cell.name,
                "format": state.cell.format,
                "quantizer": state.cell.quantizer,
                "protocol": state.cell.protocol,
                "text": state.cell.text_name,
                "backend": state.cell.backend,
                "status": state.status,
                "stage": state.stage,
                "progress": state.progress,
                "ppl": state.record["result"]["ppl"] if state.record else None,
                "seconds": state.seconds,
                "error": state.error,
                "worker": state.worker,
                "lost": state.lost,
                "key": state.key,
            }
            for state in self.cells
        ]

    def table(self):
        """The results so far as `workbench.sweep.table.Table`; raises SweepError for more than one protocol or text."""
        from .table import Table

        return Table.of([self.store.cell(state.key) for state in self.cells if state.status == "done"])

    def tables(self) -> list:
        """The results so far, a Table for each protocol and text."""
        from .table import tables

        return tables([self.store.cell(state.key) for state in self.cells if state.status == "done"])

    def __str__(self) -> str:
        from .show import text

        return text(self)

    def _repr_html_(self) -> str:
        from .show import html

        return html(self)

    # Running

    def observe(self, observer: Observer) -> None:
        """Call `observer(self)` after every change, in the thread that runs the sweep."""
        self._observers.append(observer)

    def run(
        self,
        *,
        processes: int | None = None,
        scheduler: str | None = None,
        executor: Executor | None = None,
    ) -> Sweep:
        """Run what is missing and return when every cell is done or failed.

        processes: of this machine (default half of its CPUs); scheduler: a Dask cluster's address instead; or an
        executor, which is then not closed. A failed cell fails alone: look at `cells`. Raises SweepError if there is
        no scheduler, SchedulerLostError if it is lost on the way.
        """
        self._stop.clear()
        self.refresh()
        for state in self.cells:
            if state.status != "done":
                state.status, state.stage, state.error, state.progress = "waiting", "", "", 0.0
        schedule = Schedule(self.cells, self.store, self.keep_logits)
        if schedule.empty:
            self._changed()
            return self
        self.store.folder.mkdir(parents=True, exist_ok=True)
        chosen = executor or _executor(processes, scheduler)
        self.slots = chosen.slots
        self.note = chosen.note(any(s.cell.backend == "wgpu" for s in self.cells)) if scheduler else ""
        try:
            for job in schedule.ready():
                chosen.submit(job.payload, gpu=job.gpu)
            self._changed()
            while not schedule.empty and not self._stop.is_set():
                event = chosen.next_event(TICK_SECONDS)
                if event is not None:
                    self._apply(schedule, event)
                    for job in schedule.ready():
                        chosen.submit(job.payload, gpu=job.gpu)
                self._changed()
        finally:
            if executor is None:
                chosen.close()
            for state in self.cells:
                if state.status == "running":
                    state.status, state.stage, state.progress, state.worker = "waiting", "", 0.0, ""
            self._changed()
        return self

    def start(self, **options: Any) -> Sweep:
        """`run` in a thread; `wait` for its end, `stop` to end it early."""
        if self._thread and self._thread.is_alive():
            raise SweepError("the sweep is running already")
        self._failure = None

        def target() -> None:
            try:
                self.run(**options)
            except BaseException as error:
                self._failure = error

        self._thread = threading.Thread(target=target, name=f"sweep {self.name}", daemon=True)
        self._thread.start()
        return self

    def wait(self, timeout: float | None = None) -> bool:
        """Whether the started sweep has ended, after at most `timeout` seconds. Raises what ended it."""
        if self._thread:
            self._thread.join(timeout)
        if self._failure:
            raise self._failure
        return not (self._thread and self._thread.is_alive())

    def stop(self) -> None:
        """End the run soon; running cells wait again."""
        self._stop.set()

    def _apply(self, schedule: Schedule, event: Event) -> None:
        for state in schedule.apply(event):
            if state.status == "done":
                state.record = self.store.result(state.key)

    def _changed(self) -> None:
        for observer in self._observers:
            observer(self)


def _group(cell: Cell) -> tuple:
    return cell.model, cell.protocol, cell.text.location, cell.max_windows, cell.backend


def _executor(processes: int | None, scheduler: str | None):
    if scheduler is not None:
        from .cluster import DaskCluster

        return DaskCluster(scheduler)
    from .local import LocalProcesses

    return LocalProcesses(processes)
