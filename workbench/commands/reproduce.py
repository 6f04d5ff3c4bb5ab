"""Measure published perplexities again and say for each whether it holds."""

from __future__ import annotations

import argparse
import dataclasses

from workbench.commands.common import add, add_adapter, add_errors
from workbench.commands.output import add_output, answer
from workbench.errors import WorkbenchError

EXAMPLES = (
    "reproduce --list",
    "reproduce 'stories260K-*'",
)


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
    add_errors(parser)
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    from workbench.sweeps.published import select
    from workbench.sweeps.reproduce import listing, markdown, reproduce, status

    if arguments.list:
        chosen = select(arguments.names or ["*"])
        answer(
            arguments,
            listing(chosen).removesuffix("\n"),
            lambda: [dataclasses.asdict(each) for each in chosen],
        )
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
    answer(
        arguments,
        markdown(outcomes).removesuffix("\n"),
        lambda: [dataclasses.asdict(each) for each in outcomes],
    )
    return status(outcomes)
