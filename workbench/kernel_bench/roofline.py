"""Kernels under the roof that this device's memory and arithmetic make, both measured in the same run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from workbench.show.figures import COLOURS, Picture, labelled

from .arithmetic import arithmetic
from .comparison import Comparison, VariantResult

MARKERS = "osD^vP*X<>h"


def roofline(found: Sequence[Comparison]) -> Picture:
    """Operations a second against operations a byte, of the fastest variant of each comparison and of each peer.

    The slope is the read-only sweep, the flat lines the arithmetic that was measured with it. Raises ValueError where
    nothing was timed together with ceilings.
    """
    timed = [
        (each, each.fastest, each.read_ceiling)
        for each in found
        if each.fastest and each.read_ceiling and each.fastest.flops
    ]
    if not timed:
        raise ValueError("no comparison has a time, operations and a read ceiling")
    picture = Picture(8.6, 4.4)
    axes = picture.axes[0]
    first, _, read = timed[0]
    points = [result for each, best, _ in timed for result in (best, *each.peers) if result.timing]
    draw_roof(axes, read, first.compute_ceilings, [result.flops / result.bytes for result in points])
    for at, (each, best, _) in enumerate(timed):
        style = {"marker": MARKERS[at % len(MARKERS)], "color": COLOURS[at % len(COLOURS)], "ls": "none"}
        label = f"{each.kernel} {each.shape}"
        axes.plot(*place(best), ms=6, label=label, **style)
        for peer in each.peers:
            if peer.timing:
                axes.plot(*place(peer), ms=5, mfc="none", alpha=0.7, **style)
    axes.legend(fontsize=7.5, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    kinds = sorted({arithmetic(best.wgsl) or "" for _, best, _ in timed} - {""})
    hollow = "; hollow: peers" if any(each.peers for each, _, _ in timed) else ""
    picture.figure.suptitle(f"{first.device}: {', '.join(kinds)}{hollow}", fontsize=9)
    return picture


def draw_roof(axes: Any, read: float, rates: Mapping[str, float], intensities: Sequence[float]) -> None:
    """The slope of `read` bytes a second up to the fastest of `rates`, and each rate where the slope exceeds it.

    The axes become logarithmic, for rates in operations a second and intensities in operations a byte.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set(xscale="log", yscale="log", xlabel="operations a byte", ylabel="10⁹ operations a second")
    top = max(rates.values(), default=read * max(intensities))
    span = np.geomspace(min(intensities) / 2, max(*intensities, top / read) * 2, 200)
    axes.plot(span, np.minimum(span * read, top), color="0.35", lw=1.2)
    style = {"fontsize": 8, "color": "0.35"}
    labelled(axes, f"reads {read / 1e9:,.0f} GB/s", (span[0], span[0] * read), (12, -6), va="top", **style)
    above = math.inf
    for name, rate in sorted(rates.items(), key=lambda each: -each[1]):
        reach = span[span * read >= rate]
        axes.plot(reach, np.full(reach.shape, rate), color="0.35", lw=0.8, ls="--")
        over = above > 1.25 * rate
        offset, side = (0, 3 if over else -3), "bottom" if over else "top"
        labelled(
            axes, f"{name} {rate / 1e12:.3g} T/s", (span[-1], rate), offset, va=side, ha="right", **style
        )
        above = rate
    for axis, unit, span in (
        (axes.xaxis, 1.0, max(intensities) / min(intensities)),
        (axes.yaxis, 1e9, top / read / min(intensities)),
    ):
        axis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5) if span < 300 else (1,)))
        axis.set_major_formatter(FuncFormatter(lambda value, _, unit=unit: f"{value / unit:,g}"))
        axis.set_minor_formatter(NullFormatter())


def place(result: VariantResult) -> tuple[float, float]:
    """Operations a byte, operations a second."""
    return result.flops / result.bytes, result.flops / result.seconds
