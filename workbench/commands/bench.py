"""Run the benchmarks: perplexity on the whole text, tokens a second, and what recording costs, with records."""

from __future__ import annotations

import argparse
from pathlib import Path

from workbench.commands.common import positive

FORMATS = ("int8", "int4", "int2")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what",
        nargs="?",
        choices=["suite", "encoding"],
        default="suite",
        help="suite (default): everything; encoding: only the CPU cost of a recorded dispatch",
    )
    parser.add_argument("--output", default="runs/bench", metavar="DIR", help="default runs/bench")
    parser.add_argument(
        "--formats",
        nargs="+",
        default=list(FORMATS),
        metavar="FORMAT",
        help=f"such as int4 or int4/64 (default {' '.join(FORMATS)}); f16 is always among them",
    )
    parser.add_argument("--quantizer", choices=["rtn", "grid", "hqq"], default="rtn", help="default rtn")
    parser.add_argument("--tokens", type=positive, metavar="N", help="to score (default: the whole text)")
    parser.add_argument(
        "--repetitions", type=positive, default=15, metavar="N", help="of each timing (default 15)"
    )


def run(arguments: argparse.Namespace) -> int:
    from workbench.bench import suite
    from workbench.bench.console import Console
    from workbench.commands.embedded import convert_embedded

    console = Console()
    folder = Path(arguments.output) / "models"
    if arguments.what == "encoding":
        model = convert_embedded(folder, ["int4"])["int4"]
        suite.encoding(model, output=arguments.output, console=console)
        return 0
    console.say(f"quantizing the embedded model to {', '.join(arguments.formats)} ({arguments.quantizer})")
    models = convert_embedded(folder, arguments.formats, arguments.quantizer)
    suite.run(
        models,
        output=arguments.output,
        tokens=arguments.tokens,
        repetitions=arguments.repetitions,
        console=console,
    )
    return 0
