"""List the models of the catalogue, their licences, and which of them the cache has."""

from __future__ import annotations

import argparse

from workbench.commands.output import add_output, answer

HEAD = ["name", "licence", "of", "fetched from", "parameters, M", "on disk, MB"]


EXAMPLES = (
    "models",
    "models --json",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    from workbench.models.catalogue import catalogue
    from workbench.models.paths import cache_folder
    from workbench.show.table import Table

    models = list(catalogue().values())
    rows = [cells(each) for each in models]
    notes = ["", "* the hub wants its licence accepted first"]
    cache = cache_folder()
    if cache is not None:
        notes.append(f"fetched ones lie in {cache / 'models'}; workbench fetch NAME")
    answer(
        arguments,
        Table(HEAD, rows, "llllr", notes=notes),
        [dict(zip(HEAD, row, strict=True)) for row in rows],
    )
    return 0


def cells(model) -> list[str]:
    """The table's row of a model."""
    from workbench.models.catalogue import provenance_of
    from workbench.models.paths import cache_folder

    found = provenance_of(model.folder) if cache_folder() else None
    size = sum(path.stat().st_size for path in model.folder.rglob("*") if path.is_file()) if found else 0
    return [
        model.name,
        f"{model.licence}{' *' if model.gated else ''}",
        model.hub,
        f"the {found['source']}" if found else "–",
        f"{model.parameters / 1e6:,.0f}",
        f"{size / 1e6:,.0f}" if found else "–",
    ]
