"""Two records of kernel benchmarks side by side: what was set up differently, then what changed beyond the noise.

The rule (`RULE`): ranges of samples that do not overlap. If nothing had changed, n and m samples would lie apart by
chance with a probability of 2 n! m! / (n + m)!, which is stated; where samples are so few that it exceeds
`MOST_CHANCE`, the gap must also be wider than either range. A status that differs is always shown.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from workbench.errors import WorkbenchError
from workbench.files.reading import read_text
from workbench.show.table import Table

from .comparison import shape_of
from .rows import KIND, VERSION

#: Below this a difference of medians is nothing, however small the spread.
LEAST_CHANGE = 0.01
ERROR_CHANGE = 0.25
MOST_CHANCE = 0.01
RULE = (
    "A figure counts as changed if the ranges of both runs' samples do not overlap and the medians differ by more "
    f"than {LEAST_CHANGE:.0%}; with so few samples that this happens by chance in more than {MOST_CHANCE:.0%} of "
    "cases, the gap must also be wider than either range. An error counts as changed if it differs by more than "
    f"{ERROR_CHANGE:.0%}."
)
#: Figures that follow from others of the same row, and would say the same thing twice.
DERIVED = ("bandwidth", "compute", "read share", "compute share")
#: A frequency says how the run went, and belongs to the configuration.
CONDITION = "gpu clock"
#: What differs between any two runs.
ALWAYS = ("created",)
#: What of a row is set up, not measured.
SETTINGS = ("tunables", "chosen", "clock", "copies", "wgsl_sha256", "reference_sha256")


@dataclass(frozen=True)
class Difference:
    """Of the configuration: what, and its value in either record (None where it has none)."""

    what: str
    before: Any
    after: Any


@dataclass(frozen=True)
class Change:
    """Of a figure: values (medians where there are samples), their ranges, and the chance that n and m samples of the
    same thing lie apart (None without samples)."""

    kernel: str
    sizes: str
    variant: str
    metric: str
    unit: str
    before: float | str
    after: float | str
    before_range: tuple[float, float] | None = None
    after_range: tuple[float, float] | None = None
    chance: float | None = None

    @property
    def ratio(self) -> float | None:
        """After over before; None where there is none."""
        if isinstance(self.before, str) or isinstance(self.after, str) or not self.before:
            return None
        return self.after / self.before


@dataclass(frozen=True)
class Differences:
    """Two records compared: configuration, figures beyond the noise, how many lie within it, and figures (by name)
    that only one of them has."""

    configuration: tuple[Difference, ...]
    changes: tuple[Change, ...]
    unchanged: int
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        changes = [{**asdict(each), "ratio": each.ratio} for each in self.changes]
        return {**asdict(self), "changes": changes, "rule": RULE}

    def __repr__(self) -> str:
        within = f"{self.unchanged} figures within the noise"
        return f"<two records: {len(self.configuration)} settings and {len(self.changes)} figures differ, {within}>"

    def __str__(self) -> str:
        lines = ["Configuration:"]
        lines += [
            f"  {each.what}: {_shown(each.before)} -> {_shown(each.after)}" for each in self.configuration
        ]
        if not self.configuration:
            lines.append("  the same")
        lines += [
            "",
            f"Changes beyond the noise ({len(self.changes)}; {self.unchanged} figures lie within it):",
            *(f"  {line}" for line in self._lines()),
            RULE,
        ]
        for title, names in self._alone():
            lines += ["", f"{title}:", *(f"  {name}" for name in names)]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        differ = [[each.what, _shown(each.before), _shown(each.after)] for each in self.configuration] or [
            ["the same", None, None]
        ]
        alone = [f"{title}: {', '.join(names)}" for title, names in self._alone()]
        found = replace(self.table(), notes=[RULE, *alone])
        return Table(["configuration", "before", "after"], differ, "l").html() + found._repr_html_()

    def _alone(self) -> list[tuple[str, tuple[str, ...]]]:
        both = (("Only in the first", self.only_before), ("Only in the second", self.only_after))
        return [(title, names) for title, names in both if names]

    def _lines(self) -> list[str]:
        return replace(self.table(), caption="").text().splitlines() if self.changes else ["none"]

    def table(self) -> Table:
        """Figures beyond the noise, one a row."""
        head = ["kernel", "sizes", "variant", "metric", "before", "after", "after/before", "by chance"]
        rows = [
            [
                each.kernel,
                each.sizes,
                each.variant,
                each.metric,
                _figure(each.before, each.before_range, each.unit),
                _figure(each.after, each.after_range, each.unit),
                "–" if each.ratio is None else f"{each.ratio:.3f}",
                "–" if each.chance is None else f"{each.chance:.1%}",
            ]
            for each in self.changes
        ]
        said = f"changes beyond the noise ({len(rows)}; {self.unchanged} figures lie within it)"
        return Table(head, rows, "llllr", said)


def read(path: str | Path) -> dict[str, Any]:
    """A record of `workbench bench kernels`; raises WorkbenchError for anything else."""
    try:
        found = json.loads(read_text(path))
    except OSError as error:
        raise WorkbenchError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise WorkbenchError(f"{path} is not JSON: {error}") from error
    if not isinstance(found, dict) or found.get("kind") != KIND or found.get("version") != VERSION:
        has = (
            f"kind {found.get('kind')!r}, version {found.get('version')!r}"
            if isinstance(found, dict)
            else "a list"
        )
        raise WorkbenchError(f"{path} has {has}, where {KIND!r}, version {VERSION} is expected")
    return found


def compare_records(before: Mapping[str, Any], after: Mapping[str, Any]) -> Differences:
    """What differs between two records that `read` gave."""
    rows = [{_key(row): row for row in record["rows"]} for record in (before, after)]
    shared = [key for key in rows[0] if key in rows[1]]
    changes, unchanged = [], 0
    for key in shared:
        one, other = rows[0][key], rows[1][key]
        if one["metric"] in (*DERIVED, CONDITION):
            continue
        change = _change(one, other)
        if change is None:
            unchanged += 1
        else:
            changes.append(change)
    return Differences(
        tuple(_configuration(before, after, [(rows[0][key], rows[1][key]) for key in shared])),
        tuple(changes),
        unchanged,
        *(
            tuple(dict.fromkeys(_name(row) for key, row in mine.items() if key not in others))
            for mine, others in (rows, rows[::-1])
        ),
    )


def _key(row: Mapping[str, Any]) -> tuple:
    sizes = tuple(sorted(row["sizes"].items()))
    return (row["kernel"], sizes, _shape(row), row["variant"], row["metric"], row.get("output", ""))


def _shape(row: Mapping[str, Any]) -> str:
    return shape_of(row["sizes"], row.get("types", {}))  # the first records have no types


def _place(row: Mapping[str, Any]) -> str:
    return f"{row['kernel']} {_shape(row)}, {row['variant']}"


def _name(row: Mapping[str, Any]) -> str:
    return f"{_place(row)}: {row['metric']}"


def _change(one: Mapping[str, Any], other: Mapping[str, Any]) -> Change | None:
    metric = f"{one['metric']} of {one['output']}" if one.get("output") else one["metric"]
    place = (one["kernel"], _shape(one), one["variant"], metric, one["unit"])
    if one["metric"] == "status":
        return None if one["value"] == other["value"] else Change(*place, one["value"], other["value"])
    before, after = float(one["value"]), float(other["value"])  # "inf" stands for itself
    if "samples" not in one:
        same = before == after or (before and abs(after / before - 1) <= ERROR_CHANGE)
        return None if same else Change(*place, before, after)
    ranges = [(row["low"], row["high"]) for row in (one, other)]
    gap = max(ranges[1][0] - ranges[0][1], ranges[0][0] - ranges[1][1])
    n, m = len(one["samples"]), len(other["samples"])
    chance = 2 / math.comb(n + m, n)
    needed = 0.0 if chance <= MOST_CHANCE else max(high - low for low, high in ranges)
    if gap <= needed or abs(after / before - 1) <= LEAST_CHANGE:
        return None
    return Change(*place, before, after, *ranges, chance=chance)


def _configuration(
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    shared: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]],
) -> Iterator[Difference]:
    """Differences of the runs as wholes first, then of what was run under one name."""
    flat = [dict(_flat(_whole(record))) for record in (before, after)]
    for what in dict.fromkeys([*flat[0], *flat[1]]):
        one, other = flat[0].get(what), flat[1].get(what)
        if one != other:
            yield Difference(what, one, other)
    seen = set()
    for one, other in shared:
        for name in SETTINGS:
            place = f"{_place(one)}: {name}"
            if one.get(name) != other.get(name) and place not in seen:
                seen.add(place)
                yield Difference(place, one.get(name), other.get(name))
        if one["metric"] == CONDITION and abs(other["value"] / one["value"] - 1) > LEAST_CHANGE:
            yield Difference(f"{_name(one)}, MHz", one["value"], other["value"])


def _whole(record: Mapping[str, Any]) -> dict[str, Any]:
    """What is said of a whole run: everything but the rows, and what all rows say alike."""
    rows = record["rows"]
    first = rows[0] if rows else {}
    alike = {name: first.get(name) for name in ("provenance", "device", "seed")}
    return {**{name: value for name, value in record.items() if name not in ("rows", *ALWAYS)}, **alike}


def _flat(values: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Nested mappings as (dotted name, value)."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield from _flat(value, f"{name}.{key}" if name else str(key))
    else:
        yield name, values


def _shown(value: Any) -> str:
    text = (
        "none"
        if value is None
        else value
        if isinstance(value, str)
        else json.dumps(value, ensure_ascii=False)
    )
    return text[:12] if len(text) == 64 and text.isalnum() else text


def _figure(value: float | str, spread: tuple[float, float] | None, unit: str) -> str:
    if isinstance(value, str):
        return value
    scale, unit = (1e6, "us") if unit == "s" else (1.0, unit)
    text = f"{value * scale:.4g}"
    if spread is not None:
        text += f" ({spread[0] * scale:.4g} to {spread[1] * scale:.4g})"
    return f"{text} {unit}".strip()
