"""Rows of results as tables: which columns in which order, formats side by side, what is best; and as records."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from eval.statistics import BOTH_TAILS, QUANTILES
from workbench.errors import SweepError
from workbench.show.table import Figure, Table

from .columns import TEXTS, Cell, Column, named, saying
from .rows import Row

#: Ways to mark the best figure.
MARKS = ("bold",)
#: Figures that a row holds together, each of which is a field of `records`, CSV and JSON.
_TOGETHER = {
    "kl_quantiles": (*QUANTILES, "max"),
    "delta_p": ("mean", "rms", *BOTH_TAILS),
    "last_word": ("accuracy", "se", "change", "change_se"),
}


@dataclass(frozen=True)
class Layout:
    """How a table is laid out. Raises SweepError for what is none of these.

    detailed: with percentiles. columns: names of `workbench.sweeps.columns.COLUMNS`, in order; () for those that say
    something. sort: a column's name; rows without a figure come last. best: "bold" marks the best figure among the
    quantizers of each model and format, or, where every format comes once, of each model; unconverted rows take no
    part. transposed: a column a format, a row a figure. caption: in the place of the conditions; in LaTeX as it stands,
    commands included, with the conditions in a comment. label: of LaTeX's table. siunitx: numbers in S columns, their
    errors in parentheses.
    """

    detailed: bool = False
    columns: tuple[str, ...] = ()
    sort: str | None = None
    descending: bool = False
    best: str | None = None
    transposed: bool = False
    caption: str | None = None
    label: str = ""
    siunitx: bool = False

    def __post_init__(self) -> None:
        named(self.columns)
        named([self.sort] if self.sort else [], "sort")
        if self.best not in (None, *MARKS):
            raise SweepError(f"best {self.best!r} is no mark; allowed: {', '.join(MARKS)}")
        if not re.fullmatch(r"[\w:.+/-]*", self.label):
            raise SweepError(f"label {self.label!r}: allowed are letters, digits and : . + / - _")

    @classmethod
    def of(cls, **options: Any) -> Layout:
        """By name; SweepError for a name that is none of the above."""
        allowed = [field.name for field in dataclasses.fields(cls)]
        if unknown := [name for name in options if name not in allowed]:
            raise SweepError(f"{unknown[0]!r} is no option of a table; allowed: {', '.join(allowed)}")
        if "columns" in options:
            options["columns"] = tuple(options["columns"])
        return cls(**options)

    def ordered(self, rows: Sequence[Row]) -> list[Row]:
        """The rows as `sort` wants them, those without the figure last; as they come where it wants nothing."""
        if self.sort is None:
            return list(rows)
        [column] = named([self.sort])
        with_it = [row for row in rows if column.value(row) is not None]
        without = [row for row in rows if column.value(row) is None]
        return sorted(with_it, key=column.value, reverse=self.descending) + without


def shown(rows: Sequence[Row], caption: str, layout: Layout) -> Table:
    """The columns that were asked for, or those that say something; figures stand to the right."""
    rows = layout.ordered(rows)
    columns = named(layout.columns) or saying(rows, layout.detailed)
    best = _best(rows, columns) if layout.best else set()
    caption = caption if layout.caption is None else layout.caption
    if layout.transposed:
        return _transposed(rows, columns, best, caption)
    cells = [[column.cell(row) or None for row in rows] for column in columns]
    marked = frozenset(
        (r, c) for c, column in enumerate(columns) for r in range(len(rows)) if (r, column.name) in best
    )
    sides = "".join("r" if _numbers(found) else "l" for found in cells)
    return Table(
        [each.title for each in columns], list(zip(*cells, strict=True)), sides, caption, best=marked
    )


def _numbers(cells: Iterable[Cell]) -> bool:
    return any(isinstance(each, Figure) for each in cells)


def _best(rows: Sequence[Row], columns: Sequence[Column]) -> set[tuple[int, str]]:
    """(index of the row, name of the column) of each figure that none of its group beats; what reads alike is alike."""
    taking_part = [index for index, row in enumerate(rows) if not row.is_baseline]
    groups = _grouped(taking_part, lambda index: (rows[index].model, rows[index].format))
    if all(len(group) == 1 for group in groups):
        groups = _grouped(taking_part, lambda index: rows[index].model)
    found = set()
    for column in columns:
        for group in groups if column.best else ():
            values = {index: column.value(rows[index]) for index in group}
            known = {index: value for index, value in values.items() if value is not None}
            if len(known) > 1:
                winner = (min if column.best == "least" else max)(known, key=known.__getitem__)
                said = column.cell(rows[winner])
                same = said.value if isinstance(said, Figure) else said
                found |= {
                    (i, column.name) for i in known if getattr(column.cell(rows[i]), "value", None) == same
                }
    return found


def _grouped(indices: Iterable[int], key: Any) -> list[list[int]]:
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for index in indices:
        groups[key(index)].append(index)
    return list(groups.values())


def _transposed(
    rows: Sequence[Row], columns: Sequence[Column], best: set[tuple[int, str]], caption: str
) -> Table:
    """A column a format, in the order of the rows; a row a figure of each model, quantizer and backend. An unconverted
    model stands beside each of its quantizers."""
    asked = {column.name for column in columns}
    texts = [
        column
        for column in named([name for name in TEXTS if name != "format"])
        if column.name in asked or len({column.cell(row) for row in rows if not row.is_baseline}) > 1
    ]
    figures = [column for column in columns if column.name not in TEXTS]
    if not figures:
        raise SweepError("a transposed table needs a column of figures, such as ppl, change or kl")
    formats = list(dict.fromkeys(row.format for row in rows))
    places: dict[tuple, dict[str, int]] = defaultdict(dict)
    for index, row in enumerate(rows):
        group = places[row.model, row.quantizer, row.backend]
        if row.format in group:
            raise SweepError(
                f"formats as columns: {row.model} in {row.format} ({row.quantizer or 'unconverted'}) comes twice, from "
                f"{rows[group[row.format]].source} and {row.source}; show one of them"
            )
        group[row.format] = index
    quantized = {
        key: group for key, group in places.items() if not all(rows[i].is_baseline for i in group.values())
    }
    for (model, _, backend), group in places.items():
        for key, beside in quantized.items():
            if beside is not group and (key[0], key[2]) == (model, backend):
                group_of_baseline = {f: i for f, i in group.items() if rows[i].is_baseline}
                beside |= {f: i for f, i in group_of_baseline.items() if f not in beside}
    lines, marked = [], set()
    for group in (quantized or places).values():
        first = rows[next(iter(group.values()))]
        for column in figures:
            marked |= {
                (len(lines), len(texts) + 1 + formats.index(f))
                for f, i in group.items()
                if (i, column.name) in best
            }
            cells = [column.cell(rows[group[f]]) if f in group else None for f in formats]
            lines.append([*(text.cell(first) or None for text in texts), column.title, *cells])
    head = [*(text.title for text in texts), "figure", *formats]
    sides = "l" * (len(texts) + 1) + "r" * len(formats)
    return Table(head, lines, sides, caption, best=frozenset(marked))


def records(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """A flat dict a row, unrounded; the conditions are in every one."""
    return [_record(row) for row in rows]


def _record(row: Row) -> dict[str, Any]:
    found = row.to_json()
    conditions = found.pop("conditions")
    together = {name: found.pop(name) or {} for name in _TOGETHER}
    for name, figures in _TOGETHER.items():
        prefix = name.removesuffix("_quantiles")
        found |= {f"{prefix}_{figure}": together[name].get(figure) for figure in figures}
    return found | conditions


def written(rows: Sequence[Row], caption: str, layout: Layout, form: str) -> str:
    """As "md", "latex" or "html"; as "csv" or "json", which have what `records` has, unrounded, sorted alone."""
    if form in ("csv", "json"):
        _sorted_alone(layout, form)
        found = records(layout.ordered(rows))
        if form == "json":
            values = {"kind": "workbench-table", "version": 1, "conditions": caption, "rows": found}
            return json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        return Table(list(found[0]), [list(record.values()) for record in found]).csv() + "\n"
    table = shown(rows, caption, layout)
    if form != "latex":
        return table.written(form) + "\n"
    own = layout.caption
    return (
        table.latex(label=layout.label, caption=own, said=caption if own else "", siunitx=layout.siunitx)
        + "\n"
    )


def _sorted_alone(layout: Layout, form: str) -> None:
    """SweepError where something else was asked of a form that holds every figure."""
    default = Layout()
    for name in ("columns", "best", "transposed", "caption", "label", "siunitx"):
        if getattr(layout, name) != getattr(default, name):
            raise SweepError(f"{form} holds every figure, unrounded: {name} is of md, latex and html")
