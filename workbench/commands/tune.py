"""Measure the kernels' variants and tunables on this adapter, and remember the fastest for later runs."""

from __future__ import annotations

import argparse
import sys

from workbench.commands.common import DTYPES, add_adapter, add_cache, positive


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="converted model or checkpoint (weights are not read), or a config.json together with --format",
    )
    parser.add_argument(
        "--format",
        metavar="FORMAT",
        help="of every matrix, such as int4 or int4/64, instead of what the model is stored in",
    )
    parser.add_argument(
        "--tokens",
        type=positive,
        nargs="+",
        metavar="N",
        help="steps of so many tokens (default: all that prompts are cut into, and one)",
    )
    parser.add_argument(
        "--kernel", nargs="+", metavar="NAME", help="such as linear[int4] (default: all that the model runs)"
    )
    parser.add_argument("--dtype", choices=DTYPES, default="f32", help="of activations (default f32)")
    add_cache(parser)
    add_adapter(parser)
    parser.add_argument(
        "--max-tokens", type=positive, metavar="N", help="positions of the key/value cache, as when loading"
    )
    parser.add_argument(
        "--budget", type=float, metavar="SECONDS", help="stop after so long (default: no limit)"
    )
    parser.add_argument("--rounds", type=positive, metavar="N", help="of each comparison (default 7)")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights and orders (default 0)")
    parser.add_argument("--force", action="store_true", help="measure again what is remembered")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(arguments: argparse.Namespace) -> int:
    from tqdm.auto import tqdm

    from workbench.bench.comparison import align
    from workbench.convert.options import parse_format
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
    rows = report.rows()
    if len(rows) > 1:
        print(align(rows, left=2) + "\n")
    print("\n".join(report.notes()))
    return 0
