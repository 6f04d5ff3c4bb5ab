"""`workbench.weight_errors`: what several formats and quantizers make of one matrix, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from workbench.errors import WorkbenchError
from workbench.formats.spec import WeightFormat
from workbench.formats.text import as_format, parse_format
from workbench.quantizers import QUANTIZERS
from workbench.show.figures import Picture
from workbench.show.table import Table

from . import plots
from .weight_error import WeightError, weight_error

KINDS = ("blocks", "levels", "matrix")


@dataclass(frozen=True, eq=False)
class WeightErrors:
    """Made by `weight_errors`: `errors`, by format and then by quantizer; shows itself in a notebook as its table.

    `found["int4/64"]` is the first quantizer's `WeightError` of a format, `found["int4/64", "grid"]` that of another.
    """

    name: str
    errors: tuple[WeightError, ...]

    def __getitem__(self, key: str | tuple[str, str]) -> WeightError:
        """Raises WorkbenchError for a pair that was not asked for."""
        format, quantizer = (key, None) if isinstance(key, str) else key
        wanted = parse_format(format).fitted(self.errors[0].weights.shape[1])
        for each in self.errors:
            if each.format == wanted and quantizer in (None, each.quantizer):
                return each
        there = ", ".join(f"({str(each.format)!r}, {each.quantizer!r})" for each in self.errors)
        raise WorkbenchError(f"{key!r} is none of what {self.name} was rounded to; allowed: {there}")

    def table(self) -> Table:
        """Bits a weight, the SQNR that errors uniform over a step would have, and the SQNR, in dB."""
        return Table.of(
            {
                "format": lambda each: each.format,
                "quantizer": lambda each: each.quantizer,
                "bits a weight": lambda each: f"{each.bits_per_weight:.3f}",
                "s²/12 predicts, dB": lambda each: f"{each.predicted_db:.2f}",
                "SQNR, dB": lambda each: f"{each.sqnr_db:.2f}",
            },
            self.errors,
            sides="llr",
            caption=f"{self.name} {list(self.errors[0].weights.shape)}",
        )

    def data(self) -> Any:
        """A pandas DataFrame, one row a format and quantizer, unrounded."""
        import pandas

        fields = ("quantizer", "bits_per_weight", "predicted_db", "sqnr_db")
        rows = [{"format": str(e.format), **{name: getattr(e, name) for name in fields}} for e in self.errors]
        return pandas.DataFrame(rows)

    def plot(self, kind: str = "blocks") -> Picture:
        """How the blocks' SQNR is distributed ("blocks"), one block of each format with the values that it can give its
        weights ("levels"), or the first format and quantizer up close ("matrix"). WorkbenchError for another kind.
        """
        if kind == "blocks":
            return plots.block_errors(self.errors)
        if kind == "levels":
            return plots.levels([each for each in self.errors if each is self[str(each.format)]])
        if kind == "matrix":
            return plots.explained(self.errors[0])
        raise WorkbenchError(f"plot {kind!r} is unknown; allowed: {', '.join(KINDS)}")

    def __repr__(self) -> str:
        found = ", ".join(f"{each.format} {each.quantizer} {each.sqnr_db:.2f} dB" for each in self.errors[:4])
        more = f", {len(self.errors) - 4} more" if len(self.errors) > 4 else ""
        return f"<errors of {self.name}: {found}{more}>"

    def __str__(self) -> str:
        return self.table().text()

    def _repr_html_(self) -> str:
        return self.table()._repr_html_()


def weight_errors(
    weights: np.ndarray,
    formats: str | WeightFormat | Sequence[str | WeightFormat],
    quantizers: str | Sequence[str] = "rtn",
    *,
    name: str = "weights",
) -> WeightErrors:
    """Round one matrix to several formats, and say what is lost: no model runs.

        source = workbench.load("DIR").source
        weights = source.tensor("model.layers.0.mlp.down_proj.weight").dequantize()
        found = workbench.weight_errors(weights, ["int8", "int4/32", "int2/32"], ["rtn", "grid"])
        found["int4/32", "grid"].sqnr_db, found.plot("levels")

    weights: floats [rows, columns]. formats: as `--set` takes them ("int8", "int4/64", "int2/channel"). quantizers: of
    docs/quantizers.md, those that need nothing but the weights. name: what tables and figures call the matrix. SQNR is
    10 log10(sum w^2 / sum (w - w_hat)^2), in dB; what is predicted takes errors as uniform over a step of size s, which
    is noise of s^2 / 12 a weight (Bennett 1948). Each WeightError has `restored` [rows, columns], `block_sqnr_db`
    [rows, blocks] and `block(row, block)`.

    Raises WorkbenchError for an unknown quantizer, for one that needs inputs as well, for nothing to round to and for
    weights that are no matrix; FormatError for a format that there is not, or that the quantizer does not take.
    """
    asked = [formats] if isinstance(formats, str | WeightFormat) else list(formats)
    methods = [quantizers] if isinstance(quantizers, str) else list(quantizers)
    if not asked or not methods:
        raise WorkbenchError("weight_errors: give at least one format and one quantizer")
    if unknown := [each for each in methods if each not in QUANTIZERS]:
        able = ", ".join(each for each, method in QUANTIZERS.items() if method.able(frozenset()))
        raise WorkbenchError(f"quantizer {unknown[0]!r} is unknown; allowed here: {able}")
    weights = np.asarray(weights, np.float32)
    if weights.ndim != 2 or 0 in weights.shape:
        raise WorkbenchError(f"weights: a matrix [rows, columns] is needed, not {list(weights.shape)}")
    parsed = [as_format(each) for each in asked]
    if plain := [each for each in parsed if not each.is_quantized]:
        raise WorkbenchError(f"format {plain[0]} rounds to no levels; allowed: int8, int4 and int2")
    found = [weight_error(weights, each, method, name) for each in parsed for method in methods]
    return WeightErrors(name, tuple(found))
