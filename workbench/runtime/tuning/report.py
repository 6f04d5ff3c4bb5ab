"""What tuning found: an outcome a case, as a table, as HTML in a notebook, and summed over a step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from workbench.known import known
from workbench.show.table import Table

from .candidates import label
from .cases import PlannedCase
from .store import Entry

#: MEASURED now; REMEMBERED from before; SKIPPED: nothing to choose or nothing that could be measured; NOT_REACHED
#: within the budget.
MEASURED, REMEMBERED, SKIPPED, NOT_REACHED = "measured", "remembered", "skipped", "not reached"
#: The detail of a case that has nothing to choose.
ONE_WAY = "there is one way to run it"


@dataclass(frozen=True)
class Outcome:
    """One case. entry: of what was measured, now or before. detail: why there is none, or what else to know."""

    planned: PlannedCase
    status: str
    entry: Entry | None = None
    detail: str = ""

    def cells(self) -> list[str]:
        """The table's row of an outcome that has an entry."""
        case, entry = self.planned.case, known(self.entry)
        before = entry.default_seconds
        kept = entry.is_default
        return [
            case.kernel,
            case.shape,
            str(case.tokens),
            label(entry.default_variant, entry.default_tunables),
            "wrong" if before is None else f"{before * 1e6:.1f}",
            "kept" if kept else label(entry.variant, entry.tunables),
            f"{entry.seconds * 1e6:.1f}",
            "–" if kept or before is None else f"{entry.faster:.1%}",
            "–" if entry.spread is None else f"{entry.spread:.1%}",
            f"{entry.measured}" + (f", {len(entry.failed)} failed" if entry.failed else ""),
            self.status,
        ]


@dataclass(frozen=True)
class Report:
    """All outcomes of a run. path: the file that remembers them, None where there is none to write."""

    outcomes: tuple[Outcome, ...]
    device: str
    path: Path | None
    seconds: float

    HEAD = (
        "kernel",
        "shape",
        "tokens",
        "default",
        "us",
        "chosen",
        "us",
        "faster",
        "spread",
        "raced",
        "",
    )

    def table(self) -> Table:
        """Without cases that were skipped or not reached, its notes below."""
        rows = [each.cells() for each in self.outcomes if each.entry]
        return Table(
            self.HEAD if rows else (), rows, "llr", notes=["", *self.notes()] if rows else self.notes()
        )

    def steps(self) -> Iterator[tuple[int, float, float]]:
        """(tokens of a step, seconds of its measured calls with the defaults, the same as chosen)."""
        for tokens in sorted({n for each in self.outcomes for n in each.planned.uses}):
            pairs = [
                (each.planned.uses.get(tokens, 0), each.entry.default_seconds, each.entry.seconds)
                for each in self.outcomes
                if each.entry and each.entry.default_seconds is not None
            ]
            before = sum(uses * default for uses, default, _ in pairs)
            if before:
                yield tokens, before, sum(uses * seconds for uses, _, seconds in pairs)

    def notes(self) -> list[str]:
        """What the figures mean and what is missing, one line each."""
        entries = [each.entry for each in self.outcomes if each.entry]
        lines = [
            f"{tokens} token(s) a step: calls measured here take {before * 1e3:.3f} ms with the defaults, "
            f"{after * 1e3:.3f} ms as chosen ({before / after:.2f} times as fast)"
            for tokens, before, after in self.steps()
        ]
        if entries:
            clocks = " and ".join(sorted({entry.clock for entry in entries}))
            lines.append(
                f"times: medians of the deciding rounds, default and rival side by side ({clocks}); faster: median "
                "of default / chosen - 1 over rounds, spread: its interquartile range, on a log scale; a rival is "
                "chosen only if it is faster by more than the spread"
            )
            lines.append("raced: candidates that gave the reference's numbers and were not hopelessly slow")
        for each in self.outcomes:
            failed = each.entry.failed if each.entry and each.status == MEASURED else ()
            where = (
                f"{each.planned.case.kernel} {each.planned.case.shape}, {each.planned.case.tokens} token(s)"
            )
            lines += [f"{where}: {why}" for why in ([each.detail] if each.detail and each.entry else [])]
            lines += [f"{where}: {why}" for why in failed]
        unable = [each for each in self.outcomes if each.status == SKIPPED]
        fixed = sum(each.detail == ONE_WAY for each in unable)
        if fixed:
            lines.append(f"{fixed} cases have one way to run and nothing to choose")
        lines += [
            f"{each.planned.case.kernel} {each.planned.case.shape}: {each.detail}"
            for each in unable
            if each.detail != ONE_WAY
        ]
        if missed := sum(each.status == NOT_REACHED for each in self.outcomes):
            lines.append(
                f"{missed} of {len(self.outcomes)} cases were not reached within the budget; the same command goes on "
                "there"
            )
        where = f"remembered in {self.path}" if self.path else "remembered nowhere"
        return [*lines, f"{self.device}, {self.seconds:.0f} s; {where}"]

    def __repr__(self) -> str:
        found = sum(each.entry is not None for each in self.outcomes)
        return (
            f"<tuning on {self.device}: {found} of {len(self.outcomes)} cases decided, {self.seconds:.0f} s>"
        )

    def __str__(self) -> str:
        return self.table().text()

    def _repr_html_(self) -> str:
        return self.table().html()
