"""Which results are worth their bits: the Pareto front of bits a weight and perplexity, and its plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from workbench.errors import SweepError
from workbench.known import known
from workbench.show.figures import COLOURS, Picture, labelled, plain_numbers

from .rows import Row

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
SUFFIXES = (".png", ".svg", ".pdf")


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


def pareto_plot(
    rows: Sequence[Row], front: Sequence[Row], title: str, path: str | Path | None = None
) -> Picture:
    """Perplexity ± SE against bits a weight, a colour a quantizer, a marker a model, the front as a line."""
    if path is not None and Path(path).suffix.lower() not in SUFFIXES:
        raise SweepError(f"plot {path}: the suffix is none of {', '.join(SUFFIXES)}")
    shown = [row for row in rows if row.bits_per_weight is not None and row.ppl is not None]
    if not shown:
        raise SweepError("there is nothing to plot: no row has bits a weight and a perplexity")
    picture = Picture(6.6, 4.2, dpi=200)
    [axes] = picture.axes
    colours = {
        name: COLOURS[i % len(COLOURS)] for i, name in enumerate(dict.fromkeys(r.quantizer for r in shown))
    }
    markers = {
        name: MARKERS[i % len(MARKERS)] for i, name in enumerate(dict.fromkeys(r.model for r in shown))
    }
    line = [(row.bits_per_weight, row.ppl) for row in front]
    axes.step(*zip(*line, strict=True), where="post", color="0.6", lw=1, zorder=1, label="Pareto front")
    named = set()
    for row in shown:
        name = " ".join(part for part in (row.model if len(markers) > 1 else "", row.quantizer) if part)
        name = name or row.format
        axes.errorbar(
            known(row.bits_per_weight),
            known(row.ppl),
            yerr=row.ppl_se,
            fmt=markers[row.model],
            color=colours[row.quantizer],
            ms=5 if row in front else 3.5,
            alpha=1 if row in front else 0.55,
            capsize=2,
            elinewidth=1,
            zorder=3 if row in front else 2,
            label=plain(name) if name not in named else None,
        )
        named.add(name)
    for index, row in enumerate(front):
        # neighbours above and below, so that they keep apart
        offset = (4, -10 if index % 2 else 5)
        place = known(row.bits_per_weight), known(row.ppl)
        labelled(axes, plain(row.format), place, offset, fontsize=7, color="0.25")
    axes.set_xscale("log")
    plain_numbers(axes.xaxis, (1, 2, 3, 4, 5, 6, 8))
    heights = [known(row.ppl) for row in shown]
    wide = max(heights) > 3 * min(heights)
    axes.set_yscale("log" if wide else "linear")
    plain_numbers(axes.yaxis, (1, 1.5, 2, 3, 5, 7) if wide else ())
    axes.margins(x=0.12, y=0.12)
    axes.set(xlabel="bits a weight", ylabel="perplexity ± SE")
    axes.set_title(plain(title), fontsize=7.5)
    axes.legend(fontsize=7, frameon=False)
    if path is not None:
        picture.save(path)
    return picture


def plain(text: str) -> str:
    """Text that matplotlib draws as it is: no mathematics between dollars, no leading underscore that hides a label."""
    text = "".join(c if c.isprintable() else " " for c in text).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text
