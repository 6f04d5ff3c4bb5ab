"""Showing results in a notebook so that they read the same live, exported and on a page without scripts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .progress import Progress, RunProgress, window_bar
from .table import Table


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> Any:
    """A Markdown table for display: the first column to the left, the others to the right."""
    from IPython.display import Markdown

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
