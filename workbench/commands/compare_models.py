"""Compare versions of one model under one protocol: size, perplexity, KL, last words, tokens a second."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from workbench.commands.common import (
    MODEL_HELP,
    add,
    add_baseline_precision,
    add_errors,
    add_execution,
    add_text,
    positive,
)
from workbench.commands.output import add_output, answer, check_folder
from workbench.errors import WorkbenchError

EXAMPLES = (
    "compare-models int4 int2 --baseline DIR --dataset wikitext2 --protocol disjoint-512",
    "compare-models int4 --baseline DIR --text FILE --protocol disjoint-512 --lambada lambada --json found.json",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_models(parser)
    add_text(parser)
    parser.add_argument("--windows", type=positive, metavar="N", help="score only the first N windows")
    parser.add_argument(
        "--lambada",
        metavar="FILE_OR_DATASET",
        help="predict last words too: of the dataset lambada, or of a file with a passage a line (.jsonl: objects with "
        '"text")',
    )
    parser.add_argument("--examples", type=positive, metavar="N", help="only the first N passages")
    parser.add_argument("--no-speed", action="store_true", help="do not measure tokens a second")
    add_baseline_precision(parser)
    add_execution(parser)
    add(parser, "--format")
    parser.add_argument(
        "--plot", metavar="FILE", help="percentiles of KL, and loss against size: .png, .svg or .pdf"
    )
    add_errors(parser)
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    from eval.lambada import load_passages
    from eval.protocols import protocol
    from eval.texts import load_dataset_text, load_text
    from workbench.model_bench.measure import Settings
    from workbench.show.progress import Console
    from workbench.sweeps.model_comparison import compare_models

    protocol(arguments.protocol)  # a wrong name should not cost a minute
    if arguments.examples and not arguments.lambada:
        raise WorkbenchError("--examples counts the passages of --lambada, which was not asked for")
    if arguments.plot:
        check_folder(arguments.plot)
    models = named([arguments.baseline, *arguments.models])
    found = compare_models(
        models,
        next(iter(models)),
        load_text(arguments.text) if arguments.text else load_dataset_text(arguments.dataset),
        Settings(arguments.protocol, arguments.windows),
        separator=arguments.separator,
        passages=load_passages(arguments.lambada, arguments.examples) if arguments.lambada else None,
        speed=not arguments.no_speed,
        backend=arguments.backend,
        dtype=arguments.dtype,
        cache=arguments.cache,
        baseline_dtype=arguments.baseline_dtype or "f32",
        baseline_cache=arguments.baseline_cache,
        max_tokens=arguments.max_tokens,
        progress=Console(),
    )
    answer(arguments, found.table().format(arguments.format).removesuffix("\n"), found.record)
    if arguments.plot:
        found.plot(arguments.plot)
    return 0


def add_models(parser: argparse.ArgumentParser, more: str = "") -> None:
    """The models and the `--baseline` that they are compared with; more: what else to say of that."""
    told = f"what the others are compared with, such as the checkpoint{more}"
    parser.add_argument("models", nargs="+", metavar="MODEL", help=f"each a {MODEL_HELP}")
    parser.add_argument("--baseline", required=True, metavar="MODEL", help=told)


def named(models: list[str]) -> dict[str, str]:
    """Models by the last part of what they were given as, by all of it where two share that; each once."""
    given = list(dict.fromkeys(models))
    count = Counter(Path(each).name for each in given)
    return {Path(each).name if count[Path(each).name] == 1 else each: each for each in given}
