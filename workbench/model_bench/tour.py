"""What the guided tour shows: one screen of text, and a page with everything."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from eval.advice import TOLD
from eval.report import count_text, errors_note
from eval.statistics import tokens_to_tell
from workbench.show import page
from workbench.show.figures import Picture

from .measure import Measurement, Row
from .table import change_text, main_table, note_lines, short_table, split_table

PAGE = "index.html"


def screen(measurement: Measurement) -> str:
    """The short table, what was measured in a line, and what the figures say."""
    result = measurement.row(measurement.baseline).result
    through = "the PyTorch references" if measurement.no_adapter else "the WGSL kernels"
    notes = [
        f"No WebGPU adapter: {measurement.no_adapter}" if measurement.no_adapter else "",
        f"{result.tokens_scored:,} tokens of {result.protocol.name}, through {through}.",
        f"{errors_note(measurement.errors)}.",
    ]
    lines = [short_table(measurement).text(), "", *filter(None, notes)]
    return "\n".join([*lines, *findings(measurement), *doubts(measurement)])


def findings(measurement: Measurement) -> list[str]:
    """A sentence a model: what it costs against the baseline, or that this cannot be told yet."""
    return [_finding(measurement, row) for row in measurement.rows if row.change is not None]


def _finding(measurement: Measurement, row: Row) -> str:
    change, se = row.change or (0.0, 0.0)
    size = measurement.row(measurement.baseline).file_bytes / row.file_bytes
    said = f"{row.name}, 1/{size:.1f} of the bytes of {measurement.baseline}:"
    found = row.result.baseline
    if found is None or abs(found.ln_ratio) > TOLD * found.ln_ratio_error:
        return f"{said} the perplexity changes by {change_text(change, se)} %."
    needed = tokens_to_tell(row.result.tokens_scored, found.ln_ratio, found.ln_ratio_error, TOLD)
    about = f" (about {count_text(needed)} would)" if needed else ""
    return f"{said} these tokens cannot tell its change from none, {change_text(change, se)} %{about}."


def doubts(measurement: Measurement) -> list[str]:
    """What makes a figure doubtful, a line each, as the page and the table's notes have it too."""
    rows = [f"{row.name}: {row.note}" for row in measurement.rows if row.note]
    return [*rows, *dict.fromkeys(said for row in measurement.rows for said in row.result.warnings)]


def next_steps(folder: Path, model: Path, *, embedded: bool) -> dict[str, str]:
    """Commands, as one would type them, and what each does. embedded: whether the model came with the project."""
    records, told = shlex.quote(str(folder)), shlex.quote(str(model))
    own = "the same of a model and a text of your own", "a notebook with this model filled in"
    return {
        **({"workbench demo --model DIR_OR_HUB_ID --text FILE": own[0]} if embedded else {}),
        f"workbench table {records} --format latex": "the table for a paper; `--help` names columns, marks and forms",
        f'workbench generate --model {told} --prompt "Once upon a time"': "another text of the same model",
        **({} if embedded else {f"workbench notebook 01 --model {told} --text FILE": own[1]}),
        "workbench notebook": "the notebooks that there are; with a name it writes one, for JupyterLab",
    }


def write(
    path: Path,
    measurement: Measurement,
    plot: Picture,
    story: str,
    storyteller: str,
    steps: Mapping[str, str],
) -> None:
    """Write the page: what was found, the plot, the tables, the story and the steps. Raises StorageError."""
    result = measurement.row(measurement.baseline).result
    name = result.provenance.get("model", "a model")
    page.write_page(
        path,
        f"What {len(measurement.rows) - 1} formats cost {name}",
        page.points([*findings(measurement), *doubts(measurement)]),
        page.drawing(
            plot, "perplexity and its paired change against size: the first table holds the figures"
        ),
        page.section(
            "The table",
            page.wide(main_table(measurement).html()),
            page.paragraph("Through the references:"),
            page.wide(split_table(measurement).html()),
            page.points(note_lines(measurement), "notes"),
        ),
        page.section(f"A story from {storyteller}", page.quoted(story)),
        page.section("What to do next", page.points(f"`{step}`: {does}" for step, does in steps.items())),
    )
