"""Figures' common style: colours, and a `Picture`, which a notebook shows as PNG.

It needs neither a browser nor pyplot, so that a widget's callback may make one on any thread.
"""

from __future__ import annotations

import base64
import io
import itertools
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from workbench.files.writing import written_whole

#: The first are distinguishable with the common colour deficiencies (Okabe and Ito 2008); more for more things.
COLOURS = (
    *("#0072B2", "#009E73", "#D55E00", "#CC79A7", "#E69F00", "#56B4E9", "#000000"),
    *("#6A3D9A", "#7A3B1D", "#B3123F", "#C423D8", "#7A7F87"),
)
#: A format looks the same in every figure, and as in `perplexity_vs_size` of these four.
FORMAT_COLOURS = dict(zip(("f16", "int8", "int4", "int2"), COLOURS, strict=False))
DPI = 110
#: Inches, below which a panel gets fewer ticks: matplotlib counts on shorter numbers than -0.025.
NARROW = 3.2
#: A figure is drawn on white. On a dark page lightness is turned round and hues stay; on paper it is as it was drawn.
#: JupyterLab's attribute, that of VS Code, and a class of Sphinx's and Colab's themes say that a page is dark.
_DARK = (
    '[data-jp-theme-light="false"]',
    '[data-vscode-theme-kind$="dark"]',
    '[data-vscode-theme-kind$="contrast"]',
    '[data-theme="dark"]',
    "[theme=dark]",
)
TURNED = "filter: invert(1) hue-rotate(180deg); mix-blend-mode: screen"
_FOLLOWS = (
    "<style>img.workbench-figure { max-width: 100%; } "
    f"@media screen {{ :is({', '.join(_DARK)}) img.workbench-figure {{ {TURNED}; }} }}</style>"
)


class Picture:
    """A matplotlib Figure that shows itself as PNG, in the light or dark theme of the notebook that it stands in."""

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
            if width / columns < NARROW:
                axes.locator_params(axis="x", nbins=5, steps=[1, 2.5, 5, 10])
                axes.tick_params(axis="x", labelsize=8.5)

    def __repr__(self) -> str:
        return f"<Picture of {len(self.axes)} panels>"

    def png(self) -> bytes:
        """At `DPI`, on white, so that it reads on a dark page too; 256 colours, which take half of the bytes."""
        from PIL import Image

        drawn, stored = io.BytesIO(), io.BytesIO()
        self.figure.savefig(drawn, format="png", dpi=DPI, facecolor="white")
        few = Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE)
        few.save(stored, format="png", optimize=True, dpi=(DPI, DPI))
        return stored.getvalue()

    def svg(self) -> str:
        """As an element of a page, without what stands in front of the root; text as outlines."""
        stored = io.StringIO()
        self.figure.savefig(stored, format="svg", facecolor="white", metadata={"Date": None, "Creator": None})
        return stored.getvalue()[stored.getvalue().index("<svg") :]

    def html(self, alt: str = "") -> str:
        """An image that follows the notebook's theme; where styles are taken out, as an untrusted notebook's are, on
        white. alt: what it shows, in words."""
        data = base64.b64encode(self.png()).decode()
        return (
            f'{_FOLLOWS}<img class="workbench-figure" alt="{escape(alt)}" src="data:image/png;base64,{data}">'
        )

    def save(self, path: str | Path) -> None:
        """As PNG, PDF or SVG, by the name's ending. Raises StorageError."""
        with written_whole(path) as partial:
            self.figure.savefig(partial, format=Path(path).suffix[1:].lower() or "png", facecolor="white")

    def _repr_png_(self) -> bytes:
        return self.png()

    def _repr_html_(self) -> str:
        return self.html()


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


#: Where a label may stand beside its point: directions, and distances in points, nearest first.
_DIRECTIONS = ((1, 1), (1, -1), (-1, 1), (-1, -1), (0, 1), (0, -1), (1, 0), (-1, 0))
_DISTANCES = (5, 11, 18, 27, 38, 52)


def label_apart(axes: Any, labels: Sequence[tuple[str, tuple[float, float]]], **style: Any) -> list[Any]:
    """Labels beside their points, none over another or over a point; one that has to stand off is tied by a line.

    labels: text and place, those first that matter most; what finds no room is left out. Axes, scales and limits must
    be as they are going to be. Returns the annotations.
    """
    from matplotlib.text import Text

    figure = axes.figure
    figure.draw_without_rendering()  # places everything
    figure.set_layout_engine("none")  # and nothing moves any more
    renderer, inside = figure.canvas.get_renderer(), Bounds(*axes.get_window_extent().extents)
    marks = axes.transData.transform([place for _, place in labels])
    half = figure.dpi * 3 / 72  # of a marker
    taken = [Bounds(x - half, y - half, x + half, y + half) for x, y in marks]
    placed = []
    style = {"fontsize": 7.5, "color": "0.2", **style}
    for (text, place), (x, y) in zip(labels, marks, strict=True):
        note = axes.annotate(text, place, xytext=(0, 0), textcoords="offset points", **style)
        size = Text.get_window_extent(note, renderer)
        for distance, direction in itertools.product(_DISTANCES, _DIRECTIONS):
            offset = [each * distance for each in direction]
            box = _box((x, y), [each * figure.dpi / 72 for each in offset], (size.width, size.height))
            if box.within(inside) and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                placed.append(_moved(note, offset, distance > _DISTANCES[1]))
                break
        else:
            note.remove()
    return placed


def _moved(note: Any, offset: Sequence[float], tied: bool) -> Any:
    """The same label where it is to stand, on its own side of the point. tied: with a line to it."""
    line = {"arrowstyle": "-", "color": "0.6", "lw": 0.6, "shrinkB": 4}
    found = note.axes.annotate(
        note.get_text(),
        note.xy,
        xytext=offset,
        textcoords="offset points",
        ha=("center", "left", "right")[int(np.sign(offset[0]))],
        va=("center", "bottom", "top")[int(np.sign(offset[1]))],
        fontsize=note.get_fontsize(),
        color=note.get_color(),
        arrowprops=line if tied else None,
    )
    note.remove()
    return found


def _box(mark: Sequence[float], offset: Sequence[float], size: Sequence[float]) -> Bounds:
    """Where a label of this size stands, in pixels, whose near side, edge or middle is `offset` from its point."""
    low = [
        at + off - (extent / 2 if off == 0 else 0 if off > 0 else extent)
        for at, off, extent in zip(mark, offset, size, strict=True)
    ]
    return Bounds(low[0], low[1], low[0] + size[0], low[1] + size[1])


class Bounds(NamedTuple):
    """A rectangle, in pixels."""

    x0: float
    y0: float
    x1: float
    y1: float

    def overlaps(self, other: Bounds) -> bool:
        return self.x0 < other.x1 and other.x0 < self.x1 and self.y0 < other.y1 and other.y0 < self.y1

    def within(self, other: Bounds) -> bool:
        return other.x0 <= self.x0 and self.x1 <= other.x1 and other.y0 <= self.y0 and self.y1 <= other.y1
