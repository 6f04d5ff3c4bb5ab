"""The one table: titles and rows of cells, written as text, Markdown, CSV, LaTeX or HTML.

Cells come from models and files as well: each form but plain text escapes them.
"""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

FORMS = ("text", "md", "csv", "latex", "html")
#: What stands for a figure that does not exist.
NONE = "–"


class Figure(NamedTuple):
    """A number with its standard error, both as text; error "" where there is none."""

    value: str
    error: str = ""

    def __str__(self) -> str:
        return f"{self.value} ± {self.error}" if self.error else self.value


@dataclass(frozen=True)
class Table:
    """Rows of cells (anything that `str` makes text of; a `Figure` for mathematics in LaTeX; None for a dash).

    head: the titles; without any the first cell of a row is its title. sides: "l" or "r" for each column, of which the
    last goes on: "lr" is the first column to the left and the others to the right. caption: what the table is of;
    notes: what else a reader must know, a line each.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[Any]]
    sides: str = "lr"
    caption: str = ""
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        widths = {len(row) for row in (self.rows if not self.head else [self.head, *self.rows])}
        if len(widths) > 1:
            raise ValueError(f"all rows of a table have as many cells; these have {sorted(widths)}")

    @classmethod
    def of(cls, columns: Mapping[str, Callable[[Any], Any]], rows: Sequence[Any], **more: Any) -> Table:
        """A function of a row for each column, by title; further arguments as above."""
        return cls(list(columns), [[make(row) for make in columns.values()] for row in rows], **more)

    def _lines(self, form: Callable[[Any], str] = str) -> list[list[str]]:
        """All rows as text, the titles first where there are any."""
        lines = [self.head, *self.rows] if self.head else self.rows
        return [[form(NONE if cell is None else cell) for cell in line] for line in lines]

    def _sides(self, columns: int) -> str:
        return self.sides[:columns].ljust(columns, self.sides[-1])

    def _padded(self, lines: Sequence[Sequence[str]]) -> list[list[str]]:
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        forms = [
            f"{'<' if side == 'l' else '>'}{w}"
            for side, w in zip(self._sides(len(widths)), widths, strict=True)
        ]
        return [[format(cell, form) for cell, form in zip(line, forms, strict=True)] for line in lines]

    def text(self) -> str:
        """Aligned columns, below the caption and above the notes."""
        lines = ("  ".join(line).rstrip() for line in self._padded(self._lines()))
        return "\n".join([*([self.caption] if self.caption else []), *lines, *self.notes])

    def markdown(self, *, marked_up: bool = False) -> str:
        """Aligned columns; caption and notes are paragraphs below. marked_up: cells are Markdown but for bars."""
        head, *rows = self._padded(self._lines(_bars if marked_up else escape_md))
        rule = [
            ":" + "-" * (len(cell) - 1) if side == "l" else "-" * (len(cell) - 1) + ":"
            for cell, side in zip(head, self._sides(len(head)), strict=True)
        ]
        below = [escape_md(line) for line in (self.caption, *self.notes) if line]
        return "\n\n".join(["\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *rows)), *below])

    def csv(self) -> str:
        """Titles and cells, None as nothing. Text that a spreadsheet would run as a formula gets an apostrophe."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerows(
            [*([self.head] if self.head else []), *([_inert(cell) for cell in row] for row in self.rows)]
        )
        return stream.getvalue().removesuffix("\n")

    def latex(self) -> str:
        """A table environment; needs the package booktabs."""
        head, *rows = (" & ".join(line) + r" \\" for line in self._lines(_latex))
        return "\n".join(
            [
                r"\begin{table}",
                r"\centering",
                rf"\begin{{tabular}}{{{self._sides(len(self.head))}}}",
                *(r"\toprule", head, r"\midrule", *rows, r"\bottomrule"),
                r"\end{tabular}",
                rf"\caption{{{escape_latex(' '.join([self.caption, *self.notes]))}}}",
                r"\end{table}",
            ]
        )

    def html(self) -> str:
        """A table element with a caption, its notes below in paragraphs."""
        caption = (
            [f'<caption style="text-align:left">{html.escape(self.caption)}</caption>']
            if self.caption
            else []
        )
        head, *rows = self._lines() if self.head else [[], *self._lines()]
        titles = ["<thead>", self._row(head, "th"), "</thead>"] if head else []
        body = [self._row(row, "td", "td" if head else "th") for row in rows]
        notes = [f"<p style='white-space:pre-wrap'>{html.escape(note)}</p>" for note in self.notes if note]
        return "\n".join(["<table>", *caption, *titles, "<tbody>", *body, "</tbody>", "</table>", *notes])

    def _row(self, cells: Sequence[str], tag: str, first: str = "") -> str:
        tags = [first or tag, *[tag] * (len(cells) - 1)]
        made = (
            f'<{tag} style="text-align:{"left" if side == "l" else "right"}">{html.escape(cell)}</{tag}>'
            for tag, side, cell in zip(tags, self._sides(len(cells)), cells, strict=True)
        )
        return f"<tr>{''.join(made)}</tr>"

    def written(self, form: str) -> str:
        """In one of `FORMS`."""
        return {
            "text": self.text,
            "md": self.markdown,
            "csv": self.csv,
            "latex": self.latex,
            "html": self.html,
        }[form]()

    def _repr_html_(self) -> str:
        return self.html()

    def __str__(self) -> str:
        return self.text()


def _bars(cell: Any) -> str:
    return str(cell).replace("|", "&#124;")


def escape_md(text: Any) -> str:
    """Text that Markdown shows as it is, on one line: HTML and bars as entities, the rest behind backslashes."""
    text = _bars(html.escape(" ".join(str(text).split()), quote=False))
    return re.sub(r"[\\`*\[\]$~]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", text)


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
    "–": "--",
    "·": r"$\cdot$",
    "Δ": r"$\Delta$",
    **{c: "\\" + c for c in "&%$#_{}"},
}


def escape_latex(text: str) -> str:
    """Text that LaTeX shows as it is, on one line."""
    return "".join(_LATEX.get(c, c) for c in " ".join(text.split()))


def _latex(cell: Any) -> str:
    if not isinstance(cell, Figure):
        return escape_latex(str(cell))
    if not re.match(r"[-+]?\d", cell.value):
        return escape_latex(cell.value)
    number = r" \pm ".join(re.sub(r"e([+-])0*(\d+)", _power, part) for part in cell if part)
    return f"${number}$"


def _power(match: re.Match) -> str:
    sign = "-" if match[1] == "-" else ""
    return rf" \cdot 10^{{{sign}{match[2]}}}"


def _inert(value: Any) -> Any:
    """Numbers may have a sign."""
    runs = isinstance(value, str) and re.match(r"[=@\t\r]|[-+](?![\d.]+(?:e[-+]?\d+)?(?: ?%)?$)", value)
    return f"'{value}" if runs else value
