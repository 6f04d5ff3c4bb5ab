"""Tabulate certificates: which browser and adapter computes what, how well and how fast."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="certificates of `workbench certify` or of a page"
    )


def run(arguments: argparse.Namespace) -> int:
    from workbench.browser.certificate import Certificates, opened
    from workbench.errors import WorkbenchError

    named = {}
    for file in arguments.files:
        try:
            text = Path(file).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise WorkbenchError(f"{file}: {error}") from error
        named[file] = opened(text, file)
    found = Certificates(named)
    print(found)
    if found.models.rows():
        print(found.models)
    for each in found.beyond():
        print(each)
    return 0
