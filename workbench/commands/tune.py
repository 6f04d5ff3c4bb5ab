"""Measure the kernels' variants and tunables on this adapter, and remember the fastest for later runs.

What is remembered goes to a file and comes from one; files of several machines stand side by side in a table.
"""

from __future__ import annotations

import argparse
import sys

from workbench.commands.common import add, add_adapter, positive
from workbench.commands.output import add_output, answer
from workbench.errors import WorkbenchError
from workbench.show.table import FORMS

EXAMPLES = (
    "tune OUT",
    "tune --import other.json",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        metavar="MODEL",
        nargs="?",
        help="converted model or checkpoint (weights are not read), or a config.json together with --format",
    )
    parser.add_argument(
        "--format",
        metavar="FORMAT",
        help="of every matrix, such as int4 or int4/64, instead of what the model is stored in",
    )
    told = "steps of so many tokens (default: all that prompts are cut into, and one)"
    add(parser, "--tokens", nargs="+", default=None, help=told)
    parser.add_argument(
        "--kernel", nargs="+", metavar="NAME", help="such as linear[int4] (default: all that the model runs)"
    )
    add(parser, "--dtype", "--cache")
    add_adapter(parser)
    add(parser, "--max-tokens")
    parser.add_argument(
        "--budget", type=float, metavar="SECONDS", help="stop after so long (default: no limit)"
    )
    parser.add_argument("--rounds", type=positive, metavar="N", help="of each comparison (default 7)")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights and orders (default 0)")
    parser.add_argument("--force", action="store_true", help="measure again what is remembered")
    others = parser.add_argument_group("instead of measuring").add_mutually_exclusive_group()
    others.add_argument("--export", metavar="FILE", help="write what is remembered here, of every adapter")
    others.add_argument(
        "--import",
        dest="taken",
        metavar="FILE",
        help="remember what --export wrote, maybe on another machine",
    )
    others.add_argument(
        "--compare", metavar="FILE", nargs="+", help="what such files hold, kernels by adapters"
    )
    parser.add_argument("--table", choices=FORMS, default="text", help="form of what --compare prints")
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    exchanged = arguments.export or arguments.taken or arguments.compare
    if bool(arguments.model) == bool(exchanged):
        raise WorkbenchError("tune takes a MODEL to measure, or one of --export, --import and --compare")
    return _exchange(arguments) if exchanged else _measure(arguments)


def _exchange(arguments: argparse.Namespace) -> int:
    from workbench.runtime.tuning.exchange import export, read, side_by_side, take

    if arguments.export:
        found, skipped = export(arguments.export), []
        lines = [f"written to {arguments.export}:"]
    elif arguments.taken:
        found, skipped = take(arguments.taken)
        lines = [f"remembered from {arguments.taken}, for the same adapter, driver and versions:"]
    else:
        machines = [each for path in arguments.compare for each in read(path)]
        table = side_by_side(machines)
        answer(arguments, table.written(arguments.table), lambda: records(table))
        return 0
    counts = {each.name: len(each.entries) for each in found}
    lines += [f"{count} of {name}" for name, count in counts.items()]
    answer(arguments, "\n".join(lines), {"entries": counts, "left_out": skipped})
    for reason in skipped:
        print(f"left out: {reason}", file=sys.stderr)
    return 0


def _measure(arguments: argparse.Namespace) -> int:
    from tqdm.auto import tqdm

    from workbench.formats.text import parse_format
    from workbench.runtime.tuning.race import ROUNDS
    from workbench.runtime.tuning.tune import tune

    fmt = parse_format(arguments.format) if arguments.format else None
    with tqdm(unit="case", disable=arguments.quiet, leave=False, file=sys.stderr) as bar:

        def told(done: int, total: int, doing: str) -> None:
            bar.total = total
            bar.set_description(doing, refresh=False)
            bar.update(done - bar.n)
            bar.refresh()

        report = tune(
            arguments.model,
            tokens=arguments.tokens,
            kernels=arguments.kernel,
            fmt=fmt,
            dtype=arguments.dtype,
            max_tokens=arguments.max_tokens,
            cache=arguments.cache,
            budget=arguments.budget,
            force=arguments.force,
            rounds=arguments.rounds or ROUNDS,
            seed=arguments.seed,
            progress=told,
        )
    facts = {"device": report.device, "path": report.path and str(report.path), "seconds": report.seconds}
    answer(arguments, report, lambda: {**facts, "cases": records(report.table())})
    return 0


def records(table) -> list[dict]:
    """The rows of a table, by title."""
    return [dict(zip(table.head, map(str, row), strict=True)) for row in table.rows]
