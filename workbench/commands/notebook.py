"""Write one of the notebooks for a model and a text of one's own, and run it if asked."""

from __future__ import annotations

import argparse
from pathlib import Path

from workbench.commands.common import MODEL_HELP
from workbench.commands.output import add_output, answer

EXAMPLES = (
    "notebook",
    "notebook 01 --model DIR_OR_HUB_ID --text FILE --execute",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name",
        nargs="?",
        metavar="NAME",
        help="its name or number, such as 01; without one the list is printed",
    )
    parser.add_argument("--model", metavar="DIR_OR_HUB_ID", help=MODEL_HELP)
    parser.add_argument(
        "--text", metavar="FILE_OR_NAME", help="what is scored: a UTF-8 file, or a dataset such as wikitext2"
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="the copy, .ipynb (default: the notebook's name, here)"
    )
    parser.add_argument(
        "--execute", action="store_true", help="run it, so that the copy has that model's results"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    from workbench.errors import WorkbenchError
    from workbench.studies.notebooks import filled, find, names, write

    if arguments.name is None:
        answer(arguments, "\n".join(names()), lambda: {"notebooks": names()})
        return 0
    output = Path(arguments.output or f"{find(arguments.name).stem}.ipynb")
    if output.exists() and not arguments.overwrite:
        raise WorkbenchError(f"{output} exists; --overwrite replaces it")
    write(filled(arguments.name, arguments.model, arguments.text), output, execute=arguments.execute)
    answer(arguments, f"{output}: open it with `jupyter lab`", {"path": str(output)})
    return 0
