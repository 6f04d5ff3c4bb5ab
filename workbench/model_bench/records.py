"""What a benchmark leaves behind: results.json, table.md and the plot, each written whole."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from workbench.files.writing import write_json, write_text

from .measure import Measurement
from .plot import perplexity_vs_size
from .table import markdown

SCHEMA = Path(__file__).with_name("results.schema.json")
#: Nothing is drawn at random but the bootstrap's resamples and, in the demo, the story.
BOOTSTRAP_SEED = 0


def record(measurement: Measurement, **more: Any) -> dict[str, Any]:
    """The measurement as JSON values, after results.schema.json; `more` are further top-level entries."""
    return {
        **heading("workbench-results"),
        "settings": measurement.settings.to_json(),
        "baseline": measurement.baseline,
        "no_adapter": measurement.no_adapter,
        "rows": [row.to_json() for row in measurement.rows],
        **more,
    }


def heading(kind: str) -> dict[str, Any]:
    """What every record of this kind begins with: its version, and when and where it was made."""
    return {
        "kind": kind,
        "version": 1,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": {"bootstrap": BOOTSTRAP_SEED},
        "host": {"system": platform.platform(), "machine": platform.machine(), "cpus": os.cpu_count()},
    }


def save(measurement: Measurement, folder: Path, **more: Any) -> str:
    """Write table.md, results.json and perplexity_vs_size.png into `folder`; returns the table. Raises StorageError."""
    table = markdown(measurement)
    write_text(folder / "table.md", table)
    write_json(folder / "results.json", record(measurement, **more))
    perplexity_vs_size(measurement).save(folder / "perplexity_vs_size.png")
    return table
