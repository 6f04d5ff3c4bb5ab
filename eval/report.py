"""How results show themselves: plain text, HTML for notebooks, values that JSON can say."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from workbench.show.table import NONE, Table


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
    """A cell: numbers to four digits, nothing for None, a dash for a figure that does not exist."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, float):
        return str(value)
    return NONE if math.isnan(value) else f"{value:.4g}"


#: Perplexities from here on are shown in four digits: they say "far off", and no more.
LONG = 1e5
ONE_WINDOW = "one window has no clustered error"
LARGER_ERROR = (
    "± is one standard error, clustered by window or with tokens as independent, whichever is larger"
)


def ppl_form(ppl: float) -> str:
    """How to format a perplexity and its error."""
    return ".4f" if ppl < LONG else ".3e"


def ppl_text(ppl: float | None, se: float | None = None) -> str:
    """A perplexity, with its error where there is one; None and infinity are those that overflowed."""
    if ppl is None or math.isinf(ppl):
        return "beyond 1e308"
    return f"{ppl:{ppl_form(ppl)}}{plus_minus(se, ppl_form(ppl))}"


def plus_minus(error: float | None, form: str, otherwise: str = "") -> str:
    """` ± error`, or where there is none (a single token or window) the reason in brackets, if one is given."""
    if error is not None and math.isfinite(error):
        return f" ± {error:{form}}"
    return f" ({otherwise})" if otherwise else ""


def errors_note(errors: Iterable[tuple[float | None, float | None]]) -> str:
    """What "±" is where each figure of a table or a text has the larger of its (plain, clustered by window) errors."""
    known = [(plain, clustered) for plain, clustered in errors if plain is not None and clustered is not None]
    both = [pair for pair in known if all(map(math.isfinite, pair))]
    larger = sum(clustered > plain for plain, clustered in both)
    if not both:
        which = f"tokens taken as independent; {ONE_WINDOW}"
    elif not larger:
        which = "tokens taken as independent; clustered by window none is larger"
    elif larger == len(both):
        which = "clustered by window"
    else:
        which = "clustered by window, or with tokens as independent where that is larger"
    return f"± is one standard error, {which}"


def count_text(count: int) -> str:
    """A count to two digits, rounded up: `320,000`; `3.2e+09` from 10^9 on."""
    unit = 10 ** max(0, len(str(count)) - 2)
    rounded = -(-count // unit) * unit
    return f"{rounded:,}" if rounded < 10**9 else f"{rounded:.1e}"


def ran(backend: str, provenance: Mapping[str, Any]) -> str:
    """What a model ran through, as `wgpu, f32 activations, int8 cache`; precisions where the record names them."""
    named = [f"{provenance[what]} {what}" for what in ("activations", "cache") if provenance.get(what)]
    return ", ".join([backend, *named])


def int8_noise(provenance: Mapping[str, Any]) -> str | None:
    """The name of the noise floor that a model has which rounds to INT8 while it runs; None for others.

    Such a model's losses have one: a value on the edge between two quants falls to either side by the last bit of a
    sum, and what is computed from it is rounded anew, so that two backends differ though their kernels agree.
    """
    rounded = [name for what, name in _ROUNDED.items() if provenance.get(what) == "int8"]
    return f"INT8 {' and '.join(rounded)} noise floor" if rounded else None


_ROUNDED = {"activations": "activation", "cache": "cache"}


class Tabular:
    """Mixin of results that are a list of rows: text and HTML from `rows()`, dicts that share their keys.

    `caption` says what the table is of, `notes` what else a reader must know.
    """

    caption = ""
    notes: tuple[str, ...] = ()

    def rows(self) -> Sequence[Mapping[str, Any]]:
        raise NotImplementedError

    def table(self) -> Table:
        """All rows, with caption and notes."""
        rows = self.rows()
        cells = [[show(value) for value in row.values()] for row in rows]
        return Table(list(rows[0]) if rows else (), cells, "l", self.caption, self.notes)

    def __str__(self) -> str:
        return self.table().text()

    def _repr_html_(self) -> str:
        return self.table().html()
