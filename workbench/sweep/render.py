"""Rows as Markdown, LaTeX, HTML, CSV and JSON. Strings come from models and files: each format escapes them."""

from __future__ import annotations

import csv as csv_module
import html as markup
import io
import json as json_module
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from eval.report import LONG, ppl_form, ppl_text
from eval.statistics import BOTH_TAILS, QUANTILES
from workbench.known import known
from workbench.models.blocks import cache_type

from .rows import Row

NONE = "–"


class Figure(NamedTuple):
    """A number with its standard error, both as text; error "" where there is none."""

    value: str
    error: str = ""


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


def _grid(rows: Sequence[Row], detailed: bool) -> tuple[list[str], list[list[Cell]]]:
    """Titles and cells of the columns that say something here."""
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
        columns.append(cells)
    return titles, [list(line) for line in zip(*columns, strict=True)]


def md(rows: Sequence[Row], caption: str, detailed: bool = False) -> str:
    """A Markdown table with its caption below."""
    titles, grid = _grid(rows, detailed)
    lines = [titles, *([_markdown(cell) for cell in line] for line in grid)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(titles))]
    numeric = [any(isinstance(line[i], Figure) for line in grid) for i in range(len(titles))]
    rule = [
        "-" * (w - 1) + ":" if right else ":" + "-" * (w - 1)
        for w, right in zip(widths, numeric, strict=True)
    ]
    padded = [
        [c.rjust(w) if right else c.ljust(w) for c, w, right in zip(line, widths, numeric, strict=True)]
        for line in lines
    ]
    padded.insert(1, rule)
    return "\n".join(f"| {' | '.join(line)} |" for line in padded) + f"\n\n{escape_md(caption)}\n"


def escape_md(text: str) -> str:
    """Text that Markdown shows as it is, on one line: HTML and bars as entities, the rest behind backslashes."""
    text = markup.escape(" ".join(text.split()), quote=False).replace("|", "&#124;")
    return re.sub(r"([\\`*_\[\]$~])", r"\\\1", text)


def _markdown(cell: Cell) -> str:
    if cell is None or cell == "":
        return NONE
    if isinstance(cell, Figure):
        return f"{cell.value} ± {cell.error}" if cell.error else cell.value
    return escape_md(cell)


def html(rows: Sequence[Row], caption: str, detailed: bool = False) -> str:
    """A table element with a caption."""
    titles, grid = _grid(rows, detailed)

    def line(tag: str, cells: Sequence[Cell]) -> str:
        return "<tr>" + "".join(_html(tag, cell) for cell in cells) + "</tr>"

    body = "\n".join(line("td", cells) for cells in grid)
    return (
        f"<table>\n<caption>{markup.escape(caption)}</caption>\n<thead>\n{line('th', titles)}\n</thead>\n"
        f"<tbody>\n{body}\n</tbody>\n</table>\n"
    )


def _html(tag: str, cell: Cell) -> str:
    side = "right" if isinstance(cell, Figure) else "left"
    if isinstance(cell, Figure):
        cell = f"{cell.value} ± {cell.error}" if cell.error else cell.value
    return f'<{tag} style="text-align:{side}">{markup.escape(cell or NONE)}</{tag}>'


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


def latex(rows: Sequence[Row], caption: str, detailed: bool = False) -> str:
    """A table environment; needs the package booktabs."""
    titles, grid = _grid(rows, detailed)
    numeric = [any(isinstance(line[i], Figure) for line in grid) for i in range(len(titles))]
    head = " & ".join(map(escape_latex, titles)) + r" \\"
    body = "\n".join(" & ".join(map(_latex, line)) + r" \\" for line in grid)
    columns = "".join("r" if right else "l" for right in numeric)
    return (
        "\\begin{table}\n\\centering\n"
        f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n{head}\n\\midrule\n{body}\n\\bottomrule\n\\end{{tabular}}\n"
        f"\\caption{{{escape_latex(caption)}}}\n\\end{{table}}\n"
    )


def _latex(cell: Cell) -> str:
    if cell is None or cell == "":
        return "--"
    if not isinstance(cell, Figure):
        return escape_latex(cell)
    if not re.match(r"[-+]?\d", cell.value):
        return escape_latex(cell.value)
    number = r" \pm ".join(re.sub(r"e([+-])0*(\d+)", _power, part) for part in cell if part)
    return f"${number}$"


def _power(match: re.Match) -> str:
    sign = "-" if match[1] == "-" else ""
    return rf" \cdot 10^{{{sign}{match[2]}}}"


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


def json(rows: Sequence[Row], caption: str, detailed: bool = True) -> str:
    """As `records`, which leave nothing out."""
    values = {"kind": "workbench-table", "version": 1, "conditions": caption, "rows": records(rows)}
    return json_module.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def csv(rows: Sequence[Row], caption: str, detailed: bool = True) -> str:
    """Unrounded values, a header line. Text that a spreadsheet would run as a formula gets an apostrophe in front."""
    stream = io.StringIO()
    found = records(rows)
    writer = csv_module.DictWriter(stream, list(found[0]), lineterminator="\n")
    writer.writeheader()
    for record in found:
        writer.writerow({key: _inert(value) for key, value in record.items()})
    return stream.getvalue()


def _inert(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
