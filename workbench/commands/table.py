"""Show results side by side: perplexity, paired change, KL, size, speed, as Markdown, CSV, LaTeX, HTML or JSON."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.commands.common import add, add_errors
from workbench.commands.output import add_output, answer
from workbench.errors import WorkbenchError

if TYPE_CHECKING:
    from workbench.sweeps.table import Table

EXAMPLES = (
    "table runs/blocks --plot front.pdf",
    "table runs/blocks --columns format quantizer bits change kl --best bold --format latex --siunitx",
)


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
    layout = parser.add_argument_group("layout", "Of Markdown, LaTeX and HTML; --sort of CSV and JSON too.")
    layout.add_argument(
        "--columns",
        nargs="+",
        default=(),
        metavar="NAME",
        help="these, in this order: model format quantizer backend bits size ppl change kl top1 and others, which a "
        "wrong name lists (default: those that say something)",
    )
    layout.add_argument("--sort", metavar="NAME", help="order rows by a column, such as change")
    layout.add_argument("--descending", action="store_true", help="largest first")
    layout.add_argument(
        "--best",
        choices=["bold"],
        help="mark the best of each model and format, or of each model where every format comes once",
    )
    layout.add_argument(
        "--transposed", action="store_true", help="a column for each format, a row for each figure"
    )
    layout.add_argument(
        "--caption",
        metavar="TEXT",
        help="instead of the conditions; with --format latex it may hold commands",
    )
    layout.add_argument("--label", default="", metavar="NAME", help="of LaTeX, such as tab:formats")
    layout.add_argument(
        "--siunitx", action="store_true", help="of LaTeX: numbers in S columns, as 7.3607(1640)"
    )
    plot = parser.add_argument_group("plot")
    plot.add_argument(
        "--plot", metavar="FILE", help="loss against size with the Pareto front: .png, .svg or .pdf"
    )
    plot.add_argument(
        "--plot-of",
        choices=["change", "kl", "ppl"],
        help="the paired change (default where there is one), KL, or the perplexity",
    )
    plot.add_argument("--plot-against", choices=["bits", "bytes"], default="bits", help="default bits")
    add_errors(parser)
    add_output(parser)


LAYOUT = ("columns", "sort", "descending", "best", "transposed", "caption", "label", "siunitx")


def run(arguments: argparse.Namespace) -> int:
    from workbench.sweeps.table import table, tables

    if arguments.siunitx and arguments.format != "latex":
        raise WorkbenchError("--siunitx is of --format latex")
    if arguments.by_protocol:
        found = tables(arguments.runs, detailed=arguments.detailed)
    else:
        found = [table(arguments.runs, detailed=arguments.detailed)]
    if len(found) > 1 and arguments.format in ("csv", "json"):
        raise WorkbenchError(
            f"--format {arguments.format} holds one table, and the results make {len(found)}; "
            "allowed: md, latex, html, or fewer RUNS"
        )
    layout = {name: getattr(arguments, name) for name in LAYOUT}
    text = "\n".join(one.format(arguments.format, **layout) for one in found).removesuffix("\n")
    answer(arguments, text, lambda: _records(found, together=not arguments.by_protocol))
    if arguments.plot:
        path = Path(arguments.plot)
        for index, one in enumerate(found):
            name = path.stem if len(found) == 1 else f"{path.stem}-{index + 1}"
            place = path.with_name(name + path.suffix)
            one.plot(place, of=arguments.plot_of, against=arguments.plot_against)
    return 0


def _records(found: Sequence[Table], together: bool) -> Any:
    """What `--format json` holds, of the one table or of each."""
    records = [json.loads(one.format("json")) for one in found]
    return records[0] if together else records
