"""Conversions: what commands that make one say, and a model with several for those that measure what formats cost."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.commands.output import answer

if TYPE_CHECKING:
    from workbench.convert.convert import ConversionSummary


def check_output(output: str, overwrite: bool) -> None:
    """Raise OutputExistsError's reason, with the option that would help, before anything is read."""
    from workbench.errors import OutputExistsError, WorkbenchError
    from workbench.formats.writer import check_target

    try:
        check_target(Path(output), overwrite)
    except OutputExistsError as error:
        instead = f"{error.path} exists; --overwrite replaces it" if error.path else str(error)
        raise WorkbenchError(instead) from error


def print_summary(arguments: argparse.Namespace, summary: ConversionSummary) -> None:
    """What was made, and on stderr what is to be known of it."""
    from workbench.models.contents import unread_notes

    for note in summary.notes:
        print(f"note: {note}", file=sys.stderr)
    for note in unread_notes(summary.skipped):
        print(note, file=sys.stderr)
    formats = ", ".join(f"{count} {name}" for name, count in summary.formats.items())
    told = (
        f"{summary.path}: {summary.weights:,} weights in {summary.tensors} tensors ({formats}), "
        f"{summary.bits_per_weight:.3f} bits a weight, {summary.nbytes / 2**20:.2f} MiB, "
        f"{summary.seconds:.1f} s"
    )
    answer(arguments, told, lambda: {**dataclasses.asdict(summary), "path": str(summary.path)})


def convert_each(
    model: Path, folder: Path, formats: Sequence[str], quantizer: str = "rtn"
) -> dict[str, Path]:
    """Convert a checkpoint anew into `folder`/NAME for each format; folders by name, its own dtype and folder first.

    formats: as `workbench.convert.options.parse_format` reads them, such as "int4" or "int4/64". Raises
    WorkbenchError and FormatError for what is no format.
    """
    from workbench.convert.convert import convert
    from workbench.convert.options import ConvertOptions
    from workbench.formats.text import parse_format
    from workbench.models.families import architecture_of
    from workbench.models.source import open_source

    chosen = {name: parse_format(name) for name in formats}
    source = open_source(model)
    own = source.describe(architecture_of(source.config).embedding)[1].dtype
    models = {own: model}
    for name, spec in chosen.items():
        if name == own:
            continue
        models[name] = folder / name.replace("/", "-")
        convert(model, models[name], ConvertOptions(spec, quantizer=quantizer, overwrite=True))
    return models
