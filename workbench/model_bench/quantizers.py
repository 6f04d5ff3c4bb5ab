"""Quantizers compared: conversions of one model by several methods, each paired with the unquantized model.

Scored through the PyTorch references, whose distance to the WGSL kernels is measured elsewhere and far smaller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import workbench
from eval.perplexity import perplexities
from eval.protocols import protocol
from eval.report import errors_note, ppl_text
from eval.result import PerplexityResult
from eval.texts import Tokens
from workbench.files.writing import write_json, write_text
from workbench.known import known
from workbench.show.progress import Progress
from workbench.show.table import Table

from .measure import Settings, bits_per_weight, change_percent, reference_threads
from .table import change_text, divergence_text, model_note, share_text, versions_text

BASELINE = "f16"


@dataclass(frozen=True)
class Cell:
    """One conversion. format: as users write it; embedding: its own format where it differs."""

    format: str
    quantizer: str
    embedding: str | None
    model: Path

    @property
    def name(self) -> str:
        kept = f", embedding {self.embedding}" if self.embedding else ""
        return f"{self.format}, {self.quantizer}{kept}"


@dataclass(frozen=True, eq=False)
class Measured:
    """A cell and what came of it. seconds: of the conversion."""

    cell: Cell
    bits_per_weight: float
    seconds: float
    result: PerplexityResult

    def to_json(self) -> dict[str, Any]:
        return {
            "format": self.cell.format,
            "quantizer": self.cell.quantizer,
            "embedding": self.cell.embedding,
            "bits_per_weight": self.bits_per_weight,
            "seconds": self.seconds,
            "perplexity": self.result.to_json(),
        }


def measure_quantizers(
    cells: Sequence[Cell],
    baseline: Path,
    tokens: Tokens,
    settings: Settings,
    *,
    progress: Progress | None = None,
) -> tuple[PerplexityResult, list[Measured]]:
    """The unquantized model's result, and those of the cells, in order, all over the same windows."""
    progress = progress or Progress()
    models = {BASELINE: baseline, **{cell.name: cell.model for cell in cells}}
    loaded = {
        name: workbench.load(path, backend="torch", max_tokens=protocol(settings.scheme).length)
        for name, path in models.items()
    }
    with reference_threads(settings.reference_threads):
        results = perplexities(
            loaded,
            tokens,
            settings.scheme,
            baseline=BASELINE,
            max_windows=settings.windows,
            progress=progress.runs("PyTorch references"),
        )
    measured = [
        Measured(
            cell,
            bits_per_weight(loaded[cell.name].source),
            loaded[cell.name].source.manifest["provenance"]["seconds"],
            results[cell.name],
        )
        for cell in cells
    ]
    return results[BASELINE], measured


def save(baseline: PerplexityResult, measured: Sequence[Measured], folder: Path) -> str:
    """Write table.md and results.json into `folder`; returns the table."""
    text = markdown(baseline, measured)
    write_text(folder / "table.md", text)
    write_json(folder / "results.json", record(baseline, measured))
    return text


def record(baseline: PerplexityResult, measured: Sequence[Measured]) -> dict[str, Any]:
    """What was measured, as JSON values."""
    return {"baseline": baseline.to_json(), "cells": [each.to_json() for each in measured]}


def markdown(baseline: PerplexityResult, measured: Sequence[Measured]) -> str:
    """A table for each format, and what the figures are."""
    columns = {
        "quantizer": lambda each: each.cell.quantizer,
        "perplexity": lambda each: ppl_text(each.result.ppl),
        "change, %": lambda each: change_text(*known(change_percent(each.result))),
        "mean KL, nats": lambda each: divergence_text(each.result),
        "same top-1, %": lambda each: share_text(
            (each.result.baseline.same_top1, each.result.baseline.same_top1_error)
        ),
        "seconds": lambda each: f"{each.seconds:.0f}",
    }
    parts = []
    for (form, embedding), rows in _grouped(measured).items():
        kept = f", embedding {embedding}" if embedding else ""
        bits = f"{rows[0].bits_per_weight:.3f} bits a weight"
        parts.append(f"**{form}{kept}** ({bits})\n\n{Table.of(columns, rows).markdown()}")
    errors = [(baseline.ppl_se, baseline.ppl_se_clustered)]
    errors += [pair for each in measured for pair in known(each.result.baseline).errors]
    whole = "all" if baseline.windows == baseline.windows_available else "the first"
    parts.append(
        f"Unquantized: {ppl_text(baseline.ppl, baseline.ppl_error)}. {baseline.tokens_scored:,} tokens, {whole} "
        f"{baseline.windows} windows of `{baseline.protocol.name}` on {known(baseline.text)['name']}, through the "
        "PyTorch references. Changes, KL and same top-1 are paired with the unquantized model, token by token. "
        f"{errors_note(errors)}. {versions_text(baseline.provenance)}"
    )
    parts += model_note(baseline.provenance)
    return "\n\n".join(parts) + "\n"


def _grouped(measured: Sequence[Measured]) -> dict[tuple[str, str | None], list[Measured]]:
    found: dict[tuple[str, str | None], list[Measured]] = {}
    for each in measured:
        found.setdefault((each.cell.format, each.cell.embedding), []).append(each)
    return found
