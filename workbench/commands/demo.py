"""Quantize the embedded model to INT8, INT4 and INT2 and measure each: a table, a plot and a story."""

from __future__ import annotations

import argparse

from workbench.commands.common import positive


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", default="runs/demo", metavar="DIR", help="default runs/demo")
    parser.add_argument(
        "--tokens", type=positive, default=12_000, metavar="N", help="to score (default 12000)"
    )


def run(arguments: argparse.Namespace) -> int:
    from workbench.bench import demo

    demo.run(output=arguments.output, tokens=arguments.tokens)
    return 0
