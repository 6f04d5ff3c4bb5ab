"""The columns of a table of results: the name that asks for one, its title, its figures, and which figure is best."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval.report import LONG, ppl_form, ppl_text
from eval.statistics import QUANTILES
from workbench.errors import SweepError
from workbench.known import known
from workbench.models.blocks import cache_type
from workbench.show.table import Figure

from .rows import Row

Cell = str | Figure | None


@dataclass(frozen=True)
class Column:
    """name: what asks for it. cell: what is shown of a row; a string is text, a Figure a number. value: what rows are
    sorted and compared by, None where unknown. best: "least" or "most" of a figure that one wants to be small or large.
    shown: whether it is there unasked: "always", "detailed", "known" (where a row has it) or "different" (where rows
    differ, or run in another precision than f32)."""

    name: str
    title: str
    cell: Callable[[Row], Cell]
    value: Callable[[Row], Any]
    best: str = ""
    shown: str = "always"


def _ran(row: Row) -> str:
    """`torch f16, int8 cache`; with what its baseline ran where that is another precision."""
    own, other = (
        _precision(row.activations, row.cache),
        _precision(row.baseline_activations, row.baseline_cache),
    )
    against = f", paired with {other}" if other and other != own else ""
    return f"{row.backend} {own}".strip() + against


def _precision(activations: str | None, cache: str | None) -> str:
    if activations is None:
        return ""
    return activations if cache in (None, cache_type(activations)) else f"{activations}, {cache} cache"


def _plain(value: float | None, form: str) -> Figure | None:
    return None if value is None else Figure(format(value, form))


def _with_error(value: float | None, error: float | None, form: str, error_form: str) -> Figure | None:
    if value is None:
        return None
    return Figure(format(value, form), "" if error is None else format(error, error_form))


def _ppl(row: Row) -> Figure:
    if row.ppl is None:  # exp overflowed
        return Figure(ppl_text(None))
    form = ".4f" if row.ppl < 1000 else ".0f" if row.ppl < LONG else ppl_form(row.ppl)
    return known(_with_error(row.ppl, row.ppl_error, form, form))


def _change(row: Row) -> Figure | None:
    if row.change is None:
        return None
    if abs(row.change) >= LONG:
        return _with_error(row.change, row.change_error, "+.3e", ".1e")
    digits = 3 if abs(row.change) < 1 else 2 if abs(row.change) < 1000 else 0
    return _with_error(row.change, row.change_error, f"+.{digits}f", f".{digits}f")


def _share(share: float | None, error: float | None, form: str = ".2f") -> Figure | None:
    """A share or a change of one with its error, both in %."""
    if share is None:
        return None
    return _with_error(100 * share, None if error is None else 100 * error, form, ".2f")


def _last_word(row: Row, value: str, error: str, form: str) -> Figure | None:
    if row.last_word is None:
        return None
    return _share(row.last_word[value], row.last_word[error], form)


def _of(found: Mapping[str, float] | None, name: str, form: str, times: float = 1) -> Figure | None:
    return None if found is None or name not in found else Figure(format(times * found[name], form))


def _text(name: str, shown: str = "always") -> Column:
    def text(row: Row) -> str:
        return getattr(row, name)

    return Column(name, name, text, text, shown=shown)


def _quantile(name: str) -> Column:
    return Column(
        f"kl-{name}",
        f"KL {name}, nats",
        lambda row: _of(row.kl_quantiles, name, ".2e"),
        lambda row: (row.kl_quantiles or {}).get(name),
        "least",
        "detailed",
    )


def _delta_p(name: str, title: str, form: str) -> Column:
    return Column(
        f"dp-{name}",
        f"Δp {title}, %",
        lambda row: _of(row.delta_p, name, form, 100),
        lambda row: (row.delta_p or {}).get(name),
        shown="detailed",
    )


def _word(row: Row, name: str) -> float | None:
    return None if row.last_word is None else row.last_word[name]


COLUMNS: tuple[Column, ...] = (
    _text("model"),
    _text("format"),
    _text("quantizer", shown="known"),
    Column("backend", "backend", _ran, _ran, shown="different"),
    Column("bits", "bits a weight", lambda r: _plain(r.bits_per_weight, ".3f"), lambda r: r.bits_per_weight),
    Column(
        "size",
        "size, MB",
        lambda row: None if row.file_bytes is None else Figure(f"{row.file_bytes / 1e6:.2f}"),
        lambda row: row.file_bytes,
    ),
    Column("ppl", "perplexity ± SE", _ppl, lambda row: row.ppl, "least"),
    Column("change", "paired change ± SE, %", _change, lambda row: row.change, "least"),
    Column(
        "kl",
        "KL ± SE, nats",
        lambda row: _with_error(row.kl, row.kl_error, ".2e", ".0e"),
        lambda row: row.kl,
        "least",
    ),
    *map(_quantile, QUANTILES),
    _delta_p("mean", "mean", "+.3f"),
    _delta_p("rms", "RMS", ".2f"),
    _delta_p("p0.1", "p0.1", "+.1f"),
    _delta_p("p99.9", "p99.9", "+.1f"),
    Column(
        "top1",
        "same top-1 ± SE, %",
        lambda row: _share(row.same_top1, row.same_top1_error),
        lambda row: row.same_top1,
        "most",
    ),
    Column(
        "last-word",
        "last word ± SE, %",
        lambda row: _last_word(row, "accuracy", "se", ".2f"),
        lambda row: _word(row, "accuracy"),
        "most",
        "known",
    ),
    Column(
        "last-word-change",
        "its paired change ± SE, %",
        lambda row: _last_word(row, "change", "change_se", "+.2f"),
        lambda row: _word(row, "change"),
        "most",
        "known",
    ),
    Column(
        "quantized-in",
        "quantized in, s",
        lambda row: _plain(row.quantize_seconds, ".1f"),
        lambda row: row.quantize_seconds,
        shown="known",
    ),
    *(
        Column(
            name,
            f"{name}, tokens/s",
            lambda row, name=name: _plain(getattr(row, name), ".0f"),
            lambda row, name=name: getattr(row, name),
            "most",
            "known",
        )
        for name in ("prefill", "decode")
    ),
)
#: What tells rows apart; the others are figures.
TEXTS = ("model", "format", "quantizer", "backend")


def named(names: Sequence[str], what: str = "columns") -> list[Column]:
    """The columns of these names, in this order. Raises SweepError, naming what is allowed."""
    found = {column.name: column for column in COLUMNS}
    for name in names:
        if name not in found:
            raise SweepError(f"{what} {name!r} is none of the columns; allowed: {', '.join(found)}")
    return [found[name] for name in names]


def saying(rows: Sequence[Row], detailed: bool) -> list[Column]:
    """The columns that say something of these rows."""
    return [column for column in COLUMNS if _says(column, rows, detailed)]


def _says(column: Column, rows: Sequence[Row], detailed: bool) -> bool:
    if column.shown == "detailed":
        return detailed
    if column.shown == "always":
        return True
    cells = [column.cell(row) for row in rows]
    if column.shown == "known":
        return any(cells)
    return len(set(cells)) > 1 or not rows[0].in_f32
