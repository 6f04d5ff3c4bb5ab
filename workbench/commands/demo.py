"""Quantize the model that comes with the project to INT8, INT4 and INT2, measure each, and tell a story."""

from __future__ import annotations

import argparse
from pathlib import Path

from workbench.commands.common import add_adapter, positive

FORMATS = ("int8", "int4", "int2")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", default="runs/demo", metavar="DIR", help="default runs/demo")
    parser.add_argument(
        "--tokens", type=positive, default=12_000, metavar="N", help="to score (default 12000)"
    )
    parser.add_argument(
        "--repetitions", type=positive, default=5, metavar="N", help="of each timing (default 5)"
    )
    add_adapter(parser)


def run(arguments: argparse.Namespace) -> int:
    from workbench.bench import demo
    from workbench.bench.console import Console
    from workbench.bench.measure import Settings
    from workbench.commands.embedded import convert_embedded

    console = Console()
    console.say(f"quantizing the embedded model to {', '.join(FORMATS)} (round to nearest)")
    models = convert_embedded(Path(arguments.output) / "models", FORMATS)
    settings = Settings(repetitions=arguments.repetitions)
    demo.run(models, output=arguments.output, tokens=arguments.tokens, settings=settings, console=console)
    return 0
