"""Perplexity against the size of the weights, as a figure."""

from __future__ import annotations

import math

from eval.report import errors_note
from workbench.show.figures import COLOURS, Picture, label_apart, plain_numbers

from .measure import Measurement


def perplexity_vs_size(measurement: Measurement) -> Picture:
    """Two panels: perplexity ± SE against file size, and the paired change ± its SE.

    The right panel is there because the error of a perplexity is much larger than that of a difference.
    """
    picture = Picture(8.4, 3.7, columns=2, dpi=200)
    left, right = picture.axes
    baseline = measurement.row(measurement.baseline)
    rows = sorted(measurement.rows, key=lambda row: row.file_bytes)
    colours = {row.name: COLOURS[index % len(COLOURS)] for index, row in enumerate(measurement.rows)}

    left.axhspan(
        baseline.result.ppl - baseline.result.ppl_error,
        baseline.result.ppl + baseline.result.ppl_error,
        color="0.9",
        lw=0,
        zorder=0,
    )
    left.axhline(baseline.result.ppl, color="0.55", lw=0.8, ls="--", zorder=1)
    left.plot(
        [row.file_bytes / 1e6 for row in rows], [row.result.ppl for row in rows], color="0.7", lw=1, zorder=2
    )
    places: dict = {left: [], right: []}
    for row in rows:
        size, ppl = row.file_bytes / 1e6, row.result.ppl
        style = {"color": colours[row.name], "fmt": "o", "ms": 5.5, "capsize": 3, "elinewidth": 1.2}
        left.errorbar(size, ppl, yerr=row.result.ppl_error, zorder=3, **style)
        places[left].append((row.name, (size, ppl)))
        if row.change is not None:
            percent, se = row.change
            right.errorbar(row.bits_per_weight, percent, yerr=se, zorder=3, **style)
            places[right].append((row.name, (row.bits_per_weight, percent)))
    for axes in (left, right):
        axes.set_xscale("log")
        plain_numbers(axes.xaxis, (1, 2, 3, 4, 6, 8))
        axes.margins(x=0.14, y=0.16)
    if max(row.result.ppl for row in rows) > 3 * baseline.result.ppl:
        left.set_yscale("log")
        plain_numbers(left.yaxis, (1, 1.5, 2, 3, 5, 7))
    # Linear near zero, where a change may have either sign, and logarithmic beyond.
    smallest = min((row.change[1] for row in rows if row.change), default=1.0)
    right.set_yscale("symlog", linthresh=10 ** math.ceil(math.log10(max(smallest, 1e-3))))
    plain_numbers(right.yaxis)
    right.axhline(0, color="0.55", lw=0.8, ls="--", zorder=1)
    left.set(xlabel="weights, MB", ylabel="perplexity ± SE")
    right.set(xlabel="bits a weight", ylabel=f"change against {measurement.baseline}, % ± paired SE")
    result = baseline.result
    through = "PyTorch references" if measurement.no_adapter else "WGSL kernels"
    picture.figure.suptitle(
        f"{result.protocol.name}, {result.tokens_scored:,} tokens, through the {through}\n"
        f"{errors_note(measurement.errors)}",
        fontsize=9,
    )
    for axes, labels in places.items():
        label_apart(axes, labels, fontsize=8.5)
    return picture
