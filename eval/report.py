"""How results show themselves: plain text, HTML for notebooks, values that JSON can say."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def finite(value: Any) -> Any:
    """The same, with numbers that JSON has no word for replaced by None."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def show(value: Any) -> str:
    """A cell: numbers to four digits, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, float):
        return str(value)
    return f"{value:.4g}" if math.isfinite(value) else str(value)


def html_pairs(rows: Iterable[tuple[str, str]]) -> str:
    """A table of a name and its value a line."""
    left = "style='text-align:left'"
    cells = "".join(
        f"<tr><th {left}>{html.escape(key)}</th><td {left}>{html.escape(value)}</td></tr>"
        for key, value in rows
    )
    return f"<table><tbody>{cells}</tbody></table>"


class Table:
    """Mixin of results that are a list of rows: text and HTML from `rows()`, dicts that share their keys.

    `caption` says what the table is of.
    """

    caption = ""

    def rows(self) -> Sequence[Mapping[str, Any]]:
        raise NotImplementedError

    def __str__(self) -> str:
        rows = self.rows()
        names = list(rows[0]) if rows else []
        cells = [names, *([show(row[name]) for name in names] for row in rows)]
        widths = [max(len(line[column]) for line in cells) for column in range(len(names))]
        lines = (
            "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in cells
        )
        return "\n".join([self.caption, *lines] if self.caption else lines)

    def _repr_html_(self) -> str:
        rows = self.rows()
        names = list(rows[0]) if rows else []
        head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(show(row[name]))}</td>" for name in names) + "</tr>"
            for row in rows
        )
        caption = f"<caption>{html.escape(self.caption)}</caption>" if self.caption else ""
        return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
