"""What `PrecisionMap` tells the page, and leaves behind as HTML: JSON values and texts, made of the results."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from workbench.precision import plots
from workbench.precision.allocation import Allocation
from workbench.precision.comparison import Row
from workbench.precision.experts import ExpertSensitivity
from workbench.precision.groups import place
from workbench.precision.measured import Measured
from workbench.precision.table import SensitivityTable
from workbench.show.figures import colour_of
from workbench.show.table import Table

MB = 10**6
KL_HEAD = ["predicted KL", "measured KL", "KL less chosen's"]
HEAD = ["", "bits a weight", "MB", *KL_HEAD, "perplexity", "tokens/s"]


def few(value: float) -> str:
    """Two digits behind the first, with an exponent where small: `0.0458`, `4.58e-5`."""
    return "0" if value == 0 else _power(f"{value:.2e}") if abs(value) < 0.01 else f"{value:.3g}"


def error_bar(value: float, se: float) -> str:
    """`0.0458 ± 0.0026`: two digits of the error, and the value to the same place; small ones with an exponent."""
    if np.isnan(se) or se == 0:
        return few(value)
    if abs(value) < 0.01:
        return f"{_power(f'{value:.2e}')} ± {_power(f'{se:.1e}')}"
    digits = max(0, 1 - int(np.floor(np.log10(se))))
    return f"{value:.{digits}f} ± {se:.{digits}f}"


def _power(text: str) -> str:
    return text.replace("e-0", "e-")


def about(costs: SensitivityTable) -> str:
    """What the sensitivities are from."""
    text = (costs.key.get("text") or {}).get("name", "a text")
    return (
        f"Sensitivities: {len(costs.groups)} groups in {len(costs.formats)} formats, each alone, on "
        f"{costs.tokens_scored:,} tokens of {text} ({costs.windows} windows), quantizer {costs.quantizer}"
    )


def table_content(costs: SensitivityTable) -> dict[str, Any]:
    """Groups with a text on their sensitivities, and how each format looks."""
    groups = []
    for group, kl in zip(costs.groups, costs.kl, strict=True):
        alone = ", ".join(f"{few(value)} in {fmt}" for value, fmt in zip(kl, costs.formats, strict=True))
        kind, layer = place(group.name)
        groups.append(
            {"name": group.name, "kind": kind, "layer": layer, "says": f"{group.name} alone costs KL {alone}"}
        )
    formats = [
        {
            "label": plots.short(fmt),
            "colour": colour_of(fmt.dtype),
            "depth": round(100 * plots.depth(fmt)),
        }
        for fmt in costs.formats
    ]
    return {
        "groups": groups,
        "formats": formats,
        "weights": costs.weights,
        "about": about(costs),
        "head": HEAD,
    }


def choice_content(costs: SensitivityTable, rows: Sequence[Row], pins: Collection[str]) -> dict[str, Any]:
    """The chosen allocation on the map, in words, in the comparison and in the charts. rows: the chosen one first."""
    chosen = rows[0].allocation
    options = options_of(costs, chosen)
    measured = rows[0].measured
    found = f", measured {_loss(measured)}" if measured else ""
    pinned = [g for g, each in enumerate(chosen.assignments) if each.group in pins]
    return {
        "options": options,
        "titles": [
            f"{each.group}: {each.format}, KL alone {error_bar(each.kl, each.kl_se)}, {each.nbytes:,} bytes"
            + (", pinned" if each.group in pins else "")
            for each in chosen.assignments
        ],
        "pinned": pinned,
        "layers": list(costs.layer_bits(options).values()),
        "mean": chosen.bits_per_weight,
        "bytes": chosen.nbytes,
        "size": f"{chosen.bits_per_weight:.3f} bits a weight, {chosen.nbytes / MB:,.2f} MB",
        "facts": f"{chosen.bits_per_weight:.3f} bits a weight, {chosen.nbytes:,} bytes; predicted KL "
        f"{error_bar(chosen.predicted_kl, chosen.predicted_se)}{found} nats a token"
        + (f"; {len(pinned)} of {len(options)} groups pinned" if pinned else ""),
        "rows": [
            {
                "role": row.role,
                "bytes": row.allocation.nbytes,
                "format": _format_of(row),
                "found": row.measured is not None,
                "texts": row_texts(row),
            }
            for row in rows
        ],
        "charts": charts(rows),
    }


def options_of(costs: SensitivityTable, allocation: Allocation) -> list[int]:
    """Each group's format as an index into the table's formats."""
    return [costs.option(each.format, each.group) for each in allocation.assignments]


def row_texts(row: Row) -> list[str]:
    """A row of `HEAD`; what was not measured stays empty."""
    each, found = row.allocation, row.measured
    predicted = error_bar(each.predicted_kl, each.predicted_se)
    cells = [row.label, f"{each.bits_per_weight:.3f}", f"{each.nbytes / MB:,.2f}", predicted]
    if found is None:
        return [*cells, "", "", "", ""]
    less = error_bar(row.against.mean, row.against.se_clustered) if row.against else ""
    perplexity = error_bar(found.figures["ppl"], found.ppl_se)
    return [*cells, _loss(found), less, perplexity, f"{found.speed.decode}" if found.speed else ""]


def charts(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """KL against size, predicted and measured; perplexity and tokens a second where something was measured."""
    loss = [_predicted(row) for row in rows if row.role != "measured" and row.allocation.predicted_kl > 0]
    found = [(row, row.measured) for row in rows if row.measured is not None]
    made = [{"name": "KL, nats a token", "log": True, "points": loss}]
    if not found:
        return made
    loss += [_measured_loss(row, each) for row, each in found if each.figures["kl"] > 0]
    last = found[-1][1]
    points = []
    for row, each in found:
        ppl, se = each.figures["ppl"], np.nan_to_num(each.ppl_se)
        title = f"{row.label}: perplexity {error_bar(ppl, each.ppl_se)}"
        points.append(_mark(row, ppl, "measured", title, ppl - se, ppl + se))
    name = f"perplexity, {last.figures['tokens']:,} tokens of {last.text}"
    level = [last.ppl_float, f"float model: {last.ppl_float:.3f}"]
    made.append({"name": name, "level": level, "points": points})
    timed = [(row, each.speed) for row, each in found if each.speed]
    if timed:
        points = []
        for row, speed in timed:
            title = f"{row.label}: {speed.decode} tokens/s, {speed.device}"
            points.append(_mark(row, speed.decode.median, "measured", title, *speed.decode.spread))
        made.append({"name": f"tokens/s, decode ({timed[-1][1].label})", "points": points})
    return made


def panel_content(costs: SensitivityTable, chosen: Allocation, groups: Sequence[str], pins) -> dict[str, Any]:
    """What each format would cost the picked groups, to pin them; of none picked, what each format holds."""
    options = np.array(options_of(costs, chosen))
    picked = [g for g, group in enumerate(costs.groups) if group.name in groups]
    weights = np.array([group.weights for group in costs.groups])
    if not picked:
        lines = []
        for f, fmt in enumerate(costs.formats):
            held = options == f
            share = f"{weights[held].sum() / weights.sum():.1%}"
            lines.append({"at": f, "format": str(fmt), "cells": [str(held.sum()), share]})
        note = "Pick a group to pin it to a format, whatever the budget says."
        head = ["format", "groups", "of the weights"]
        return {
            "title": "all groups",
            "note": note,
            "tensors": "",
            "head": head,
            "lines": lines,
            "groups": [],
        }
    names = [costs.groups[g].name for g in picked]
    tensors = [tensor for g in picked for tensor in costs.groups[g].tensors]
    asked = {pins.get(name) for name in names}
    free = {
        "at": None,
        "format": None,
        "says": "chosen by the solver",
        "pin": asked == {None},
        "cells": [],
    }
    lines = [free]
    for f, fmt in enumerate(costs.formats):
        kl = costs.kl[picked, f].sum()
        alone = error_bar(kl, costs.kl_se[picked[0], f]) if len(picked) == 1 else few(kl)
        line = {"at": f, "format": str(fmt), "says": f"pin to {fmt}", "pin": asked == {str(fmt)}}
        line["now"] = bool((options[picked] == f).all())
        lines.append({**line, "cells": [f"{costs.nbytes[picked, f].sum():,}", alone]})
    shown = ", ".join(tensors[:3]) + (f" and {len(tensors) - 3} more" if len(tensors) > 3 else "")
    return {
        "title": names[0] if len(names) == 1 else f"{len(names)} groups",
        "note": f"{weights[picked].sum():,} weights: {shown}",
        "tensors": "\n".join(tensors),
        "head": ["format", "bytes", "KL alone" if len(names) == 1 else "KL, each alone"],
        "lines": lines,
        "groups": names,
    }


def experts_content(experts: ExpertSensitivity, layers: Collection[int | None]) -> dict[str, Any]:
    """The experts of some layers, by number: the share of the tokens that go to each, and its KL alone in each format,
    so short that two formats fit beside the map. Of no layer, which to pick."""
    found, share = experts.measured, experts.share
    lines = []
    for g, (layer, index) in enumerate(experts.experts):
        if (number := int(layer.rpartition(".")[2])) in layers:
            pairs = zip(found.kl[g], found.kl_se[g], strict=True)
            kl = [
                _power(f"{value:.1e}") + ("" if np.isnan(se) else _power(f" ± {se:.0e}"))
                for value, se in pairs
            ]
            lines.append([f"{number}, {index}", f"{share[g]:.1%}", *kl])
    return {
        "note": experts.caption
        if lines
        else "Pick a layer to see its experts: who gets the tokens, and what each costs.",
        "head": ["expert", "share", *map(str, found.formats)],
        "rows": lines,
    }


def static_html(costs: SensitivityTable, rows: Sequence[Row], pins: Collection[str]) -> str:
    """The map as a table of formats, bits a layer, and the comparison. rows: the chosen allocation first."""
    chosen = rows[0].allocation
    layers = costs.layer_bits(options_of(costs, chosen))
    kinds: dict[str, dict[int | None, str]] = {}
    for each in chosen.assignments:
        kind, layer = place(each.group)
        kinds.setdefault(kind, {})[layer] = plots.short(each.format) + ("*" if each.group in pins else "")
    outside = [[kind, found[None]] for kind, found in kinds.items() if None in found]
    inside = [
        [kind, *(found.get(layer, "") for layer in layers)]
        for kind, found in kinds.items()
        if None not in found
    ]
    inside.append(["bits a weight", *(f"{value:.2f}" for value in layers.values())])
    caption = f"{chosen.target}: bits/block of each group{'; * pinned by hand' if pins else ''}"
    return "".join(
        [
            Table(["layer", *map(str, layers)], inside, caption=caption).html() if layers else "",
            Table(["outside the layers", "format"], outside).html() if outside else "",
            Table(HEAD, [row_texts(row) for row in rows], caption=about(costs) + _measured_on(rows)).html(),
        ]
    )


def _measured_on(rows: Sequence[Row]) -> str:
    found = [row.measured for row in rows if row.measured]
    if not found:
        return "; nothing was measured with all groups at once"
    return f"; all groups at once on {found[-1].figures['tokens']:,} tokens of {found[-1].text}, ± standard error"


def _format_of(row: Row) -> str | None:
    return str(row.allocation.assignments[0].format) if row.role == "uniform" else None


def _loss(found: Measured) -> str:
    figures = found.figures
    return error_bar(figures["kl"], figures["kl_se"])


def _mark(row: Row, y: float, role: str, title: str, low: float | None = None, high: float | None = None):
    mark = {"bytes": row.allocation.nbytes, "y": y, "role": role, "title": title}
    return mark if low is None else {**mark, "low": low, "high": high}


def _predicted(row: Row) -> dict[str, Any]:
    each = row.allocation
    title = f"{row.label}: predicted KL {error_bar(each.predicted_kl, each.predicted_se)}"
    mark = _mark(row, each.predicted_kl, row.role, title)
    if row.role == "uniform":
        fmt = each.assignments[0].format
        mark |= {"colour": colour_of(fmt.dtype), "label": plots.short(fmt)}
    return mark


def _measured_loss(row: Row, found: Measured) -> dict[str, Any]:
    figures = found.figures
    kl, se = figures["kl"], np.nan_to_num(figures["kl_se"])
    predicted = row.allocation.predicted_kl
    title = f"{row.label}: measured KL {_loss(found)}, predicted {few(predicted)}"
    mark = _mark(row, kl, "measured", title, max(kl / 10, kl - se), kl + se)
    return mark | {"from": predicted} if predicted > 0 else mark
