"""Figures of a study: the levels of a block, errors block by block, errors that grow with depth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from workbench.show.figures import Picture, colour_of

from .weight_error import WeightError


def levels(errors: Sequence[WeightError], row: int = 0, block: int = 0) -> Picture:
    """The weights of one block of each format, and below them the values that the format can give them."""
    picture = Picture(8.6, 2.9, columns=len(errors), sharey=True)
    for axes, error in zip(picture.axes, errors, strict=True):
        weights, possible = error.block(row, block)
        colour = colour_of(error.format.dtype)
        reach = _reach(weights, possible)
        axes.hist(weights, bins=np.linspace(-reach, reach, 41), color="0.78")
        axes.vlines(possible, -3.0, -0.6, color=colour, lw=min(1.6, 220 / len(possible)))
        axes.set_xlim(-reach, reach)
        axes.axhline(0, color="0.5", lw=0.6)
        axes.set_title(
            f"{error.format}: {len(possible)} levels for {len(weights)} weights", fontsize=9.5, color=colour
        )
        axes.set_xlabel("weight", fontsize=9)
        axes.tick_params(labelsize=8)
    _no_negative_counts(picture.axes[0])
    picture.axes[0].set_ylabel("weights in a bin", fontsize=9)
    return picture


def block_errors(errors: Sequence[WeightError]) -> Picture:
    """How the blocks' SQNR is distributed; quantizers of one format differ by the line's style."""
    picture = Picture(8.6, 3.1)
    axes = picture.axes[0]
    styles = {"rtn": "-", "grid": "--"}
    for error in errors:
        values = np.sort(error.block_sqnr_db[np.isfinite(error.block_sqnr_db)])
        axes.plot(
            values,
            (np.arange(len(values)) + 0.5) / len(values),
            color=colour_of(error.format.dtype),
            ls=styles.get(error.quantizer, ":"),
            lw=1.5,
            label=f"{error.format}, {error.quantizer}",
        )
    axes.set(xlabel="SQNR of a block, dB", ylabel="share of the blocks below", ylim=(0, 1))
    axes.legend(fontsize=8.5, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return picture


def explained(error: WeightError, row: int = 0, block: int = 0) -> Picture:
    """One format up close: a block with its levels, the errors of all weights in steps, and the blocks' SQNR."""
    picture = Picture(8.6, 2.7, columns=3)
    colour = colour_of(error.format.dtype)
    weights, possible = error.block(row, block)
    reach = _reach(weights, possible)
    first, second, third = picture.axes
    counts, _, _ = first.hist(weights, bins=np.linspace(-reach, reach, 41), color="0.78")
    floor = counts.max() * 0.2
    first.vlines(possible, -floor, -floor * 0.25, color=colour, lw=min(1.6, 220 / len(possible)))
    first.set(xlim=(-reach, reach), xlabel="weight", ylabel="weights in a bin")
    _no_negative_counts(first)
    first.set_title(f"row {row}, block {block}, its levels below", fontsize=9)
    steps = error.tensor.planes["scales"].astype(np.float32)
    steps = np.repeat(
        np.broadcast_to(steps, (len(error.weights), error.format.blocks(error.weights.shape[1]))),
        error.format.block(error.weights.shape[1]),
        axis=1,
    )[:, : error.weights.shape[1]]
    second.hist(
        ((error.weights - error.restored) / steps).ravel(),
        bins=np.linspace(-1.5, 1.5, 61),
        density=True,
        color=colour,
        alpha=0.75,
    )
    second.set(xlabel="(w − ŵ) / s", ylabel="density")
    second.set_title("error in steps, all weights", fontsize=9)
    finite = error.block_sqnr_db[np.isfinite(error.block_sqnr_db)]
    third.hist(finite, bins=40, color=colour, alpha=0.75)
    third.axvline(error.sqnr_db, color="0.2", lw=1, ls="--")
    third.set(xlabel="SQNR, dB (dashed: matrix)", ylabel="blocks in a bin")
    third.set_title(f"{finite.size:,} blocks", fontsize=9)
    for axes in picture.axes:
        axes.tick_params(labelsize=8)
        axes.xaxis.label.set_size(8.5)
        axes.yaxis.label.set_size(8.5)
    picture.figure.suptitle(
        f"{error.tensor.name}, {error.format}, {error.quantizer}: SQNR {error.sqnr_db:.2f} dB at "
        f"{error.bits_per_weight:.3f} bits a weight",
        fontsize=10,
    )
    return picture


def depth(
    stream: Mapping[str, Sequence[float]],
    places: Sequence[str],
    parts: Mapping[str, Sequence[float]],
    of: str,
) -> Picture:
    """Errors by depth. Left, on a logarithmic scale: label -> RMS at each of `places`; a label that begins with a
    format's name gets its colour. Right: label of a part of the layers -> relative error in each layer.
    """
    picture = Picture(8.6, 3.7, columns=2)
    left, right = picture.axes
    for label, values in stream.items():
        values = [value or np.nan for value in values]  # no error at all has no place on this scale
        left.plot(range(len(values)), values, "o-", ms=3.5, lw=1.4, label=label, color=colour_of(label))
    for (label, values), colour in zip(parts.items(), ("#E69F00", "#56B4E9", "0.55", "black"), strict=False):
        right.plot(range(len(values)), values, "s-", ms=3.5, lw=1.4, label=label, color=colour)
    left.set_yscale("log")
    left.set_title("residual stream", fontsize=9.5)
    left.set(xlabel="after", ylabel="RMS of an element")
    left.set_xticks(range(len(places)), places)
    left.legend(fontsize=8, frameon=False, loc="center", bbox_to_anchor=(0.5, 0.33))
    right.set_title(f"inside the layers, {of}", fontsize=9.5)
    right.set(xlabel="layer", ylabel="relative error", ylim=(0, None))
    right.legend(fontsize=8, frameon=False, ncols=2, loc="lower center")
    right.xaxis.get_major_locator().set_params(integer=True)
    for axes in picture.axes:
        axes.tick_params(labelsize=8.5)
    return picture


def _no_negative_counts(axes: Any) -> None:
    """The levels hang below 0; counts do not."""
    low, high = axes.get_ylim()
    axes.set_yticks([tick for tick in axes.get_yticks() if 0 <= tick <= high])
    axes.set_ylim(low, high)


def _reach(weights: np.ndarray, levels: np.ndarray) -> float:
    return 1.08 * max(np.abs(weights).max(), np.abs(levels).max(), 1e-12)
