"""Check driver, adapter, versions, a kernel of each form, disk and tools, and say what to do."""

from __future__ import annotations

import argparse
import json

from workbench.commands.common import add_adapter


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_adapter(parser, "the adapter to look at")
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")


def run(arguments: argparse.Namespace) -> int:
    from workbench.studies.doctor import examine

    found = examine()
    print(json.dumps(found.to_json(), indent=2) if arguments.json else found)
    return 0 if found.healthy else 1
