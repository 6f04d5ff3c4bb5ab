"""Run a sweep of models, formats, block sizes, quantizers and protocols; goes on where it stopped."""

from __future__ import annotations

import argparse
import sys

from workbench.commands.common import add, add_adapter, add_errors
from workbench.commands.output import add_output, answer
from workbench.errors import WorkbenchError

EXAMPLES = (
    "sweep blocks.toml",
    "sweep blocks.toml --processes 4 --output runs/blocks",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("spec", metavar="SWEEP.toml", help="what to run; docs/sweeps.md describes it")
    parser.add_argument(
        "--output", metavar="DIR", help="for the results (default: the file's own, else runs/NAME)"
    )
    where = parser.add_mutually_exclusive_group()
    add(where, "--processes")
    where.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="run on a Dask cluster instead: tcp://host:8786, or a scheduler file",
    )
    parser.add_argument(
        "--discard",
        action="store_true",
        help="delete converted models and baselines at the end; results stay",
    )
    parser.add_argument("--dry-run", action="store_true", help="only list the cells and what is done of them")
    add_adapter(parser, "the WebGPU adapter of cells that run on wgpu")
    add_errors(parser)
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    if arguments.adapter is not None and arguments.scheduler is not None:
        raise WorkbenchError(
            "--adapter holds for processes of this machine; on a cluster set WORKBENCH_ADAPTER where the workers start"
        )
    from workbench.sweeps.show import Live
    from workbench.sweeps.sweep import Sweep

    sweep = Sweep.read(arguments.spec, output=arguments.output)
    if arguments.dry_run:
        answer(arguments, sweep, sweep.rows)
        return 0
    if not arguments.quiet:
        sweep.observe(Live())
    try:
        sweep.run(processes=arguments.processes, scheduler=arguments.scheduler)
    except KeyboardInterrupt:
        if not arguments.quiet:
            print("workbench: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    if arguments.discard:
        sweep.store.remove_intermediate()
    tables = sweep.tables() if sweep.count("done") else []
    answer(arguments, "\n".join(table.markdown() for table in tables), sweep.rows)
    for state in sweep.cells:
        if state.status == "failed":
            print(f"workbench: failed: {state.label}: {state.error}", file=arguments.complaints)
    return 1 if sweep.count("failed") else 0
