"""A sweep: cells, what has become of each, and the loop that runs what is missing.

    sweep = Sweep(cells, "runs/blocks")
    sweep.run(processes=2)          # or sweep.start(); in a notebook the object shows its state
    sweep.table().markdown()

The state is plain data that anybody may read while the sweep runs (see `state`), `observe` tells of changes, and the
folder tells other processes (see `follow`). A result is a file by its key (see `identity` and `store`), so a sweep that
is started again runs only the cells that have none.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from workbench.errors import SweepError, WorkbenchError
from workbench.files.writing import storing
from workbench.formats.errors import FormatError
from workbench.known import known

from .cells import Cell
from .checks import Checks
from .executor import Event, Executor
from .identity import Identities, key
from .journal import Journal
from .schedule import Schedule
from .state import CellState, Facts, SweepState
from .store import Store, require_folder

#: Logits of a baseline are kept for its cells up to this size; beyond it cells have no KL.
KEEP_LOGITS = 4 << 30
TICK_SECONDS = 0.5

Observer = Callable[["Sweep"], None]


class Sweep(SweepState):
    """Cells of one folder. Hashes models and texts when made, and checks that they fit each other; raises SweepError,
    and what opening them raises.

    cells: a cell that is paired brings its baseline with it; cells with equal content are one. folder: where everything
    goes, made if missing. keep_logits: bytes, see KEEP_LOGITS.
    """

    def __init__(
        self, cells: Sequence[Cell], folder: str | Path, *, name: str = "", keep_logits: int = KEEP_LOGITS
    ) -> None:
        if not cells:
            raise SweepError("a sweep without cells: nothing is left to run")
        super().__init__(Store(folder), name)
        require_folder(self.store.folder)
        self.keep_logits = keep_logits
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
        self.refresh()
        Checks()(known(state.cell) for state in self.cells if state.status != "done")

    @classmethod
    def read(cls, path: str | Path, *, output: str | Path | None = None) -> Sweep:
        """The sweep that a TOML file describes; see `workbench.sweeps.spec`."""
        from .spec import read_spec

        spec = read_spec(path)
        try:
            return cls(spec.cells, output or spec.output, name=spec.name, keep_logits=spec.keep_logits)
        except (WorkbenchError, FormatError) as error:
            raise SweepError(f"sweep {path}: {error}") from error

    def _add(self, states: dict[str, CellState], cell: Cell, baseline: str | None = None) -> str:
        identity = self._identities.cell(cell)
        found = key(identity)
        states.setdefault(found, CellState(cell, Facts.of(cell), found, identity, baseline))
        return found

    def refresh(self) -> None:
        """Look into the folder for results of cells that are not done."""
        for state in self.cells:
            if state.status != "done" and (record := self.store.result(state.key)):
                state.take(record)
                state.stored = True

    def state(self, cell: Cell) -> CellState:
        """Of a cell that the sweep was made with."""
        found = key(self._identities.cell(cell))
        return next(state for state in self.cells if state.key == found)

    def observe(self, observer: Observer) -> Callable[[], None]:
        """Call `observer(self)` after every change, in the thread that runs the sweep, until the function that this
        returns is called."""
        self._observers.append(observer)
        return lambda: self._observers.remove(observer)

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
        if self.running:
            raise SweepError("the sweep is running already")
        if processes is not None and (type(processes) is not int or processes < 1):
            raise SweepError(f"processes = {processes!r}; allowed: an integer of at least 1")
        self._stop.clear()
        self.refresh()
        for state in self.cells:
            if state.status != "done":
                state.wait()
        schedule = Schedule(self.cells, self.store, self.keep_logits)
        if schedule.empty:
            self._changed()
            return self
        self.running, self.began, self.ended = True, time.time(), None
        try:
            self._run(schedule, executor, processes, scheduler)
        finally:
            self.running = False
            self._changed()
        return self

    def _run(
        self, schedule: Schedule, executor: Executor | None, processes: int | None, scheduler: str | None
    ) -> None:
        with storing(self.store.folder):
            self.store.folder.mkdir(parents=True, exist_ok=True)
        journal, chosen = Journal(self, self.keep_logits), executor
        try:
            if chosen is None:
                chosen = _executor(processes, scheduler)
            self.slots = chosen.slots
            gpu = any(known(state.cell).backend == "wgpu" for state in self.cells)
            self.note = chosen.note(gpu) if scheduler else ""
            for job in schedule.ready():
                chosen.submit(job.payload, gpu=job.gpu)
            self._changed()
            while not schedule.empty and not self._stopping:
                event = chosen.next_event(TICK_SECONDS)
                if event is not None:
                    self._apply(schedule, event)
                    for job in schedule.ready():
                        chosen.submit(job.payload, gpu=job.gpu)
                journal()
                self._changed()
        finally:
            if executor is None and chosen is not None:
                chosen.close()
            for state in self.cells:
                if state.status == "running" or state.stage:
                    state.wait()
            self.ended = time.time()
            journal.close()

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

        # No daemon: a program that ends waits for the sweep to stop, so that no result is written half.
        self._thread = threading.Thread(target=target, name=f"sweep {self.name}", daemon=False)
        self._thread.start()
        return self

    def wait(self, timeout: float | None = None) -> bool:
        """Whether the started sweep has ended, after at most `timeout` seconds. Raises what ended it."""
        if self._thread:
            self._thread.join(timeout)
        if self._failure:
            raise self._failure
        return not (self._thread and self._thread.is_alive())

    @property
    def _stopping(self) -> bool:
        """Whether the run is to end: it was stopped, or the program is ending."""
        return self._stop.is_set() or not threading.main_thread().is_alive()

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


def sweep(
    path: str | Path,
    *,
    output: str | Path | None = None,
    processes: int | None = None,
    scheduler: str | None = None,
) -> Sweep:
    """Run the sweep that a TOML file describes (docs/sweeps.md), as `workbench sweep` does, and return it.

        done = workbench.sweep("blocks.toml")
        done.table().format("latex")

    output: the folder of the results, by default the file's own. Cells that it holds already are not run again.
    processes, scheduler and errors: as in `Sweep.run` and `Sweep.read`.
    """
    return Sweep.read(path, output=output).run(processes=processes, scheduler=scheduler)


def _executor(processes: int | None, scheduler: str | None):
    if scheduler is not None:
        from .cluster import DaskCluster

        return DaskCluster(scheduler)
    from .local import LocalProcesses

    return LocalProcesses(processes)
