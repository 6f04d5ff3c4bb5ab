"""Showing results in a notebook so that they read the same live, exported and on a page without scripts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .progress import Progress, RunProgress, window_bar
from .table import FIT, Table


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> Any:
    """A table for display: the first column to the left, the others to the right. cells: Markdown.

    Where there are more columns than fit a narrow notebook it is HTML, which scrolls, without the cells' marks of code.
    """
    from IPython.display import Markdown

    if len(header) > FIT:
        return Table(header, [[str(cell).replace("`", "") for cell in row] for row in rows])
    return Markdown(Table(header, rows).markdown(marked_up=True))


class Bars(Progress):
    """Progress of a measurement as notebook bars, which `clear` takes away again."""

    def say(self, message: str) -> None:
        print(message, flush=True)

    def runs(self, what: str) -> RunProgress:
        return window_bar(what)

    @staticmethod
    def clear() -> None:
        """Remove what the cell has shown, once something new comes: a stored notebook needs no bars."""
        from IPython.display import clear_output

        clear_output(wait=True)
