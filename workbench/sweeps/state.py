"""What has become of a sweep's cells, as plain data: the same to read whether the sweep runs in this process, runs
elsewhere, or ran long ago.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from .cells import Cell
from .rows import Row, rows_of
from .store import Store

STATUSES = ("waiting", "running", "done", "failed")


class Facts(NamedTuple):
    """What a cell is called, as tables and views name it. windows: scored at most, None for all."""

    model: str
    format: str
    quantizer: str
    protocol: str
    text: str
    backend: str
    windows: int | None = None

    @classmethod
    def of(cls, cell: Cell) -> Facts:
        return cls(
            cell.name,
            cell.format,
            cell.quantizer,
            cell.protocol,
            cell.text_name,
            cell.backend,
            cell.max_windows,
        )

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Facts:
        """Of a result; raises KeyError or TypeError where it is damaged."""
        result, identity = record["result"], record["identity"]
        return cls(
            record["model"],
            record["format"],
            record["quantizer"],
            result["protocol"],
            (result["text"] or {}).get("name") or "",
            identity["backend"],
            identity["max_windows"],
        )

    @property
    def label(self) -> str:
        return " · ".join(part for part in self[:5] if part)


@dataclass
class CellState:
    """A cell and what has become of it. Only the running sweep writes it.

    cell        None where only its result is known
    status      one of STATUSES
    stage       of a waiting or running cell: "", "quantizing" or "scoring"
    progress    share of its windows scored, 0 to 1
    began       when scoring began, seconds since 1970; None before
    seconds     of scoring, once done
    error       why it failed
    lost        workers that were lost while they had it
    stored      whether its result was there before
    """

    cell: Cell | None
    facts: Facts
    key: str
    identity: dict[str, Any] = field(repr=False)
    baseline: str | None = None
    status: str = "waiting"
    stage: str = ""
    progress: float = 0.0
    began: float | None = None
    seconds: float | None = None
    error: str = ""
    worker: str = ""
    lost: int = 0
    stored: bool = False
    record: dict[str, Any] | None = field(default=None, repr=False)

    @property
    def label(self) -> str:
        return self.facts.label

    def take(self, record: dict[str, Any]) -> None:
        """Its result was found."""
        self.status, self.stage, self.progress, self.worker, self.error = "done", "", 1.0, "", ""
        self.seconds, self.record = record["seconds"], record

    def wait(self) -> None:
        """As before anything was tried."""
        self.status, self.stage, self.error, self.worker = "waiting", "", "", ""
        self.progress, self.began = 0.0, None

    def row(self, store: Store) -> Row | None:
        """Its result's figures; None before it is done. Raises SweepError for a damaged result."""
        return rows_of(store.cell(self.key), self.record)[0] if self.record else None


class SweepState:
    """Cells of one folder and their states. What `Sweep` (runs here) and `Followed` (runs elsewhere) have in common.

    began, ended: of the run, seconds since 1970, None before; slots: cells that run at once, None where unknown;
    note: what the user should know about the workers.
    """

    def __init__(self, store: Store, name: str) -> None:
        self.store, self.name = store, name or store.folder.name
        self.cells: tuple[CellState, ...] = ()
        self.running = False
        self.began: float | None = None
        self.ended: float | None = None
        self.slots: int | None = None
        self.note = ""

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
        return sum(done) / max(1, len(self.cells))

    @property
    def seconds(self) -> float | None:
        """Since the run began, until it ended; None before."""
        if self.began is None:
            return None
        return max(0.0, (self.ended or time.time()) - self.began)

    @property
    def seconds_left(self) -> float | None:
        """From the cells of the same model and protocol that are done, or all; None before one is."""
        left = [state for state in self.cells if state.status in ("waiting", "running")]
        known: dict[tuple, list[float]] = {}
        for state in self.cells:
            if state.seconds is not None:
                known.setdefault(_group(state), []).append(state.seconds)
        if not left or not known:
            return None if left else 0.0
        everything = [seconds for group in known.values() for seconds in group]
        total = 0.0
        for state in left:
            typical = known.get(_group(state), everything)
            total += (1 - state.progress) * sum(typical) / len(typical)
        at_once = self.slots or max(1, self.count("running"))
        return total / min(at_once, len(left))

    def rows(self) -> list[dict[str, Any]]:
        """A dict a cell, of plain values: `pandas.DataFrame(sweep.rows())`. The figures are None before it is done:
        bits_per_weight, ppl, change (of the perplexity against the baseline, in %, paired) and kl (nats a token), each
        with its errors, as `ppl_se`, clustered by window `ppl_se_clustered` and the larger `ppl_error`; same_top1 (a
        share)."""
        return list(self._rows())

    def _rows(self) -> Iterator[dict[str, Any]]:
        for state in self.cells:
            row = state.row(self.store)
            yield {
                **state.facts._asdict(),
                "status": state.status,
                "stage": state.stage,
                "progress": state.progress,
                **{name: getattr(row, name, None) for name in FIGURES},
                "seconds": state.seconds,
                "error": state.error,
                "worker": state.worker,
                "lost": state.lost,
                "key": state.key,
            }

    def table(self):
        """The results so far (`.table.Table`). Raises SweepError for more than one protocol or text."""
        from .table import Table

        return Table.of(self._results())

    def data(self) -> Any:
        """A pandas DataFrame of `rows`."""
        import pandas

        return pandas.DataFrame(self.rows())

    def plot(self, path: str | Path | None = None):
        """Of `table()`: perplexity against bits a weight with the Pareto front; saved if a path is given."""
        return self.table().plot(path)

    def tables(self) -> list:
        """The results so far, a Table for each protocol and text."""
        from .table import tables

        return tables(self._results())

    def _results(self) -> list:
        return [self.store.cell(state.key) for state in self.cells if state.status == "done"]

    def __repr__(self) -> str:
        from .show import headline

        return f"<sweep {headline(self)}>"

    def __str__(self) -> str:
        from .show import text

        return text(self)

    def _repr_html_(self) -> str:
        from .show import html

        return html(self)


FIGURES = (
    "bits_per_weight",
    *("ppl", "ppl_se", "ppl_se_clustered", "ppl_error"),
    *("change", "change_se", "change_se_clustered", "change_error"),
    *("kl", "kl_se", "kl_se_clustered", "kl_error"),
    "same_top1",
)


def _group(state: CellState) -> tuple:
    """Cells that take about the same time."""
    facts = state.facts
    return facts.model, facts.protocol, facts.text, facts.windows, facts.backend
