"""Show results side by side: perplexity, paired change, KL, size, speed, as Markdown, CSV, LaTeX, HTML or JSON."""

from __future__ import annotations

import argparse
from pathlib import Path

from workbench.commands.common import add
from workbench.errors import WorkbenchError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUNS",
        help="folders of sweeps or benchmarks, cells, results.json, or what `compare-models --json` wrote and "
        "`perplexity --json` printed",
    )
    add(parser, "--format")
    parser.add_argument(
        "--by-protocol",
        action="store_true",
        help="a table for each protocol, text and tokenizer instead of an error",
    )
    parser.add_argument(
        "--detailed", action="store_true", help="show percentiles of KL and of the change of probability too"
    )
    parser.add_argument(
        "--plot", metavar="FILE", help="perplexity against bits with the Pareto front: .png, .svg or .pdf"
    )


def run(arguments: argparse.Namespace) -> int:
    from workbench.sweeps.table import table, tables

    if arguments.by_protocol:
        found = tables(arguments.runs, detailed=arguments.detailed)
    else:
        found = [table(arguments.runs, detailed=arguments.detailed)]
    if len(found) > 1 and arguments.format in ("csv", "json"):
        raise WorkbenchError(
            f"--format {arguments.format} holds one table, and the results make {len(found)}; "
            "allowed: md, latex, html, or fewer RUNS"
        )
    print("\n".join(one.format(arguments.format) for one in found), end="")
    if arguments.plot:
        path = Path(arguments.plot)
        for index, one in enumerate(found):
            name = path.stem if len(found) == 1 else f"{path.stem}-{index + 1}"
            one.plot(path.with_name(name + path.suffix))
    return 0
