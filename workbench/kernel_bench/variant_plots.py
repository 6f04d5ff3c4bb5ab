"""Figures of one comparison: all samples of all variants, the roof above them, errors relative to their bounds."""

from __future__ import annotations

from typing import Any

import numpy as np

from wgsl_kernels.judge import RATIO_EDGES
from workbench.known import known
from workbench.show.figures import COLOURS, Picture

from .comparison import Comparison, VariantResult
from .roofline import MARKERS, draw_roof, place

#: Times that differ by more are drawn on a logarithmic axis.
FAR_APART = 8.0


def _title(picture: Picture, found: Comparison) -> None:
    picture.figure.suptitle(found.heading, fontsize=9)


def timings(found: Comparison) -> Picture:
    """Every sample as a dot and the median as a bar, a row a variant, the fastest on top; raises ValueError without
    times."""
    timed = [each for each in (*found.results, *found.peers) if each.timing]
    if not timed:
        raise ValueError("no variant has a time")
    timed.sort(key=lambda each: each.seconds)
    picture = Picture(8.6, 1.25 + 0.36 * len(timed))
    axes = picture.axes[0]
    names = {each.variant: at for at, each in enumerate((*found.results, *found.peers))}
    for row, each in enumerate(timed):
        colour = COLOURS[names[each.variant] % len(COLOURS)]
        samples = 1e6 * np.array(known(each.timing).samples)
        axes.plot(samples, np.full(samples.shape, row), "o", ms=4.5, mfc="none", mew=1.1, color=colour)
        axes.plot([1e6 * each.seconds] * 2, [row - 0.32, row + 0.32], color=colour, lw=2.2)
        axes.annotate(
            _said(found, each),
            (1.01, row),
            xycoords=axes.get_yaxis_transform(),
            va="center",
            fontsize=8,
            color="0.25",
        )
    axes.set_yticks(range(len(timed)), [each.variant for each in timed])
    axes.set_ylim(len(timed) - 0.5, -0.5)
    axes.grid(False, axis="y")
    every = [sample for each in timed for sample in known(each.timing).samples]
    _time_axis(axes, 1e6 * min(every), 1e6 * max(every))
    axes.set_xlabel(f"time of a call on a {found.label}, µs; circles: samples, bars: medians", fontsize=9)
    axes.tick_params(labelsize=8.5)
    _title(picture, found)
    return picture


def _said(found: Comparison, each: VariantResult) -> str:
    share = found.share(each)
    of_reads = f", {share:.0%} of reads" if share is not None else ""
    return f"{1e6 * each.seconds:,.4g} µs{of_reads}"


def _time_axis(axes: Any, low: float, high: float) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if high <= FAR_APART * low:
        axes.set_xlim(0, high * 1.06)
        return
    axes.set_xscale("log")
    axes.set_xlim(low / 1.3, high * 1.3)
    subs = (1, 2, 5) if high < 300 * low else (1,)
    axes.xaxis.set_major_locator(LogLocator(base=10, subs=subs))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def under_the_roof(found: Comparison) -> Picture:
    """Operations a second of every variant under the roof of this device; raises ValueError without times, ceilings or
    operations."""
    timed = [each for each in (*found.results, *found.peers) if each.timing and each.flops]
    if not timed or found.read_ceiling is None:
        raise ValueError("a roofline needs times, operations (the kernel's cost) and measured ceilings")
    picture = Picture(8.6, 4.0)
    axes = picture.axes[0]
    draw_roof(axes, found.read_ceiling, found.compute_ceilings, [each.flops / each.bytes for each in timed])
    names = {each.variant: at for at, each in enumerate((*found.results, *found.peers))}
    timed.sort(key=lambda each: -each.flops / each.seconds)
    for each in timed:
        at = names[each.variant]
        rate = each.flops / each.seconds
        axes.plot(
            *place(each),
            marker=MARKERS[at % len(MARKERS)],
            color=COLOURS[at % len(COLOURS)],
            ls="none",
            ms=7,
            label=f"{each.variant}: {rate / 1e9:,.3g} G/s",
        )
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    _title(picture, found)
    return picture


def errors(found: Comparison) -> Picture:
    """How many elements have an error of which share of its bound; what lies beyond 1 is off. Raises ValueError where
    nothing ran."""
    judged = [each for each in found.results if any(e.ratios for e in each.errors)]
    if not judged:
        raise ValueError("no variant gave numbers to compare")
    picture = Picture(8.6, 3.0)
    axes = picture.axes[0]
    edges = np.array([RATIO_EDGES[0] / 10**0.5, *RATIO_EDGES, RATIO_EDGES[-1] * 10**0.5])
    # Variants that agree lie on each other: the first are drawn broad, so that all are seen.
    thick = np.linspace(1.4 + 1.3 * (len(judged) - 1), 1.4, len(judged))
    filled = []
    for at, each in enumerate(judged):
        counts = np.sum([e.ratios for e in each.errors], axis=0)
        exact, share = counts[0] / counts.sum(), counts[1:] / counts.sum()
        filled += [i for i, value in enumerate(share) if value]
        label = f"{each.variant}: {each.status}" + (f", {exact:.1%} exact" if exact else "")
        axes.stairs(100 * share, edges, color=COLOURS[at % len(COLOURS)], lw=thick[at], label=label)
    axes.axvline(1, color="0.2", lw=1, ls="--")
    axes.set_xscale("log")
    if filled:
        low, high = max(0, min(filled) - 2), min(len(edges) - 1, max(filled) + 3)
        axes.set_xlim(min(0.3, edges[low]), max(3.0, edges[high]))
    axes.set(xlabel="error / bound (dashed: the bound)", ylabel="% of the elements", ylim=(0, None))
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    _title(picture, found)
    return picture


FIGURES = {"timing": timings, "roofline": under_the_roof, "errors": errors}
