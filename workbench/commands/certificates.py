"""Tabulate certificates: which browser and adapter computes what, how well and how fast."""

from __future__ import annotations

import argparse

from workbench.commands.output import add_output, answer

EXAMPLES = (
    "certificates here.json",
    "certificates chrome.json firefox.json node.json",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="certificates of `workbench certify` or of a page"
    )
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    from workbench.browser.certificate import Certificates, opened
    from workbench.errors import WorkbenchError
    from workbench.files.reading import read_text

    named = {}
    for file in arguments.files:
        try:
            text = read_text(file)
        except OSError as error:
            raise WorkbenchError(f"{file}: {error.strerror or error}") from error
        except UnicodeDecodeError as error:
            raise WorkbenchError(f"{file}: no certificate: is no text in UTF-8") from error
        named[file] = opened(text, file)
    found = Certificates(named)
    answer(arguments, told(found), lambda: record(found))
    return 0


def told(found) -> str:
    """All tables of `Certificates`, and what is beyond its bounds."""
    return "\n".join(map(str, [found, *([found.models] if found.models.rows() else []), *found.beyond()]))


def record(found) -> dict:
    """The same as JSON values."""
    return {"kernels": found.rows(), "models": found.models.rows(), "beyond": found.beyond()}
