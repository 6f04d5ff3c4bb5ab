"""Figures' common style: colours, and a `Picture`, which a notebook shows as PNG.

It needs neither a browser nor pyplot, so that a widget's callback may make one on any thread.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from workbench.files.writing import written_whole

#: The first are distinguishable with the common colour deficiencies (Okabe and Ito 2008); more for more things.
COLOURS = (
    *("#0072B2", "#009E73", "#D55E00", "#CC79A7", "#E69F00", "#56B4E9", "#000000"),
    *("#6A3D9A", "#7A3B1D", "#B3123F", "#C423D8", "#7A7F87"),
)
#: A format looks the same in every figure, and as in `perplexity_vs_size` of these four.
FORMAT_COLOURS = dict(zip(("f16", "int8", "int4", "int2"), COLOURS, strict=False))
DPI = 110


class Picture:
    """A matplotlib Figure that shows itself as PNG."""

    def __init__(self, width: float, height: float, *, columns: int = 1, dpi: int = DPI, **grid: Any):
        """width, height: inches; dpi: of what is saved; further arguments as in `Figure.subplots`."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained")
        FigureCanvasAgg(self.figure)
        self.axes = list(self.figure.subplots(1, columns, squeeze=False, **grid)[0])
        for axes in self.axes:
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(True, which="major", color="0.93", lw=0.6)
            axes.set_axisbelow(True)

    def __repr__(self) -> str:
        return f"<Picture of {len(self.axes)} panels>"

    def png(self) -> bytes:
        """At `DPI`, on white, so that it reads on a dark page too."""
        stored = io.BytesIO()
        self.figure.savefig(stored, format="png", dpi=DPI, facecolor="white", pil_kwargs={"optimize": True})
        return stored.getvalue()

    def save(self, path: str | Path) -> None:
        """As PNG, PDF or SVG, by the name's ending. Raises StorageError."""
        with written_whole(path) as partial:
            self.figure.savefig(partial, format=Path(path).suffix[1:].lower() or "png", facecolor="white")

    def _repr_png_(self) -> bytes:
        return self.png()


def colour_of(label: str) -> str:
    """The colour of the format that a label begins with; black for another."""
    return next((colour for name, colour in FORMAT_COLOURS.items() if label.startswith(name)), "black")


def plain_numbers(axis: Any, decade: tuple[float, ...] = ()) -> None:
    """Ticks of a matplotlib axis as plain numbers. decade: where they stand on a logarithmic one, from 1 to 10."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if decade:
        axis.set_major_locator(LogLocator(base=10, subs=decade))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def labelled(
    axes: Any, text: str, place: tuple[float, float], offset: tuple[float, float] = (6, 6), **style: Any
) -> None:
    """A small label beside a point; offset: in points."""
    style = {"fontsize": 8.5, "color": "0.2", **style}
    axes.annotate(text, place, xytext=offset, textcoords="offset points", **style)
