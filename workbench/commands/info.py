"""Show a model's plan, bytes a token, memory, adapter and automatic choices, before anything is allocated."""

from __future__ import annotations

import argparse

from workbench.commands.common import MODEL_HELP, add, add_execution, execution_of
from workbench.commands.output import add_output, answer

EXAMPLES = (
    "info OUT",
    "info DIR_OR_HUB_ID --dtype f16 --max-tokens 4096",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="DIR_OR_HUB_ID", help=MODEL_HELP)
    parser.add_argument(
        "--tensors",
        action="store_true",
        help="every tensor: how it is stored, and what it is here (others' quantized models: always)",
    )
    add_execution(parser)
    add(parser, "--window", "--sinks")
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from workbench.errors import UnsupportedModelError
    from workbench.models.inside import inside, inside_gguf, tensors
    from workbench.models.source import open_source
    from workbench.runtime.info import describe

    try:
        source = open_source(arguments.model)
    except UnsupportedModelError:
        if (
            file := Path(arguments.model)
        ).suffix == ".gguf":  # no model of ours, but what it holds can be told
            print(inside_gguf(file))
        raise
    found = describe(source, **execution_of(arguments))
    listed = arguments.tensors or getattr(source, "origin", None)
    answer(
        arguments,
        f"{found}\n\ntensors:\n{inside(source)}" if listed else found,
        lambda: found.to_json() | ({"tensors": [row._asdict() for row in tensors(source)]} if listed else {}),
    )
    return 0
