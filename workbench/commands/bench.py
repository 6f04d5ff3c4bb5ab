"""Run the benchmarks: perplexity on the whole text, tokens a second, recording costs, kernels, with records."""

from __future__ import annotations

import argparse
from pathlib import Path

from workbench.commands.common import positive
from workbench.errors import WorkbenchError

FORMATS = ("int8", "int4", "int2")
REPETITIONS = {"suite": 15, "encoding": 15, "kernels": 7}
KERNEL_OPTIONS = ("kernel", "shape", "block", "variants", "json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what",
        nargs="?",
        choices=["suite", "encoding", "kernels"],
        default="suite",
        help="suite (default): models on the whole text; encoding: only the CPU cost of a recorded dispatch; "
        "kernels: variants against their references, their times and shares of the bandwidth",
    )
    parser.add_argument("--output", default="runs/bench", metavar="DIR", help="default runs/bench")
    parser.add_argument(
        "--formats",
        nargs="+",
        default=list(FORMATS),
        metavar="FORMAT",
        help=f"such as int4 or int4/64 (default {' '.join(FORMATS)}); f16 is always among them",
    )
    parser.add_argument("--quantizer", choices=["rtn", "grid", "hqq"], default="rtn", help="default rtn")
    parser.add_argument(
        "--tokens",
        type=positive,
        metavar="N",
        help="to score (default: the whole text); with kernels: of a call (default 1)",
    )
    parser.add_argument(
        "--repetitions", type=positive, metavar="N", help="of each timing (default 15; 7 with kernels)"
    )
    kernels = parser.add_argument_group("kernels")
    kernels.add_argument(
        "--kernel", nargs="+", metavar="NAME", help="such as linear_int4 (default: linear layers)"
    )
    kernels.add_argument(
        "--shape",
        nargs="+",
        metavar="ROWSxCOLUMNS",
        help="default: those of an 8B Llama on a GPU, 256x256 and 1024x1024 on a CPU",
    )
    kernels.add_argument(
        "--block", type=positive, metavar="N", help="columns a scale (default: the format's)"
    )
    kernels.add_argument("--variants", nargs="+", metavar="NAME", help="default: all that a kernel has")
    kernels.add_argument("--json", metavar="FILE", help="of the records (default: kernels.json in --output)")


def run(arguments: argparse.Namespace) -> int:
    repetitions = arguments.repetitions or REPETITIONS[arguments.what]
    if arguments.what == "kernels":
        return run_kernels(arguments, repetitions)
    if given := [name for name in KERNEL_OPTIONS if getattr(arguments, name) is not None]:
        raise WorkbenchError(f"--{given[0]} is an option of `workbench bench kernels`")
    from workbench.bench import suite
    from workbench.bench.console import Console
    from workbench.commands.embedded import convert_embedded

    console = Console()
    folder = Path(arguments.output) / "models"
    if arguments.what == "encoding":
        model = convert_embedded(folder, ["int4"])["int4"]
        suite.encoding(model, output=arguments.output, console=console)
        return 0
    console.say(f"quantizing the embedded model to {', '.join(arguments.formats)} ({arguments.quantizer})")
    models = convert_embedded(folder, arguments.formats, arguments.quantizer)
    suite.run(
        models,
        output=arguments.output,
        tokens=arguments.tokens,
        repetitions=repetitions,
        console=console,
    )
    return 0


def run_kernels(arguments: argparse.Namespace, rounds: int) -> int:
    from workbench.bench import kernels

    try:
        shapes = [kernels.parse_shape(text) for text in arguments.shape or ()]
    except ValueError as error:
        raise WorkbenchError(f"--shape: {error}") from error
    kernels.run(
        arguments.kernel or kernels.KERNELS,
        tokens=arguments.tokens or 1,
        shapes=shapes or None,
        block=arguments.block,
        variants=arguments.variants,
        rounds=rounds,
        output=arguments.json or Path(arguments.output) / "kernels.json",
    )
    return 0
