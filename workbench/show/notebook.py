"""Showing results in a notebook so that they read the same live, exported and on a page without scripts."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from .figures import Picture
from .html import columns
from .progress import Progress, RunProgress, window_bar
from .table import Table


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> Any:
    """A Markdown table for display: the first column to the left, the others to the right."""
    from IPython.display import Markdown

    return Markdown(Table(header, rows).markdown(marked_up=True))


def with_picture(widget: Any, picture: Picture) -> dict[str, Any]:
    """The output of a widget with a picture for readers without a kernel: `display(bundle, raw=True)`."""
    import base64

    return {**widget._repr_mimebundle_(), "image/png": base64.b64encode(picture.png()).decode()}


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


def side_by_side(texts: dict[str, str]) -> Any:
    """Two texts in columns for display; what they share from the beginning is grey."""
    from IPython.display import HTML

    first, second = texts.values()
    shared = next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), None)
    shared = min(len(first), len(second)) if shared is None else shared

    def cell(text: str) -> str:
        return "<span style='opacity:0.55'>{}</span>{}".format(
            *map(html.escape, (text[:shared], text[shared:]))
        )

    return HTML(columns({name: cell(text) for name, text in texts.items()}))
