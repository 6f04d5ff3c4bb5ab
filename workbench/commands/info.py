"""Show a model's plan, bytes a token, memory, adapter and automatic choices, before anything is allocated."""

from __future__ import annotations

import argparse

from workbench.commands.common import MODEL_HELP, add_execution


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="DIR_OR_HUB_ID", help=MODEL_HELP)
    add_execution(parser)


def run(arguments: argparse.Namespace) -> int:
    from workbench.runtime.info import describe

    print(
        describe(
            arguments.model,
            backend=arguments.backend,
            dtype=arguments.dtype,
            max_tokens=arguments.max_tokens,
            cache=arguments.cache,
        )
    )
    return 0
