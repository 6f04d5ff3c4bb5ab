"""Showing results in a notebook so that they read the same live, exported and on a page without scripts."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from .figures import Picture
from .progress import Progress, RunProgress, window_bar


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> Any:
    """A Markdown table for display: the first column to the left, the others to the right."""
    from IPython.display import Markdown

    def line(cells: Sequence[Any]) -> str:
        return "| " + " | ".join(str(cell).replace("|", "&#124;") for cell in cells) + " |"

    rule = [":--", *["--:"] * (len(header) - 1)]
    return Markdown("\n".join([line(header), line(rule), *map(line, rows)]))


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
        parts = (html.escape(part).replace("\n", "<br>") for part in (text[:shared], text[shared:]))
        return (
            "<td style='text-align:left; vertical-align:top; width:50%; white-space:normal'>"
            "<span style='opacity:0.55'>{}</span>{}</td>".format(*parts)
        )

    head = "".join(f"<th style='text-align:left'>{html.escape(name)}</th>" for name in texts)
    body = "".join(map(cell, texts.values()))
    return HTML(f"<table style='width:100%'><tr>{head}</tr><tr>{body}</tr></table>")
