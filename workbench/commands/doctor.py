"""Check driver, adapter, versions, a kernel of each form, disk and tools, and say what to do."""

from __future__ import annotations

import argparse

from workbench.commands.common import add_adapter
from workbench.commands.output import add_output, answer

EXAMPLES = (
    "doctor",
    "doctor --json report.json",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_adapter(parser, "the adapter to look at")
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    from workbench.studies.doctor import examine

    found = examine()
    answer(arguments, found, found.to_json)
    return 0 if found.healthy else 1
