"""Measure published perplexities again and say for each whether it holds."""

from __future__ import annotations

import argparse

from workbench.commands.common import add, add_adapter
from workbench.errors import WorkbenchError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="cells by name or pattern, such as 'stories260K-*'"
    )
    parser.add_argument("--list", action="store_true", help="show what is published, and run nothing")
    parser.add_argument(
        "--models", metavar="DIR", help="where models lie (default: WORKBENCH_MODELS, or the hub's cache)"
    )
    parser.add_argument("--texts", metavar="DIR", help="where texts lie (default: WORKBENCH_TEXTS)")
    parser.add_argument("--output", default="runs/reproduce", metavar="DIR", help="default runs/reproduce")
    add(parser, "--processes")
    add_adapter(parser, "the WebGPU adapter of cells that run on wgpu")
    add(parser, "--quiet", help="no progress, nothing on stderr")


def run(arguments: argparse.Namespace) -> int:
    from workbench.sweeps.published import select
    from workbench.sweeps.reproduce import listing, markdown, reproduce, status

    if arguments.list:
        print(listing(select(arguments.names or ["*"])), end="")
        return 0
    if not arguments.names:
        raise WorkbenchError("name a published cell, or a pattern of names; --list shows them")
    from workbench.sweeps.show import Live

    outcomes = reproduce(
        arguments.names,
        models=arguments.models,
        texts=arguments.texts,
        output=arguments.output,
        processes=arguments.processes,
        observer=None if arguments.quiet else Live(),
    )
    print(markdown(outcomes), end="")
    return status(outcomes)
