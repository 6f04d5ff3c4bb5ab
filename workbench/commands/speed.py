"""Tokens a second of a model, or of random weights in the shape of a published one."""

from __future__ import annotations

import argparse

from workbench.commands.common import MODEL_HELP, add, add_adapter, positive
from workbench.commands.output import add_output, answer, check_folder
from workbench.errors import WorkbenchError
from workbench.known import known

EXAMPLES = (
    "speed OUT --dtype f16",
    "speed --like llama-3-8b --format int4 --dtype int8 --json speed.json",
    "speed --like llama-3-8b --format int4 --dtype int8 --lora-rank 16 --adapters 4 --sequences 4",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", metavar="DIR_OR_HUB_ID", help=MODEL_HELP)
    parser.add_argument(
        "--like",
        metavar="SHAPE",
        help="instead of a model, random weights in the shape of one of `workbench models`, or of a config.json",
    )
    parser.add_argument(
        "--format", metavar="FORMAT", help="with --like: of every matrix, such as int4 or int4/64"
    )
    parser.add_argument(
        "--lora-rank",
        type=positive,
        metavar="R",
        help="with --like: adapters of low rank with random factors, on all matrices of the layers",
    )
    parser.add_argument(
        "--adapters",
        type=positive,
        default=1,
        metavar="N",
        help="with --lora-rank: how many are loaded; --sequences have them in turn (default 1)",
    )
    add(parser, "--backend")
    add(parser, "--dtype", nargs="+", default=["f32"], help="of activations, one or more (default f32)")
    add(parser, "--cache")
    add_adapter(parser)
    parser.add_argument(
        "--prompt-tokens", type=positive, default=512, metavar="N", help="to feed (default 512)"
    )
    parser.add_argument(
        "--text", metavar="FILE", help="feed the beginning of this UTF-8 text instead of random token ids"
    )
    add(parser, "--tokens", default=128, help="to decode (default 128)")
    parser.add_argument(
        "--sequences",
        type=positive,
        nargs="+",
        metavar="N",
        help="instead, so many sequences together in one cache, a row each",
    )
    add(parser, "--repetitions")
    parser.add_argument(
        "--against",
        metavar="FORMAT_OR_MODEL",
        help="instead, how long windows take to score against a baseline: with --like random weights of the same shape "
        "in this format, else another model",
    )
    parser.add_argument("--windows", type=positive, default=8, metavar="N", help="with --against, default 8")
    parser.add_argument(
        "--window-tokens", type=positive, default=2048, metavar="N", help="with --against, default 2048"
    )
    parser.add_argument(
        "--trace",
        metavar="FILE",
        help="write a decode step, dispatch by dispatch, as a trace that Chrome and Perfetto open (wgpu only)",
    )
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    from eval.texts import load_text
    from workbench.formats.text import parse_format
    from workbench.model_bench.speed_table import measured, table
    from workbench.model_bench.synthetic import RandomSource, shape_config, with_random_adapters
    from workbench.model_bench.trace import save_trace
    from workbench.models.source import open_source

    if (arguments.model is None) == (arguments.like is None):
        raise WorkbenchError("give a model, or a shape with --like, and not both")
    if (arguments.format is None) != (arguments.like is None):
        raise WorkbenchError("--like and --format go together: a model has its formats already")
    if arguments.lora_rank and (arguments.like is None or arguments.against):
        raise WorkbenchError("--lora-rank is of random adapters beside the random weights of --like")
    if arguments.adapters > 1 and not arguments.lora_rank:
        raise WorkbenchError("--adapters says how many there are of --lora-rank")
    if arguments.text and arguments.like:
        raise WorkbenchError("--text needs a tokenizer: random weights have none")
    if arguments.sequences and (arguments.text or arguments.trace or arguments.against):
        raise WorkbenchError("--sequences measures rates alone: without --text, --trace and --against")
    if arguments.trace and arguments.backend == "torch":
        raise WorkbenchError("--trace shows dispatches of a device; --backend torch has none")
    trace = arguments.trace
    if trace:
        check_folder(trace)
    text = load_text(arguments.text) if arguments.text else None
    if arguments.like:
        source = RandomSource(arguments.like, shape_config(arguments.like), parse_format(arguments.format))
    else:
        source = open_source(arguments.model)
    if arguments.lora_rank:
        source = with_random_adapters(source, arguments.lora_rank, arguments.adapters)
    if arguments.against:
        return run_against(arguments, source)
    if arguments.sequences:
        return run_batches(arguments, source)
    rows = [
        measured(source, each, text=text, profiled=arguments.trace is not None) for each in runs(arguments)
    ]
    answer(arguments, table(rows), lambda: [row.to_json() for row in rows])
    if arguments.trace:
        profiles = [(f"{row.model}, {row.dtype} activations", known(row.profile)) for row in rows]
        save_trace(arguments.trace, profiles, rows[0].record)
        print(*(profile.notes() for _, profile in profiles), sep="\n")
    return 0


def runs(arguments: argparse.Namespace) -> list:
    """What is timed: a `SpeedRun` for each type of activations."""
    from workbench.model_bench.speed import SpeedRun

    long = arguments.prompt_tokens, arguments.tokens, arguments.repetitions
    return [SpeedRun(arguments.backend, dtype, arguments.cache, *long) for dtype in arguments.dtype]


def run_batches(arguments: argparse.Namespace, source) -> int:
    """Several sequences together."""
    from workbench.model_bench.batch_speed import measured_batches, table

    rows = [row for each in runs(arguments) for row in measured_batches(source, arguments.sequences, each)]
    answer(arguments, table(rows), lambda: [row.to_json() for row in rows])
    return 0


def run_against(arguments: argparse.Namespace, source) -> int:
    """The time to score windows against a baseline."""
    from workbench.formats.text import parse_format
    from workbench.model_bench.scoring_speed import measure_scoring
    from workbench.model_bench.synthetic import RandomSource, shape_config
    from workbench.models.source import open_source

    if arguments.like:
        name = f"{arguments.like} in {arguments.against}"
        baseline = RandomSource(name, shape_config(arguments.like), parse_format(arguments.against), seed=1)
    else:
        baseline = open_source(arguments.against)
    rows = [
        measure_scoring(
            source,
            baseline,
            backend=arguments.backend,
            dtype=dtype,
            cache=arguments.cache,
            windows=arguments.windows,
            tokens=arguments.window_tokens,
        )
        for dtype in arguments.dtype
    ]
    answer(arguments, "\n".join(map(str, rows)), lambda: [row.to_json() for row in rows])
    return 0
