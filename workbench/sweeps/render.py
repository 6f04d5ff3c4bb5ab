"""Rows of results as tables: what the columns are, which of them say something, and all figures as records."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from eval.report import LONG, ppl_form, ppl_text
from eval.statistics import BOTH_TAILS, QUANTILES
from workbench.known import known
from workbench.models.blocks import cache_type
from workbench.show.table import Figure, Table

from .rows import Row

Cell = str | Figure | None
#: Title, and the cell of a row: a string is text and is escaped, a Figure is a number. The first are for who asks.
_DETAILS: dict[str, Callable[[Row], Cell]] = {
    **{f"KL {name}, nats": lambda row, name=name: _of(row.kl_quantiles, name, ".2e") for name in QUANTILES},
    "Δp mean, %": lambda row: _of(row.delta_p, "mean", "+.3f", 100),
    "Δp RMS, %": lambda row: _of(row.delta_p, "rms", ".2f", 100),
    "Δp p0.1, %": lambda row: _of(row.delta_p, "p0.1", "+.1f", 100),
    "Δp p99.9, %": lambda row: _of(row.delta_p, "p99.9", "+.1f", 100),
}
COLUMNS: tuple[tuple[str, Callable[[Row], Cell]], ...] = (
    ("model", lambda row: row.model),
    ("format", lambda row: row.format),
    ("quantizer", lambda row: row.quantizer),
    ("backend", lambda row: _ran(row)),
    ("bits a weight", lambda row: _plain(row.bits_per_weight, ".3f")),
    ("size, MB", lambda row: None if row.file_bytes is None else Figure(f"{row.file_bytes / 1e6:.2f}")),
    ("perplexity ± SE", lambda row: _ppl(row)),
    ("paired change ± SE, %", lambda row: _change(row)),
    ("KL ± SE, nats", lambda row: _with_error(row.kl, row.kl_se, ".2e", ".0e")),
    *_DETAILS.items(),
    ("same top-1 ± SE, %", lambda row: _share(row.same_top1, row.same_top1_se)),
    ("last word ± SE, %", lambda row: _last_word(row, "accuracy", "se", ".2f")),
    ("its paired change ± SE, %", lambda row: _last_word(row, "change", "change_se", "+.2f")),
    ("quantized in, s", lambda row: _plain(row.quantize_seconds, ".1f")),
    ("prefill, tokens/s", lambda row: _plain(row.prefill, ".0f")),
    ("decode, tokens/s", lambda row: _plain(row.decode, ".0f")),
)
#: Left out where no row has it, or (backend) where all rows have the same, in f32.
_WHERE_KNOWN = {"quantizer", "quantized in, s", "prefill, tokens/s", "decode, tokens/s"}
_WHERE_KNOWN |= {"last word ± SE, %", "its paired change ± SE, %"}
_WHERE_DIFFERENT = {"backend"}
#: Figures that a row holds together, each of which is a field of `records`, CSV and JSON.
_TOGETHER = {
    "kl_quantiles": (*QUANTILES, "max"),
    "delta_p": ("mean", "rms", *BOTH_TAILS),
    "last_word": ("accuracy", "se", "change", "change_se"),
}


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
    return known(_with_error(row.ppl, row.ppl_se, form, form))


def _change(row: Row) -> Figure | None:
    if row.change is None:
        return None
    if abs(row.change) >= LONG:
        return _with_error(row.change, row.change_se, "+.3e", ".1e")
    digits = 3 if abs(row.change) < 1 else 2 if abs(row.change) < 1000 else 0
    return _with_error(row.change, row.change_se, f"+.{digits}f", f".{digits}f")


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


def shown(rows: Sequence[Row], caption: str, detailed: bool) -> Table:
    """The columns that say something here; figures stand to the right."""
    titles, columns = [], []
    for title, cell in COLUMNS:
        if title in _DETAILS and not detailed:
            continue
        cells = [cell(row) for row in rows]
        if title in _WHERE_KNOWN and not any(cells):
            continue
        if title in _WHERE_DIFFERENT and len(set(cells)) == 1 and rows[0].in_f32:
            continue
        titles.append(title)
        columns.append([each or None for each in cells])
    sides = ["r" if any(isinstance(each, Figure) for each in cells) else "l" for cells in columns]
    return Table(titles, list(zip(*columns, strict=True)), "".join(sides), caption)


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


def written(rows: Sequence[Row], caption: str, detailed: bool, form: str) -> str:
    """As "md", "latex" or "html"; as "csv" or "json", which have what `records` has, unrounded."""
    if form == "json":
        values = {"kind": "workbench-table", "version": 1, "conditions": caption, "rows": records(rows)}
        return json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if form == "csv":
        found = records(rows)
        table = Table(list(found[0]), [list(record.values()) for record in found])
    else:
        table = shown(rows, caption, detailed)
    return table.written(form) + "\n"
