"""`SweepBoard`: a sweep's cells while it runs, here or elsewhere; sorted, filtered, and selected for Python."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import traitlets

from eval.report import LARGER_ERROR
from workbench.errors import SweepError
from workbench.show.figures import Picture
from workbench.show.table import Figure
from workbench.sweeps.columns import COLUMNS
from workbench.sweeps.follow import Followed, opened
from workbench.sweeps.show import headline, html, status
from workbench.sweeps.state import STATUSES, CellState, Facts, SweepState
from workbench.sweeps.sweep import Sweep
from workbench.sweeps.table import Table

from .background import Task, wait
from .base import View

#: Seconds between two messages to the page, and between two looks into a folder that others write to.
TICK, LOOK, LOOK_IDLE = 0.25, 1.0, 3.0
#: Rows and errors of the static table: exports and saved notebooks stay small.
STATIC_ROWS = 100
#: Characters of an error that the page is sent from its beginning and its end; `data()` has all.
ERROR_HEAD, ERROR_TAIL = 400, 1600
#: Columns of a result's figures, of those that tables have.
FIGURES = (
    "bits a weight",
    "perplexity ± SE",
    "paired change ± SE, %",
    "KL ± SE, nats",
    "prefill, tokens/s",
    "decode, tokens/s",
)
#: Shown before there is a result.
AT_FIRST = FIGURES[:2]


class SweepBoard(View):
    """Cells with status, progress, figures and errors, and what is left to do.

    source: a `Sweep`, a TOML file that describes one, or the folder of one, which may run in another process, have
    ended or have been killed. processes, scheduler: where `start` runs it, as for `Sweep.run`.

    `start()`, `stop()`, `wait()` do what the buttons do; a sweep that is started again runs what is missing. `sweep` is
    the state (`workbench.sweeps.state.SweepState`), `data()` a DataFrame of all cells, `selected` one of the selected
    rows, `table()` and `plot()` are those of the selected results, or of all where none is selected.
    """

    module = "sweep_board"
    options = ("order", "search", "only", "selection")

    #: "idle", "running", "stopping", "stopped", "done", "failed", "elsewhere" or "lost" (see `Followed.lost`)
    state = traitlets.Unicode("idle").tag(sync=True)
    #: headline, counts a status, progress (a share), note: also for views without a kernel behind them.
    told = traitlets.Dict().tag(sync=True)
    processes = traitlets.Int(1, min=1).tag(sync=True)
    #: Whether a cluster runs it, so that `processes` means nothing.
    cluster = traitlets.Bool(False).tag(sync=True)
    #: [column, "ascending" or "descending"], or empty for the sweep's own order.
    order = traitlets.List(traitlets.Unicode()).tag(sync=True)
    #: Show only rows with this text, and with these statuses, all if empty.
    search = traitlets.Unicode("").tag(sync=True)
    only = traitlets.List(traitlets.Unicode()).tag(sync=True)
    #: Keys of the selected cells.
    selection = traitlets.List(traitlets.Unicode()).tag(sync=True)

    def __init__(
        self,
        source: str | Path | SweepState,
        *,
        processes: int | None = None,
        scheduler: str | None = None,
        **options: Any,
    ) -> None:
        self._scheduler = scheduler
        self._run: Task | None = None
        self._failure: BaseException | None = None
        self._stopped: Any = None  # the run that is to end: see _current
        self._unseen = ""  # what the last look failed of
        self._wake, self._lock = threading.Event(), threading.Lock()
        self._sent: dict[str, tuple] = {}
        self._rows: dict[str, dict[str, Any]] = {}
        self._columns: list[dict[str, Any]] = []
        self._forget = _nothing
        self.refuse_unknown(options)
        self.sweep = opened(source)
        self._forget = self._observe()
        super().__init__(
            processes=processes or max(1, (os.cpu_count() or 1) // 2),
            cluster=scheduler is not None,
            **options,
        )
        self._push()
        self._task = Task(self._watch, self.fail)

    # ---- results ---------------------------------------------------------------------------------------------

    def data(self) -> Any:
        """A pandas DataFrame, a row a cell: see `SweepState.rows`."""
        return self.sweep.data()

    @property
    def selected(self) -> Any:
        """The selected rows of `data()`, in the sweep's order."""
        data = self.data()
        return data[data["key"].isin(self.selection)]

    def table(self) -> Table:
        """The selected results, or all where none is selected; raises SweepError where they do not belong into one
        table."""
        chosen = set(self.selection)
        cells = [s for s in self.sweep.cells if s.status == "done" and (not chosen or s.key in chosen)]
        return Table.of([self.sweep.store.cell(state.key) for state in cells])

    def plot(self, path: str | Path | None = None) -> Picture:
        """Of `table()`: the paired change, where there is one, against bits a weight, with the Pareto front."""
        return self.table().plot(path)

    # ---- what the buttons do ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Run what is missing, on a thread; cells that have failed are tried again. Raises SweepError while it runs."""
        if self._ours():
            raise SweepError("the sweep is running already")
        self._stopped, self._failure, self.error = None, None, ""
        self._run = Task(lambda stopped: self._work(), self._failed)
        self.state = "running"
        self._wake.set()

    def stop(self) -> None:
        """End the run soon; running cells wait again. Raises SweepError for one that runs in another process."""
        if self._ours():
            self._stopped = self._current()
            self.state = "stopping"
            self._wake.set()
            if isinstance(self.sweep, Sweep):
                self.sweep.stop()
        elif self.sweep.running:
            raise SweepError("the sweep runs in another process: stop it there")

    def wait(self, timeout: float | None = None) -> SweepState | None:
        """Wait for the end of what `start` began and return the sweep; None if it goes on. A keyboard interrupt stops
        it. Raises what ended it early."""
        try:
            if self._run is not None and not self._run.join(timeout):
                return None
        except KeyboardInterrupt:
            self.stop()
            raise
        self._push()
        if self._failure is not None:
            raise self._failure
        return self.sweep

    def close(self) -> None:
        """Take the board from every page. What it runs is stopped; what others run is not."""
        self._forget()
        self._forget = _nothing
        super().close()
        if self._run is not None and self._run.alive:
            self._stopped = self._run
        self._wake.set()

    def hear_start(self, content: dict, buffers: list) -> None:
        self.processes = content["processes"]
        self.start()

    def hear_stop(self, content: dict, buffers: list) -> None:
        self.stop()

    def hear_hello(self, content: dict, buffers: list) -> None:
        with self._lock:
            self._tell_all()

    # ---- the run ---------------------------------------------------------------------------------------------

    def _current(self) -> Any:
        """What runs it in this process: the board's task, or for a cell of the notebook the time its run began; else
        None."""
        if self._run is not None and self._run.alive:
            return self._run
        return self.sweep.began if isinstance(self.sweep, Sweep) and self.sweep.running else None

    def _ours(self) -> bool:
        return self._current() is not None

    @property
    def _stopping(self) -> bool:
        """Whether the run of this moment is to end; a stop does not outlive the run that it was meant for."""
        return self._stopped is not None and self._stopped == self._current()

    def _observe(self) -> Any:
        """Be told of changes; returns what ends this."""
        if isinstance(self.sweep, Sweep):
            return self.sweep.observe(lambda sweep: self._wake.set())
        return _nothing

    def _work(self) -> None:
        sweep = self.sweep
        if isinstance(sweep, Followed):
            sweep.refresh()
            sweep = sweep.resumable()
            with self._lock:
                self.sweep = sweep
                self._forget = self._observe()
        if isinstance(sweep, Sweep) and not self._stopping:
            sweep.run(processes=None if self._scheduler else self.processes, scheduler=self._scheduler)

    def _failed(self, error: BaseException) -> None:
        self._failure = error
        self.fail(error)

    def _state(self) -> str:
        if self._ours():
            return "stopping" if self._stopping else "running"
        if self.sweep.running:
            return "elsewhere"
        if isinstance(self.sweep, Followed) and self.sweep.lost:
            return "lost"
        if self.sweep.finished:
            return "failed" if self.sweep.count("failed") else "done"
        return "idle" if self.sweep.began is None else "stopped"

    # ---- what the page is told -------------------------------------------------------------------------------

    def _watch(self, stopped: Any) -> None:
        """Tell the page what has changed, a few times a second at most, until the board is closed."""
        while True:
            wait(self._wake, self._pause(), stopped)
            self._wake.clear()
            if self._stopping and self.sweep.running and isinstance(self.sweep, Sweep):
                self.sweep.stop()  # also where the stop came before the run had begun
            if stopped():
                return
            self._look()
            time.sleep(TICK)

    def _look(self) -> None:
        """A look that fails, as into a folder that has gone away, is said until one succeeds."""
        try:
            self._push()
        except Exception as error:
            self.fail(error)
            self._unseen = self.error
            return
        if self._unseen and self.error == self._unseen:
            self.error = ""
        self._unseen = ""

    def _pause(self) -> float | None:
        if self._ours():
            return TICK
        if isinstance(self.sweep, Followed):
            return LOOK if self.sweep.running else LOOK_IDLE
        return None

    def _push(self) -> None:
        with self._lock:
            if isinstance(self.sweep, Followed):
                self.sweep.refresh()
            keys = {state.key for state in self.sweep.cells}
            gone = self._rows.keys() - keys
            for name in gone:
                del self._rows[name], self._sent[name]
            known = len(self._rows)
            changed = [row for state in self.sweep.cells if (row := self._news(state))]
            self._rows |= {row["key"]: row for row in changed}
            columns = self._found_columns()
            if gone or len(self._rows) != known or columns != self._columns:
                self._columns = columns
                self._tell_all()
            elif changed:
                self.tell("rows", {"rows": changed})
            self.told = {
                "headline": headline(self.sweep),
                "counts": {name: self.sweep.count(name) for name in STATUSES},
                "progress": round(self.sweep.progress, 3),
                "note": self.sweep.note,
                "doubts": self._doubts(),
            }
            self.state = self._state()

    def _doubts(self) -> list[str]:
        """What makes several results doubtful, each once; what is of one alone is told where that is picked."""
        count = Counter(doubt for row in self._rows.values() for doubt in row["doubts"])
        return [doubt for doubt, times in count.items() if times > 1]

    def _tell_all(self) -> None:
        self.tell("all", {"columns": self._columns, "rows": list(self._rows.values()), "same": self._same()})

    def _news(self, state: CellState) -> dict[str, Any] | None:
        """The row of a cell that has changed since it was last asked for."""
        mark = (state.status, status(state), state.worker, state.error, id(state.record), _time(state))
        if self._sent.get(state.key) == mark:
            return None
        self._sent[state.key] = mark
        return self._packed(state)

    def _packed(self, state: CellState) -> dict[str, Any]:
        """A row as the page wants it; its cells are a text, or [text, number to sort by]."""
        error = state.error
        try:
            row = state.row(self.sweep.store)
        except SweepError as damaged:
            row, error = None, str(damaged)
        figures = dict(_figures(row)) if row else {}
        return {
            "key": state.key,
            "label": state.label,
            "status": state.status,
            "said": status(state),
            "progress": round(state.progress, 3),
            "worker": state.worker,
            "error": _shortened(error),
            "doubts": row.doubts if row else [],
            "cells": {**state.facts._asdict(), **figures, "time, s": _time(state)},
        }

    def _found_columns(self) -> list[dict[str, Any]]:
        """Names that differ from cell to cell, the status, the figures that any cell has, the time."""
        facts = [name for name in NAMES if len(self._values(name)) > 1] or ["format"]
        figures = {name for row in self._rows.values() for name in row["cells"]} | set(AT_FIRST)
        kinds = {"name": facts, "status": ["status"], "figure": [n for n in FIGURES if n in figures]}
        kinds["time"] = ["time, s"]
        return [{"name": name, "kind": kind} for kind, names in kinds.items() for name in names]

    def _values(self, name: str) -> list[str]:
        return list(dict.fromkeys(str(getattr(state.facts, name)) for state in self.sweep.cells))

    def _same(self) -> str:
        """What all cells have in common and no column says."""
        shown = {column["name"] for column in self._columns}
        alike = {name: self._values(name) for name in NAMES if name not in shown}
        facts = [f"{name}: {values[0]}" for name, values in alike.items() if values and values[0]]
        return " · ".join([*facts, LARGER_ERROR])

    def static_html(self) -> str:
        return html(self.sweep, STATIC_ROWS)

    def __repr__(self) -> str:
        return f"<SweepBoard {self.told.get('headline', '')}>"


def _nothing() -> None:
    """What there is to undo where nothing was done."""


NAMES = tuple(name for name in Facts._fields if name != "windows")


def _figures(row: Any) -> Iterator[tuple[str, list]]:
    """(column, [text, number]) of a result, as tables write them."""
    for column in COLUMNS:
        found = column.cell(row) if column.title in FIGURES else None
        if isinstance(found, Figure):
            text = f"{found.value} ± {found.error}" if found.error else found.value
            yield column.title, [text, _number(found.value)]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:  # beyond what a number holds
        return 1e308


def _time(state: CellState) -> list | str:
    """Seconds that a cell took, or has taken so far."""
    if state.seconds is not None:
        return [f"{state.seconds:.1f}", state.seconds]
    if state.status == "running" and state.began:
        so_far = max(0.0, time.time() - state.began)
        return [f"{so_far:.0f} …", round(so_far)]
    return ""


def _shortened(error: str) -> str:
    if len(error) <= ERROR_HEAD + ERROR_TAIL:
        return error
    return f"{error[:ERROR_HEAD]}\n…\n{error[-ERROR_TAIL:]}"
