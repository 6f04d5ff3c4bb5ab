"""The one table: titles and rows of cells, written as text, Markdown, CSV, LaTeX or HTML.

Cells come from models and files as well: each form but plain text escapes them.
"""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import latex
from .latex import Figure, escape_latex

__all__ = ["FORMS", "NONE", "Figure", "Table", "escape_latex", "escape_md"]

FORMS = ("text", "md", "csv", "latex", "html")
#: What stands for a figure that does not exist.
NONE = "–"
#: Columns that fit a narrow notebook, with titles that wrap.
FIT = 5
KEEPS_KEYS = 'data-lm-suppress-shortcuts="true"'


@dataclass(frozen=True)
class Table:
    """Rows of cells (anything that `str` makes text of; a `Figure` for mathematics in LaTeX; None for a dash).

    head: the titles; without any the first cell of a row is its title. sides: "l" or "r" for each column, of which the
    last goes on: "lr" is the first column to the left and the others to the right. caption: what the table is of;
    notes: what else a reader must know, a line each. best: (row, column) of cells that stand out, in bold.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[Any]]
    sides: str = "lr"
    caption: str = ""
    notes: Sequence[str] = ()
    best: Collection[tuple[int, int]] = ()

    def __post_init__(self) -> None:
        widths = {len(row) for row in (self.rows if not self.head else [self.head, *self.rows])}
        if len(widths) > 1:
            raise ValueError(f"all rows of a table have as many cells; these have {sorted(widths)}")

    @classmethod
    def of(cls, columns: Mapping[str, Callable[[Any], Any]], rows: Sequence[Any], **more: Any) -> Table:
        """A function of a row for each column, by title; further arguments as above."""
        return cls(list(columns), [[make(row) for make in columns.values()] for row in rows], **more)

    def _lines(self, form: Callable[[Any], str] = str, bold: str = "{}") -> list[list[str]]:
        """All rows as text, the titles first where there are any. bold: what stands around a cell that stands out."""
        lines = [[form(NONE if cell is None else cell) for cell in row] for row in self.rows]
        for row, column in self.best:
            lines[row][column] = bold.format(lines[row][column])
        return [[form(title) for title in self.head], *lines] if self.head else lines

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
        head, *rows = self._padded(self._lines(_bars if marked_up else escape_md, "**{}**"))
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

    def latex(
        self, *, label: str = "", caption: str | None = None, said: str = "", siunitx: bool = False
    ) -> str:
        """A table environment; needs the package booktabs, and siunitx where numbers are in its S columns.

        label: what `\\ref` finds. caption: LaTeX in the place of the table's own caption and notes. said: text of a
        comment, such as the conditions that another caption leaves out. siunitx: figures as `7.3607(1640)`, aligned at
        the point.
        """
        columns = [latex.column(found) if siunitx else None for found in self._columns()]
        forms = [form or side for form, side in zip(columns, self._sides(len(self.head)), strict=True)]
        head = [
            f"{{{escape_latex(title)}}}" if form else escape_latex(title)
            for title, form in zip(self.head, columns, strict=True)
        ]
        rows = [
            [
                (latex.aligned if form else latex.cell)(
                    NONE if cell is None else cell, bold=(r, c) in self.best
                )
                for c, (cell, form) in enumerate(zip(row, columns, strict=True))
            ]
            for r, row in enumerate(self.rows)
        ]
        lines = [" & ".join(line) + r" \\" for line in (head, *rows)]
        own = escape_latex(" ".join([self.caption, *self.notes])) if caption is None else caption
        return "\n".join(
            [
                *(latex.PACKAGES if siunitx else ()),
                *(f"% {line}" for line in said.splitlines()),
                r"\begin{table}",
                r"\centering",
                rf"\begin{{tabular}}{{{''.join(forms)}}}",
                *(r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule"),
                r"\end{tabular}",
                rf"\caption{{{own}}}",
                *([rf"\label{{{label}}}"] if label else []),
                r"\end{table}",
            ]
        )

    def _columns(self) -> list[list[Any]]:
        return [[row[index] for row in self.rows] for index in range(len(self.head))]

    def html(self, *, sorts: bool = False) -> str:
        """A table element with a caption, its notes below in paragraphs. One of many columns scrolls in a place of its
        own, which Tab reaches and which says what it is.

        sorts: a click on a title, or Enter, orders the rows by that column, then the other way round. Where scripts are
        taken out, as of a notebook that is not trusted, the table stays as it is.
        """
        caption = (
            [f'<caption style="text-align:left">{html.escape(self.caption)}</caption>']
            if self.caption
            else []
        )
        lines = self._lines(_unbroken, "<strong>{}</strong>")
        head, *rows = lines if self.head else [[], *lines]
        titles = ["<thead>", self._row(head, "th"), "</thead>"] if head else []
        if sorts and head and len(rows) > 1:
            # JupyterLab takes Enter of what has the focus for itself unless that says otherwise.
            attributes = f'tabindex="0" {KEEPS_KEYS} title="order by this column"'
            titles[1] = titles[1].replace("<th ", f"<th {attributes} ")
            element = (
                f'<table onclick="{_SORT}" onkeydown="if (event.key === \'Enter\') event.target.click()">'
            )
        else:
            element = "<table>"
        body = [self._row(row, "td", "td" if head else "th") for row in rows]
        notes = [f"<p style='white-space:pre-wrap'>{html.escape(note)}</p>" for note in self.notes if note]
        lines = [element, *caption, *titles, "<tbody>", *body, "</tbody>", "</table>"]
        if len(head) > FIT:
            name = html.escape(self.caption[:80] or "table")
            place = f'tabindex="0" role="region" aria-label="{name}" {KEEPS_KEYS} style="overflow-x:auto"'
            lines = [f"<div {place}>", *lines, "</div>"]
        return "\n".join([*lines, *notes])

    def _row(self, cells: Sequence[str], tag: str, first: str = "") -> str:
        tags = [first or tag, *[tag] * (len(cells) - 1)]
        made = (
            f'<{tag} style="text-align:{"left" if side == "l" else "right"}">{cell}</{tag}>'
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

    def __repr__(self) -> str:
        return f"<table of {len(self.rows)} rows: {', '.join(map(str, self.head)) or self.caption}>"

    def _repr_html_(self) -> str:
        return self.html(sorts=True)

    def __str__(self) -> str:
        return self.text()


#: Of a table: numbers by their value, errors and thousands left aside, what is none of them behind; else as text.
_SORT = re.sub(
    r"\s+",
    " ",
    """
    const head = event.target.closest('th'), body = this.tBodies[0];
    if (!head || !head.closest('thead')) return;
    const at = head.cellIndex, down = head.ariaSort === 'ascending', way = down ? -1 : 1;
    for (const each of head.parentNode.cells) each.ariaSort = null;
    head.ariaSort = down ? 'descending' : 'ascending';
    const said = (row) => row.cells[at].textContent, value = (row) => parseFloat(said(row).replace(/,/g, ''));
    const numbers = [...body.rows].some((row) => !isNaN(value(row)));
    const less = (a, b) => isNaN(value(a)) - isNaN(value(b)) || way * (value(a) - value(b));
    const before = (a, b) => way * said(a).localeCompare(said(b), undefined, {numeric: true});
    body.append(...[...body.rows].sort(numbers ? less : before));
    """,
).strip()


def _unbroken(cell: Any) -> str:
    """A cell as HTML. A narrow column breaks its lines at spaces, and not behind the e- of a number."""
    return re.sub(r"[\d.]+e-\d+", r"<span style='white-space:nowrap'>\g<0></span>", html.escape(str(cell)))


def _bars(cell: Any) -> str:
    return str(cell).replace("|", "&#124;")


def escape_md(text: Any) -> str:
    """Text that Markdown shows as it is, on one line: HTML and bars as entities, the rest behind backslashes."""
    text = _bars(html.escape(" ".join(str(text).split()), quote=False))
    return re.sub(r"[\\`*\[\]$~]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", text)


def _inert(value: Any) -> Any:
    """Numbers may have a sign."""
    runs = isinstance(value, str) and re.match(r"[=@\t\r]|[-+](?![\d.]+(?:e[-+]?\d+)?(?: ?%)?$)", value)
    return f"'{value}" if runs else value
