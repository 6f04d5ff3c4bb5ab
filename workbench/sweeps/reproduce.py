"""Published cells measured again, with a verdict each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.report import LARGER_ERROR, ppl_text
from eval.statistics import larger_se
from workbench.show.table import Table

from .cells import Cell
from .published import NotHereError, Published, select
from .show import printable
from .state import CellState
from .sweep import Observer, Sweep

VERDICTS = ("passed", "failed", "not run", "not here")


@dataclass(frozen=True)
class Outcome:
    """verdict: one of VERDICTS ("failed": the figure is another; "not run": an error ended it). ppl, se: measured, and
    the larger of its errors."""

    published: Published
    verdict: str
    ppl: float | None = None
    se: float | None = None
    seconds: float | None = None
    key: str = ""
    note: str = ""

    @property
    def difference(self) -> float | None:
        """Measured over published, less one."""
        return None if self.ppl is None else self.ppl / self.published.ppl - 1


def reproduce(
    names: Sequence[str],
    *,
    models: str | Path | None = None,
    texts: str | Path | None = None,
    output: str | Path = "runs/reproduce",
    processes: int | None = None,
    observer: Observer | None = None,
) -> list[Outcome]:
    """Measure published cells by name or pattern. Results are kept in `output`, as a sweep's are.

    models, texts: folders to look in; see `Published.cell`. Raises SweepError for unknown names.
    """
    chosen = select(names)
    cells: dict[str, Cell] = {}
    missing: dict[str, str] = {}
    for published in chosen:
        try:
            cells[published.name] = published.cell(models, texts)
        except NotHereError as error:
            missing[published.name] = str(error)
    states: dict[str, CellState] = {}
    if cells:
        sweep = Sweep(list(cells.values()), output)
        if observer:
            sweep.observe(observer)
        sweep.run(processes=processes)
        states = {name: sweep.state(cell) for name, cell in cells.items()}
    return [
        _judge(published, states[published.name])
        if published.name in states
        else Outcome(published, "not here", note=missing[published.name])
        for published in chosen
    ]


def _judge(published: Published, state: CellState) -> Outcome:
    if state.record is None:
        return Outcome(published, "not run", key=state.key, note=state.error or state.status)
    result = state.record["result"]
    verdict = "passed" if published.accepts(result["ppl"]) else "failed"
    error = larger_se(result["ppl_se"], result["ppl_se_clustered"])
    return Outcome(published, verdict, result["ppl"], error, state.seconds, state.key)


def status(outcomes: Sequence[Outcome]) -> int:
    """An exit status: 2 where something is not here, else 1 where something failed, else 0."""
    verdicts = {outcome.verdict for outcome in outcomes}
    if "not here" in verdicts:
        return 2
    return 1 if verdicts & {"failed", "not run"} else 0


def markdown(outcomes: Sequence[Outcome]) -> str:
    """A table of the verdicts, with sources and notes below."""
    columns = {
        "cell": lambda outcome: outcome.published.name,
        "published": lambda outcome: f"{outcome.published.ppl:g}",
        "tolerance": lambda outcome: f"{100 * outcome.published.tolerance:g} %",
        "measured ± SE": lambda outcome: None if outcome.ppl is None else ppl_text(outcome.ppl, outcome.se),
        "difference": lambda outcome: (
            None if outcome.difference is None else f"{100 * outcome.difference:+.3f} %"
        ),
        "verdict": lambda outcome: outcome.verdict,
    }
    table = Table.of(columns, outcomes, sides="lrrrrl").markdown()
    sources = dict.fromkeys(outcome.published.reference for outcome in outcomes)
    notes = [outcome.note for outcome in outcomes if outcome.note]
    notes += dict.fromkeys(f"{o.published.name}: {o.published.note}" for o in outcomes if o.published.note)
    errors = [LARGER_ERROR] if any(outcome.ppl is not None for outcome in outcomes) else []
    return "\n".join([table, "", *(f"- {printable(line)}" for line in [*errors, *sources, *notes])]) + "\n"


def listing(cells: Sequence[Published]) -> str:
    """The registry as a table."""
    columns = {
        "cell": lambda cell: cell.name,
        "perplexity": lambda cell: f"{cell.ppl:g}",
        "tolerance": lambda cell: f"{100 * cell.tolerance:g} %",
        "protocol": lambda cell: cell.protocol,
        "source": lambda cell: (
            f"{cell.source['title']}{' (own figure)' if cell.own else ''}"
            + (f"; not with this version: {cell.unavailable}" if cell.unavailable else "")
        ),
    }
    return Table.of(columns, cells, sides="lrrl").markdown() + "\n"
