"""Run the benchmark suite: kernels, tokens a second, and perplexity on whole texts, with their records."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", default="runs/bench", metavar="DIR", help="default runs/bench")


def run(arguments: argparse.Namespace) -> int:
    from workbench.bench import suite

    suite.run(output=arguments.output)
    return 0
