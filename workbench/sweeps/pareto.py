"""Which results are worth their bits: the Pareto front of size and loss, and its plot."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from workbench.errors import SweepError
from workbench.show.figures import COLOURS, Picture, label_apart, plain_numbers

from .rows import Row

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
SUFFIXES = (".png", ".svg", ".pdf")


@dataclass(frozen=True)
class Loss:
    """What a plot shows above the size. of: the figure and its error, None where unknown."""

    title: str
    of: Callable[[Row], tuple[float | None, float | None]]


#: The first two are paired with the unconverted model, so that their errors are those of the difference.
LOSSES = {
    "change": Loss("paired change of the perplexity ± SE, %", lambda row: (row.change, row.change_error)),
    "kl": Loss("KL to the unconverted model ± SE, nats", lambda row: (row.kl, row.kl_error)),
    "ppl": Loss("perplexity ± SE", lambda row: (row.ppl, row.ppl_error)),
}
SIZES: dict[str, tuple[str, Callable[[Row], float | None]]] = {
    "bits": ("bits a weight", lambda row: row.bits_per_weight),
    "bytes": ("weights, MB", lambda row: None if row.file_bytes is None else row.file_bytes / 1e6),
}


@dataclass(frozen=True)
class Point:
    """A result in the plot."""

    row: Row
    size: float
    loss: float
    se: float | None


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points that no other dominates, by the first coordinate; both are to be small.

    A point dominates another if it is no larger in both coordinates and smaller in one. Equal points do not dominate
    each other, so all of them are kept.
    """
    order = sorted(range(len(points)), key=lambda index: points[index])
    front: list[int] = []
    for index in order:
        cost, loss = points[index]
        if not front or loss < points[front[-1]][1] or points[front[-1]] == (cost, loss):
            front.append(index)
    return front


def points_of(rows: Sequence[Row], of: str, against: str) -> list[Point]:
    """The rows that have both figures."""
    found = []
    for row in rows:
        size = SIZES[against][1](row)
        loss, se = LOSSES[of].of(row)
        if size is not None and loss is not None:
            found.append(Point(row, size, loss, se))
    return found


def chosen_loss(rows: Sequence[Row], of: str | None, against: str) -> str:
    """The figure that is asked for, or for None the first that rows have. Raises SweepError, naming what is allowed."""
    if of not in (None, *LOSSES):
        raise SweepError(f"plot of {of!r}: allowed are {', '.join(LOSSES)}")
    if against not in SIZES:
        raise SweepError(f"plot against {against!r}: allowed are {', '.join(SIZES)}")
    for name in (of,) if of else LOSSES:
        if points_of(rows, name, against):
            return name
    wanted = LOSSES[of].title if of else "a perplexity"
    raise SweepError(f"there is nothing to plot: no row has {SIZES[against][0]} and {wanted}")


def pareto_plot(
    rows: Sequence[Row],
    title: str,
    path: str | Path | None = None,
    *,
    of: str | None = None,
    against: str = "bits",
) -> Picture:
    """A loss ± its error against a size, a colour a quantizer, a marker a model, the front as a line.

    of: one of `LOSSES`, by default the first that rows have. against: one of `SIZES`. Raises SweepError.
    """
    if path is not None and Path(path).suffix.lower() not in SUFFIXES:
        raise SweepError(f"plot {path}: the suffix is none of {', '.join(SUFFIXES)}")
    of = chosen_loss(rows, of, against)
    shown = points_of(rows, of, against)
    front = [shown[index] for index in pareto_front([(point.size, point.loss) for point in shown])]
    picture = Picture(6.6, 4.4, dpi=200)
    [axes] = picture.axes
    line = [(point.size, point.loss) for point in front]
    axes.step(*zip(*line, strict=True), where="post", color="0.6", lw=1, zorder=1, label="Pareto front")
    _draw_points(axes, shown)
    _scales(axes, of, [point.loss for point in shown])
    axes.set(xlabel=SIZES[against][0], ylabel=LOSSES[of].title)
    axes.set_title("\n".join(textwrap.wrap(plain(title), 105)), fontsize=7)
    _legend(axes)
    on_front = {id(point) for point in front}
    others = [point for point in shown if id(point) not in on_front]
    label_apart(axes, [(plain(point.row.format), (point.size, point.loss)) for point in (*front, *others)])
    if path is not None:
        picture.save(path)
    return picture


def _draw_points(axes, shown: Sequence[Point]) -> None:
    """All of one size, as their errors are what tells them apart; named once each."""
    quantizers = dict.fromkeys(point.row.quantizer for point in shown)
    models = dict.fromkeys(point.row.model for point in shown)
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(quantizers)}
    markers = {name: MARKERS[i % len(MARKERS)] for i, name in enumerate(models)}
    named = set()
    for point in shown:
        row = point.row
        parts = (row.model if len(models) > 1 else "", row.quantizer or "unconverted")
        name = " ".join(part for part in parts if part)
        axes.errorbar(
            point.size,
            point.loss,
            yerr=point.se,
            fmt=markers[row.model],
            color=colours[row.quantizer],
            ms=5,
            capsize=2.5,
            elinewidth=1,
            zorder=3,
            label=plain(name) if name not in named else None,
        )
        named.add(name)


def _legend(axes) -> None:
    """Below the axes, in as many columns as its names leave room for."""
    handles, names = axes.get_legend_handles_labels()
    names = [name if len(name) <= 60 else f"{name[:59]}…" for name in names]
    columns = max(1, min(4, 80 // max(map(len, names))))
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16), "ncols": columns}
    axes.legend(handles, names, fontsize=7, frameon=False, **place)


def _scales(axes, of: str, losses: Sequence[float]) -> None:
    """Sizes on a logarithmic scale; losses too where they span much, linear near zero where they may be negative."""
    axes.set_xscale("log")
    plain_numbers(axes.xaxis, (1, 2, 3, 4, 5, 6, 8))
    if of == "change":
        axes.axhline(0, color="0.55", lw=0.8, ls="--", zorder=1)
    sizes = [abs(loss) for loss in losses if loss]
    if sizes and max(sizes) > 8 * min(sizes) and of == "change":
        axes.set_yscale("symlog", linthresh=max(1.0, min(sizes)))
        plain_numbers(axes.yaxis)
    elif sizes and max(sizes) > 3 * min(sizes) and min(losses) > 0:
        axes.set_yscale("log")
        if of == "ppl":
            plain_numbers(axes.yaxis, (1, 1.5, 2, 3, 5, 7))
    axes.margins(x=0.12, y=0.14)


def plain(text: str) -> str:
    """Text that matplotlib draws as it is: no mathematics between dollars, no leading underscore that hides a label."""
    text = "".join(c if c.isprintable() else " " for c in text).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text
