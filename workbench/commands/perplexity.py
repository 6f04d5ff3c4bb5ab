"""Measure the perplexity on a text under a named protocol, alone or against a baseline."""

from __future__ import annotations

import argparse
from pathlib import Path

from workbench.commands.common import (
    add,
    add_baseline_precision,
    add_errors,
    add_execution,
    add_text,
    positive,
    say_choices,
)
from workbench.commands.output import add_output, answer
from workbench.errors import WorkbenchError

EXAMPLES = (
    "perplexity --model OUT --text FILE --protocol disjoint-512",
    "perplexity --model OUT --baseline DIR --dataset wikitext2 --protocol disjoint-2048 --json result.json",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add(parser, "--model", required=True)
    add_text(parser)
    parser.add_argument(
        "--baseline",
        metavar="DIR_OR_HUB_ID_OR_FILE",
        help="a model to compare with, window by window, or a file that --save-baseline made",
    )
    add_baseline_precision(parser)
    parser.add_argument(
        "--save-baseline",
        metavar="FILE",
        help="keep the baseline's distributions (without --baseline: the model's) for later runs: the --top-k "
        "likeliest tokens of each place and a sample of the rest, 6 to 9 kB a token",
    )
    parser.add_argument("--top-k", type=positive, default=64, metavar="K", help="default 64")
    parser.add_argument(
        "--noise-floor",
        choices=["wgpu", "torch"],
        help="run the baseline, and a model with INT8 activations or cache, on this backend too, and say what that "
        "alone changes",
    )
    parser.add_argument("--max-windows", type=positive, metavar="N", help="score only the first N windows")
    parser.add_argument(
        "--windows-per-step",
        type=positive,
        default=1,
        metavar="N",
        help="windows that run side by side, alone or with those of a --baseline (default 1)",
    )
    add_execution(parser)
    add(parser, "--lora", help="of the --model, not of a --baseline: an adapter as PEFT saves it")
    add(parser, "--lora-format")
    add_errors(parser)
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    from eval.protocols import protocol
    from eval.texts import load_dataset_text, load_text

    # Text and protocol are looked at before a model is loaded: a wrong name should not cost a minute.
    scheme = protocol(arguments.protocol)
    text = load_text(arguments.text) if arguments.text else load_dataset_text(arguments.dataset)

    baseline = arguments.baseline and stored_baseline(Path(arguments.baseline))
    rounds = "int8" in (arguments.dtype, arguments.cache)
    live = arguments.baseline is not None and baseline is None
    if arguments.noise_floor and not live and not rounds:
        raise WorkbenchError(
            "--noise-floor runs a --baseline once more, which must be a model, or a model with INT8 activations or an "
            "INT8 cache"
        )
    for option, given in (("dtype", arguments.baseline_dtype), ("cache", arguments.baseline_cache)):
        if given and not live:
            raise WorkbenchError(
                f"--baseline-{option} is of a --baseline that runs, which must be a model; a kept one stays as it ran"
            )

    import workbench
    from eval.perplexity import perplexity

    most = arguments.max_tokens or scheme.length
    lora = {"lora": arguments.lora, "lora_format": arguments.lora_format}

    def load(name: str, backend: str | None, dtype: str, cache: str | None, **more: str | None):
        return workbench.load(name, backend=backend, dtype=dtype, max_tokens=most, cache=cache, **more)

    def load_baseline(backend: str | None):
        dtype = arguments.baseline_dtype or "f32"
        return load(arguments.baseline, backend, dtype, arguments.baseline_cache)

    def load_model(backend: str | None):
        return load(arguments.model, backend, arguments.dtype, arguments.cache, **lora)

    model = load_model(arguments.backend)
    if arguments.noise_floor == model.backend:
        raise WorkbenchError(
            f"--noise-floor {model.backend}: the model runs there already; the floor is what another backend changes"
        )
    if not arguments.quiet:
        say_choices(model)
    result = perplexity(
        model,
        text,
        scheme,
        separator=arguments.separator,
        baseline=load_baseline(arguments.backend) if live else baseline,
        noise_floor=load_baseline(arguments.noise_floor) if arguments.noise_floor and live else None,
        again=load_model(arguments.noise_floor) if arguments.noise_floor and rounds else None,
        save_baseline=arguments.save_baseline,
        top_k=arguments.top_k,
        max_windows=arguments.max_windows,
        windows_per_step=arguments.windows_per_step,
        progress=not arguments.quiet,
    )
    answer(arguments, result.summary(), result.to_json)
    return 0


def stored_baseline(path: Path):
    """What an earlier run kept in that file, with or without logits; None if it is no file but a model's name."""
    if not path.exists() or path.is_dir():
        return None
    from eval.result import KIND, PerplexityResult
    from eval.store import kind_of
    from eval.top_logits import StoredBaseline

    return PerplexityResult.load(path) if kind_of(path) == KIND else StoredBaseline.load(path)
