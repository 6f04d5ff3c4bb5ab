"""Tables of results that belong together, in every format, and their Pareto plot.

table(["runs/blocks"])                 # one Table; refuses rows of another protocol or text
tables(["runs/blocks", "more.json"])   # one for each protocol, text and tokenizer
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.report import count_text, errors_note
from workbench.errors import SweepError
from workbench.show.figures import Picture
from workbench.show.table import FORMS

from .pareto import pareto_front, pareto_plot, points_of
from .render import Layout, records, shown, written
from .rows import Conditions, Row, files, read_rows

FORMATS = (*FORMS[1:], "json")
#: Rows that a caption names one by one.
_NAMED = 4


@dataclass(frozen=True)
class Table:
    """Rows of the same conditions. Made by `table`, `tables` or `Table.of`; shows itself in a notebook. detailed: shows
    percentiles too, which CSV and JSON have anyway."""

    rows: tuple[Row, ...]
    detailed: bool = False

    def __post_init__(self) -> None:
        if not self.rows:
            raise SweepError("a table without rows: there is no result yet")
        first = self.rows[0]
        for row in self.rows[1:]:
            if row.conditions != first.conditions:
                raise SweepError(
                    f"rows do not belong into one table: {first.source} is {first.conditions}; {row.source} is "
                    f"{row.conditions}; they differ in {first.conditions.difference(row.conditions)}. "
                    "One table each: --by-protocol, or tables(...)"
                )
        if len(passages := self._passages) > 1:
            raise SweepError(
                f"rows do not belong into one table: last words are of {' and of '.join(passages)}"
            )

    @classmethod
    def of(cls, runs: Iterable[str | Path], *, detailed: bool = False) -> Table:
        """From folders and files, see `workbench.sweeps.rows.files`."""
        return cls(_sorted(_read(runs)), detailed)

    @property
    def conditions(self) -> Conditions:
        return self.rows[0].conditions

    @property
    def _passages(self) -> list[str]:
        return list(dict.fromkeys(row.passages for row in self.rows if row.passages))

    @property
    def caption(self) -> str:
        """The conditions of all rows, which of their standard errors are shown, the noise floor of those that round to
        INT8 while they run, whether times are a CPU's, what there is to be known of single rows, and which changes
        these tokens are too few for."""
        noise = dict.fromkeys(row.noise for row in self.rows if row.noise)
        words = [f"last words of {each}" for each in self._passages]
        times = ["times are a CPU's, not a GPU's"] if any(row.on_cpu for row in self.rows) else []
        errors = [pair for row in self.rows for pair in row.errors]
        said = [errors_note(errors)] if errors else []
        return "; ".join([str(self.conditions), *said, *words, *noise, *times, *self._notes, *self._untold])

    @property
    def _notes(self) -> list[str]:
        """Each note once, behind the models that it is of, or behind none where it is of all that are quantized."""
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            if row.note:
                found.setdefault(row.note, []).append(row)
        most = max(1, sum(not row.is_baseline for row in self.rows))
        return [
            note
            if len(rows) >= most > 1
            else f"{', '.join(dict.fromkeys(row.model for row in rows))}: {note}"
            for note, rows in found.items()
        ]

    @property
    def _untold(self) -> list[str]:
        """Which paired changes cannot be told from none, and how many tokens would tell the largest of them."""
        rows = [row for row in self.rows if row.is_untold]
        if not rows:
            return []
        names = dict.fromkeys(" ".join(filter(None, (row.format, row.quantizer))) for row in rows)
        shown = [*names][:_NAMED] + ([f"{len(names) - _NAMED} others"] if len(names) > _NAMED else [])
        least = min((count for row in rows if (count := row.tokens_to_tell)), default=None)
        more = f"; about {count_text(least)} would tell the largest" if least else ""
        tokens = f"{self.conditions.tokens_scored:,} tokens"
        return [f"{tokens} cannot tell the change of {', '.join(shown)} from none{more}"]

    @property
    def front(self) -> tuple[Row, ...]:
        """Rows that no other beats in bits a weight and perplexity both, by bits a weight."""
        found = points_of(self.rows, "ppl", "bits")
        return tuple(found[index].row for index in pareto_front([(each.size, each.loss) for each in found]))

    def records(self) -> list[dict[str, Any]]:
        """A dict a row, of plain values, unrounded: `pandas.DataFrame(table.records())`."""
        return records(self.rows)

    def format(self, name: str, **layout: Any) -> str:
        """As "md", "csv", "latex", "html" or "json"; strings from models and files are escaped.

            found.format("latex", columns=["format", "bits", "change", "kl"], best="bold", siunitx=True)

        layout: columns, sort, descending, best, transposed, caption, label and siunitx, as `render.Layout` says.
        """
        if name not in FORMATS:
            raise SweepError(f"format {name!r} is unknown; allowed: {', '.join(FORMATS)}")
        return written(self.rows, self.caption, Layout.of(detailed=self.detailed, **layout), name)

    def markdown(self) -> str:
        return self.format("md")

    def plot(
        self, path: str | Path | None = None, *, of: str | None = None, against: str = "bits"
    ) -> Picture:
        """A loss with its error against the size, with the Pareto front; saved if a path is given, in the format of its
        suffix. of: "change" or "kl", which are paired, or "ppl"; the first that rows have. against: "bits" or "bytes".
        """
        return pareto_plot(self.rows, self.caption, path, of=of, against=against)

    def _repr_html_(self) -> str:
        return shown(self.rows, self.caption, Layout(detailed=self.detailed))._repr_html_()

    def __repr__(self) -> str:
        return f"<table of {len(self.rows)} results, {self.conditions}>"

    def __len__(self) -> int:
        return len(self.rows)

    def __str__(self) -> str:
        return self.markdown()


def table(runs: str | Path | Iterable[str | Path], *, detailed: bool = False) -> Table:
    """One table of all results in folders and files. SweepError if they do not belong together, naming both.

        workbench.table("runs/blocks").format("latex")

    runs: folders of sweeps or benchmarks, or result files (`workbench.sweeps.rows`). detailed: with percentiles.
    """
    return Table.of([runs] if isinstance(runs, str | Path) else runs, detailed=detailed)


def tables(runs: str | Path | Iterable[str | Path], *, detailed: bool = False) -> list[Table]:
    """A table for each protocol, text and tokenizer, in the order in which they come. SweepError for no result.

        for each in workbench.tables(["runs/blocks", "runs/more"]):
            print(each)

    runs, detailed: as in `table`.
    """
    groups: dict[Conditions, list[Row]] = {}
    for row in _read([runs] if isinstance(runs, str | Path) else runs):
        groups.setdefault(row.conditions, []).append(row)
    return [Table(_sorted(rows), detailed) for rows in groups.values()]


def _read(runs: Iterable[str | Path]) -> list[Row]:
    return [row for path in files(runs) for row in read_rows(path)]


def _sorted(rows: Sequence[Row]) -> tuple[Row, ...]:
    """By model, the unconverted one first, then from many bits to few, then by quantizer."""
    return tuple(
        sorted(
            rows,
            key=lambda row: (
                row.model,
                not row.is_baseline,
                -(row.bits_per_weight or 0),
                row.format,
                row.quantizer,
                row.backend,
            ),
        )
    )
