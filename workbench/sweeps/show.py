"""The state of a sweep as plain text and as HTML, and its live form in a terminal."""

from __future__ import annotations

import html as markup
import shutil
import sys
import time
from typing import TYPE_CHECKING, Any

from eval.report import ppl_text
from workbench.show.table import Table

if TYPE_CHECKING:
    from .state import CellState, SweepState

COLUMNS = ("model", "format", "quantizer", "protocol", "text", "status", "perplexity", "seconds")
#: Rows of the live table at most; running and failed cells come first.
ROWS = 20
REDRAW_SECONDS = 0.2


def duration(seconds: float) -> str:
    """`8 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def printable(text: str) -> str:
    """On one line and without control characters, which a terminal would obey."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _safe(text: str) -> str:
    """Printable line by line: an unexpected error has its traceback."""
    return "\n".join(map(printable, text.splitlines()))


def headline(sweep: SweepState) -> str:
    """`blocks: 5 of 24 done, 2 running, 17 waiting, 1 failed; 34 % after 1 min 2 s, about 3 min 20 s left`."""
    counts = [f"{sweep.count('done')} of {len(sweep.cells)} done"]
    counts += [f"{n} {status}" for status in ("running", "waiting", "failed") if (n := sweep.count(status))]
    left = sweep.seconds_left
    rest = "" if sweep.finished else f"; {100 * sweep.progress:.0f} %"
    if sweep.seconds is not None:
        rest += f"; took {duration(sweep.seconds)}" if sweep.finished else f" after {duration(sweep.seconds)}"
    if left and not sweep.finished:
        rest += f", about {duration(left)} left"
    return f"{printable(sweep.name)}: {', '.join(counts)}{rest}"


def status(state: CellState) -> str:
    """`running 34 %, lost 1`, `waiting (quantizing)`, `done before`."""
    said = state.status
    if said == "running":
        said = f"running {100 * state.progress:.0f} %"
    elif state.stage:
        said = f"{said} ({state.stage})"
    elif state.stored:
        said = f"{said} before"
    return f"{said}, lost {state.lost}" if state.lost else said


def _cells(state: CellState) -> list[str]:
    ppl = state.record["result"]["ppl"] if state.record else None
    return [
        *map(printable, state.facts[:5]),
        status(state),
        "" if ppl is None else ppl_text(ppl),
        "" if state.seconds is None else f"{state.seconds:.1f}",
    ]


def _urgent(sweep: SweepState, limit: int | None) -> list[CellState]:
    """The cells; with a limit first what runs, has failed and waits."""
    order = {"running": 0, "failed": 1, "waiting": 2, "done": 3}
    states = list(sweep.cells)
    if limit is not None and len(states) > limit:
        states = sorted(states, key=lambda state: order[state.status])[:limit]
    return states


def lines(sweep: SweepState, limit: int | None = None) -> list[str]:
    """The table, a line a cell."""
    states = _urgent(sweep, limit)
    table = Table(COLUMNS, [_cells(state) for state in states], "l", notes=_hidden(sweep, states))
    return table.text().splitlines()


def _hidden(sweep: SweepState, states: list[CellState]) -> list[str]:
    hidden = len(sweep.cells) - len(states)
    return [f"... and {hidden} more"] if hidden else []


def errors(sweep: SweepState) -> list[str]:
    return [
        f"{printable(state.label)}: {_safe(state.error)}" for state in sweep.cells if state.status == "failed"
    ]


def text(sweep: SweepState) -> str:
    return "\n".join([headline(sweep), *lines(sweep), *errors(sweep)])


def html(sweep: SweepState, limit: int | None = None) -> str:
    """A table for a notebook, with a limit of so many rows and errors; every string escaped."""
    states = _urgent(sweep, limit)
    said = [*_hidden(sweep, states), *errors(sweep)[:limit]]
    return (
        f"<p>{markup.escape(headline(sweep))}</p><progress value='{sweep.progress:.4f}' max='1'></progress>"
        + Table(COLUMNS, [_cells(state) for state in states], "l", notes=said).html()
    )


class Live:
    """An observer that shows a sweep on a terminal: a table that is drawn again in place, or, where the output is no
    terminal, a line for each cell that ends."""

    def __init__(self, stream: Any = None) -> None:
        self._stream = stream or sys.stderr
        self._tty = self._stream.isatty()
        self._drawn = 0
        self._last = 0.0
        self._ended: set[str] = set()
        self._note = ""

    def __call__(self, sweep: SweepState) -> None:
        if not self._tty:
            self._report(sweep)
        elif time.monotonic() - self._last >= REDRAW_SECONDS or sweep.finished:
            self._draw(sweep)

    def _report(self, sweep: SweepState) -> None:
        if sweep.note != self._note:
            self._note = sweep.note
            print(sweep.note, file=self._stream, flush=True)
        for state in sweep.cells:
            if state.status not in ("done", "failed"):
                self._ended.discard(state.key)
            elif state.key not in self._ended:
                self._ended.add(state.key)
                if not state.stored:
                    what = state.error if state.status == "failed" else "  ".join(_cells(state)[-2:]) + " s"
                    line = f"{headline(sweep)}: {printable(state.label)}: {_safe(what)}"
                    print(line, file=self._stream, flush=True)

    def _draw(self, sweep: SweepState) -> None:
        self._last = time.monotonic()
        size = shutil.get_terminal_size()
        shown = [headline(sweep), *([sweep.note] if sweep.note else [])]
        shown += lines(sweep, max(1, min(ROWS, size.lines - len(shown) - 3)))
        # Cut to the terminal's width: a line that wraps would spoil the count of lines to go back.
        shown = [line[: size.columns - 1] for line in shown]
        back = f"\x1b[{self._drawn}F\x1b[J" if self._drawn else ""
        self._stream.write(back + "\n".join(shown) + "\n")
        self._stream.flush()
        self._drawn = len(shown)
