"""Kernels under the roof that this device's memory and arithmetic make, both measured in the same run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .arithmetic import arithmetic
from .comparison import Comparison, VariantResult
from .plot import COLOURS
from .plots import Picture
from .rows import shape_of

MARKERS = "osD^vP*X<>h"


def roofline(found: Sequence[Comparison]) -> Picture:
    """Operations a second against operations a byte, of the fastest variant of each comparison and of each peer.

    The slope is the read-only sweep, the flat lines the arithmetic that was measured with it. Raises ValueError where
    nothing was timed together with ceilings.
    """
    timed = [each for each in found if each.fastest and each.read_ceiling and each.fastest.flops]
    if not timed:
        raise ValueError("no comparison has a time, operations and a read ceiling")
    picture = Picture(8.6, 4.4)
    axes = picture.axes[0]
    read, rates = timed[0].read_ceiling, timed[0].compute_ceilings
    points = [(each, result) for each in timed for result in (each.fastest, *each.peers) if result.timing]
    intensities = [result.flops / result.bytes for _, result in points]
    top = max(rates.values(), default=read * max(intensities))
    span = np.geomspace(min(intensities) / 2, max(*intensities, top / read) * 2, 200)
    axes.plot(span, np.minimum(span * read, top), color="0.35", lw=1.2)
    axes.annotate(
        f"reads {read / 1e9:,.0f} GB/s",
        (span[0], span[0] * read),
        xytext=(14, 4),
        textcoords="offset points",
        fontsize=8,
        color="0.35",
    )
    for name, rate in rates.items():
        reach = span[span * read >= rate]
        axes.plot(reach, np.full(reach.shape, rate), color="0.35", lw=0.8, ls="--")
        axes.annotate(
            f"{name} {rate / 1e12:.3g} T/s",
            (span[-1], rate),
            xytext=(0, 3),
            textcoords="offset points",
            ha="right",
            fontsize=8,
            color="0.35",
        )
    for at, each in enumerate(timed):
        style = {"marker": MARKERS[at % len(MARKERS)], "color": COLOURS[at % len(COLOURS)], "ls": "none"}
        label = f"{each.kernel} {shape_of(each.sizes)}"
        axes.plot(*_place(each.fastest), ms=6, label=label, **style)
        for peer in each.peers:
            if peer.timing:
                axes.plot(*_place(peer), ms=5, mfc="none", alpha=0.7, **style)
    axes.set(xscale="log", yscale="log", xlabel="operations a byte", ylabel="operations a second")
    axes.legend(fontsize=7.5, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    kinds = sorted({arithmetic(each.fastest.wgsl) or "" for each in timed} - {""})
    hollow = "; hollow: peers" if any(each.peers for each in timed) else ""
    picture.figure.suptitle(f"{timed[0].device}: {', '.join(kinds)}{hollow}", fontsize=9)
    return picture


def _place(result: VariantResult) -> tuple[float, float]:
    return result.flops / result.bytes, result.flops / result.timing.median
