"""Figures of an allocation: sensitivity by layer, the formats that were chosen, size against KL."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from workbench.formats.spec import DEFAULT_BLOCK, WeightFormat
from workbench.precision.allocation import Allocation
from workbench.precision.groups import place
from workbench.precision.measured import Measured
from workbench.precision.pareto import Pareto
from workbench.precision.table import SensitivityTable
from workbench.show.figures import COLOURS, Picture, colour_of

_MARKERS = ("o", "s", "D", "^", "v", "P", "X")
_STYLES = ("-", "--", ":", "-.")


def sensitivity(table: SensitivityTable) -> Picture:
    """KL of each group alone on a logarithmic scale, a panel a kind of matrix, a line a format."""
    kl, se = table.kl, np.nan_to_num(table.kl_se)
    kinds = _kinds(group.name for group in table.groups)
    picture = Picture(2.1 * len(kinds) + 1.2, 3.2, columns=len(kinds), sharey=True)
    styles = _styles(table.formats)
    for axes, (kind, layers) in zip(picture.axes, kinds.items(), strict=True):
        at = [g for g, group in enumerate(table.groups) if place(group.name)[0] == kind]
        for f, fmt in enumerate(table.formats):
            values = kl[at, f]
            if not values.any():
                continue  # the float model's own format costs nothing, which has no place on this scale
            axes.errorbar(
                range(len(at)),
                np.where(values > 0, values, np.nan),
                yerr=se[at, f],
                ms=3.5,
                lw=1.2,
                fmt="o",
                ls=styles[fmt],
                color=colour_of(fmt.dtype),
                label=str(fmt),
            )
        axes.set_yscale("log")
        axes.set_title(kind, fontsize=9.5)
        axes.tick_params(labelsize=8.5)
        axes.set_xlabel("layer" if layers[0] is not None else "")
        axes.set_xticks(range(len(at)), [str(layer) if layer is not None else "" for layer in layers])
        axes.margins(x=0.15)
        if len(at) > 12:
            _thin(axes, len(at))
    picture.axes[0].set_ylabel("KL of the group alone, nats a token")
    picture.axes[-1].legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return picture


def _thin(axes, count: int) -> None:
    """Every few layers keeps its label."""
    step = -(-count // 8)
    for index, label in enumerate(axes.get_xticklabels()):
        label.set_visible(index % step == 0)


def allocation(chosen: Allocation) -> Picture:
    """The formats by layer (columns) and kind of matrix (rows); matrices outside the layers stand in column 0."""
    kinds = list(_kinds(each.group for each in chosen.assignments))
    layers = 1 + max((place(each.group)[1] or 0) for each in chosen.assignments)
    picture = Picture(min(14.0, 1.6 + 0.72 * layers), 0.8 + 0.42 * len(kinds))
    [axes] = picture.axes
    axes.grid(False)
    for each in chosen.assignments:
        kind, layer = place(each.group)
        column, row = layer or 0, kinds.index(kind)
        axes.bar(
            column,
            0.9,
            width=0.92,
            bottom=row - 0.45,
            color=colour_of(each.format.dtype),
            alpha=depth(each.format),
            lw=0,
        )
        if layers <= 20:
            axes.text(column, row, short(each.format), ha="center", va="center", fontsize=7.5)
    axes.set(xlim=(-0.6, layers - 0.4), ylim=(len(kinds) - 0.4, -0.6), xlabel="layer")
    axes.set_yticks(range(len(kinds)), kinds, fontsize=8.5)
    axes.set_xticks(range(0, layers, -(-layers // 16)))
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.tick_params(length=0, labelsize=8.5)
    axes.set_title(
        f"{chosen.target}: {chosen.bits_per_weight:.3f} bits a weight, predicted KL {chosen.predicted_kl:.2e}",
        fontsize=9.5,
    )
    return picture


def pareto(front: Pareto, measured: Mapping[str, tuple[float, float, float]] | None = None) -> Picture:
    """Predicted KL against bits a weight: the front and one format everywhere.

    measured: label -> (bits a weight, KL, its standard error) of all groups at once, in a second panel that shows
    their range of sizes.
    """
    picture = Picture(8.6 if measured else 6.2, 3.7, columns=2 if measured else 1)
    for axes in picture.axes:
        _predicted(axes, front)
    whole = picture.axes[0]
    _uniform(whole, front)
    whole.legend(fontsize=8, frameon=False)
    whole.set_title("best allocation, and one format everywhere", fontsize=9.5)
    whole.set_ylabel("KL, nats a token")
    if measured:
        _measured(picture.axes[1], measured)
    return picture


def outcomes(front: Pareto, measured: Sequence[Measured]) -> Picture:
    """Predicted KL against size, and what was measured there: KL, perplexity and tokens a second, each with its error.

    Errors of KL and perplexity are standard errors, paired with the float model and clustered by window; of tokens a
    second the slowest and the fastest repetition.
    """
    if not measured:
        return pareto(front)
    picture = Picture(10.6, 3.5, columns=3)
    loss, perplexity, speed = picture.axes
    _predicted(loss, front)
    _uniform(loss, front)
    bits = [each.allocation.bits_per_weight for each in measured]
    style = {"fmt": "o", "color": "black", "ms": 4.5, "capsize": 3, "lw": 1.1, "label": "measured"}
    found = [each.figures for each in measured]
    loss.errorbar(bits, [f["kl"] for f in found], yerr=np.nan_to_num([f["kl_se"] for f in found]), **style)
    loss.set_title("KL, nats a token", fontsize=9.5)
    loss.legend(fontsize=7.5, frameon=False)
    errors = np.nan_to_num([each.ppl_se for each in measured])
    perplexity.errorbar(bits, [f["ppl"] for f in found], yerr=errors, **style)
    perplexity.axhline(measured[-1].ppl_float, color="0.45", lw=1, ls="--", label="float model")
    perplexity.set_title(f"perplexity, {found[-1]['tokens']:,} tokens", fontsize=9.5)
    perplexity.legend(fontsize=7.5, frameon=False)
    timed = [(each, each.speed) for each in measured if each.speed]
    if timed:
        rates = [each.decode for _, each in timed]
        spread = np.array([[r.median - r.spread[0], r.spread[1] - r.median] for r in rates]).T
        at = [each.allocation.bits_per_weight for each, _ in timed]
        speed.errorbar(at, [r.median for r in rates], yerr=spread, **style)
        speed.set_title(f"tokens/s, decode ({timed[-1][1].label})", fontsize=9.5)
    speed.set_ylim(bottom=0)
    for axes in (perplexity, speed):
        axes.set_xlim(loss.get_xlim())
        axes.set_xlabel("bits a weight")
        axes.tick_params(labelsize=8.5)
    return picture


def _predicted(axes, front: Pareto) -> None:
    shown = front.kl > 0
    axes.step(front.bits[shown], front.kl[shown], where="post", color="0.45", lw=1.3, label="predicted")
    axes.set_yscale("log")
    axes.set_xlabel("bits a weight, scales and norms included")
    axes.tick_params(labelsize=8.5)


def _uniform(axes, front: Pareto) -> None:
    """A mark for each format that costs something; the scale is logarithmic."""
    seen: Counter[str] = Counter()
    for fmt, found in zip(front.table.formats, front.uniforms, strict=True):
        if found.predicted_kl > 0:
            marker = _MARKERS[seen[fmt.dtype] % len(_MARKERS)]
            at = found.bits_per_weight, found.predicted_kl
            axes.plot(*at, marker, ms=5, color=colour_of(fmt.dtype), label=str(fmt))
            seen[fmt.dtype] += 1


def _measured(axes, measured: Mapping[str, tuple[float, float, float]]) -> None:
    for index, (label, (bits, kl, se)) in enumerate(measured.items()):
        axes.errorbar(
            bits,
            kl,
            yerr=np.nan_to_num(se),
            fmt=_MARKERS[index % len(_MARKERS)],
            ms=5.5,
            capsize=3,
            color=COLOURS[index % len(COLOURS)],
            label=label,
        )
    sizes, costs = ([each[i] for each in measured.values()] for i in (0, 1))
    margin = max(0.2, 0.08 * (max(sizes) - min(sizes)))
    axes.set_xlim(min(sizes) - margin, max(sizes) + margin)
    axes.set_ylim(0.5 * min(costs), 2 * max(costs))
    axes.set_title("measured, all groups at once", fontsize=9.5)
    axes.legend(fontsize=8, frameon=False)


def _kinds(groups: Iterable[str]) -> dict[str, list[int | None]]:
    """Kind -> its layers; kinds inside the layers first."""
    found: dict[str, list[int | None]] = {}
    for kind, layer in sorted(map(place, groups), key=lambda each: each[1] is None):
        found.setdefault(kind, []).append(layer)
    return found


def _styles(formats: Sequence[WeightFormat]) -> dict[WeightFormat, str]:
    """A line style for each format, so that block sizes of one dtype can be told apart."""
    seen: dict[str, int] = {}
    styles = {}
    for fmt in formats:
        count = seen.setdefault(fmt.dtype, 0)
        styles[fmt] = _STYLES[count % len(_STYLES)]
        seen[fmt.dtype] += 1
    return styles


def depth(fmt: WeightFormat) -> float:
    """Smaller blocks are stronger in colour."""
    size = DEFAULT_BLOCK[fmt.dtype] if fmt.default_block else fmt.block_size
    return 0.55 if not size else 0.35 + 0.4 * min(1.0, 32 / size * 2)


def short(fmt: WeightFormat) -> str:
    return str(fmt).removeprefix("int") if fmt.is_quantized else fmt.dtype
