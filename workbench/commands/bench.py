"""Run benchmarks: perplexity on the whole text, tokens a second, recording costs, kernels; compare their records."""

from __future__ import annotations

import argparse
from pathlib import Path

from workbench.commands.common import add, add_adapter, add_formats, positive
from workbench.commands.output import add_output, answer, examples, to_stdout
from workbench.errors import WorkbenchError

FORMATS = ("int8", "int4", "int2")
EXAMPLES = (
    "bench",
    "bench kernels --format int4/128 --shape 4096x4096",
)
#: Of each part: what it does, and two command lines.
PARTS = {
    "suite": (
        "Models on the whole text: perplexities, losses, tokens a second, and recording costs.",
        ("bench suite", "bench suite --formats int4/64 --tokens 4000 --output runs/quick"),
    ),
    "encoding": (
        "Only what recording a dispatch costs the CPU.",
        ("bench encoding", "bench encoding --output runs/bench --json"),
    ),
    "kernels": (
        "Variants against their references, their times, and shares of what the adapter reaches.",
        (
            "bench kernels --format int4/128 int4/32 --compare torch,onnxruntime",
            "bench kernels --kernel linear[int4,a8] --tokens 512 --shape 4096x4096 --json before.json",
        ),
    ),
    "compare": (
        "What differs between two records of kernels.",
        ("bench compare before.json after.json", "bench compare before.json after.json --json changes.json"),
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A parser for each part, which has its own options; without one the suite runs with its defaults."""
    parts = parser.add_subparsers(title="benchmarks (default suite)", metavar="WHAT")
    runs = {"suite": run_suite, "encoding": run_encoding, "kernels": run_kernels, "compare": run_compare}
    declare = {"suite": _suite, "encoding": _encoding, "kernels": _kernels, "compare": _compare}
    for name, (summary, lines) in PARTS.items():
        part = parts.add_parser(name, help=summary, description=summary, epilog=examples(lines))
        declare[name](part)
        add_output(part)
        part.set_defaults(part=runs[name])
        if name == "suite":
            parser.set_defaults(**vars(part.parse_args([])))


def _add_output_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", default="runs/bench", metavar="DIR", help="default runs/bench")


def _suite(parser: argparse.ArgumentParser) -> None:
    _add_output_folder(parser)
    add_formats(parser, FORMATS, "int4 or int4/64", "; f16 is always among them")
    add(parser, "--quantizer")
    add(parser, "--tokens", default=None, help="to score (default: the whole text)")
    add(parser, "--repetitions", default=15, help="of each timing (default 15)")
    add_adapter(parser)


def _encoding(parser: argparse.ArgumentParser) -> None:
    _add_output_folder(parser)
    add_adapter(parser)


def _kernels(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--kernel", nargs="+", metavar="NAME", help="such as linear[int4] (default: linear layers)"
    )
    parser.add_argument(
        "--shape",
        nargs="+",
        metavar="ROWSxCOLUMNS",
        help="default: those of an 8B Llama on a GPU, 256x256 and 1024x1024 on a CPU",
    )
    parser.add_argument(
        "--format",
        nargs="+",
        metavar="FORMAT",
        help="only kernels of weights in these, such as f16 int4/128 int4/32 int2/256",
    )
    parser.add_argument("--block", type=positive, metavar="N", help="columns a scale (default: the format's)")
    told = "of activations, of kernels that take either (default f32)"
    add(parser, "--dtype", choices=["f32", "f16"], default="f32", help=told)
    parser.add_argument(
        "--size",
        nargs="+",
        metavar="NAME=N",
        help="sizes by name, for kernels that take others than rows and columns",
    )
    parser.add_argument("--variants", nargs="+", metavar="NAME", help="default: all that a kernel has")
    parser.add_argument(
        "--compare",
        metavar="PEERS",
        help="time the peers' kernels for the same weights in the same rounds: torch, onnxruntime or both (a,b)",
    )
    add(parser, "--tokens", default=1, help="of a call (default 1)")
    add(parser, "--repetitions", default=7, help="of each timing (default 7)")
    _add_output_folder(parser)
    add_adapter(parser)


def _compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("records", nargs=2, metavar="RECORD", help="two files of `bench kernels --json`")


def run(arguments: argparse.Namespace) -> int:
    return arguments.part(arguments)


def run_suite(arguments: argparse.Namespace) -> int:
    from workbench.assets import demo_model_path
    from workbench.commands.conversions import convert_each
    from workbench.model_bench import suite
    from workbench.model_bench.records import record
    from workbench.model_bench.table import markdown
    from workbench.show.progress import Console

    console = Console()
    console.say(f"quantizing the embedded model to {', '.join(arguments.formats)} ({arguments.quantizer})")
    folder = Path(arguments.output) / "models"
    models = convert_each(demo_model_path(), folder, arguments.formats, arguments.quantizer)
    found = suite.run(
        models,
        output=arguments.output,
        tokens=arguments.tokens,
        repetitions=arguments.repetitions,
        console=console,
    )
    answer(arguments, f"\n{markdown(found)}", lambda: record(found))
    return 0


def run_encoding(arguments: argparse.Namespace) -> int:
    from workbench.assets import demo_model_path
    from workbench.commands.conversions import convert_each
    from workbench.model_bench import suite
    from workbench.show.progress import Console

    model = convert_each(demo_model_path(), Path(arguments.output) / "models", ["int4"])["int4"]
    found = suite.encoding(model, output=arguments.output, console=Console())
    answer(arguments, found.summary(), found.to_json)
    return 0


def run_kernels(arguments: argparse.Namespace) -> int:
    from workbench.kernel_bench import kernels
    from workbench.kernel_bench.request import Request, parse_format, parse_shape, parse_size

    request = Request(
        kernels=arguments.kernel,
        tokens=arguments.tokens,
        shapes=parsed("--shape", parse_shape, arguments.shape),
        formats=parsed("--format", parse_format, arguments.format),
        block=arguments.block,
        dtype=arguments.dtype,
        sizes=dict(parsed("--size", parse_size, arguments.size) or ()),
        variants=arguments.variants,
        peers=arguments.compare.split(",") if arguments.compare else (),
        rounds=arguments.repetitions,
    )
    output = None if to_stdout(arguments) else arguments.json or Path(arguments.output) / "kernels.json"
    found, record = kernels.run(request, output=output)
    answer(arguments, f"\n{kernels.table(found)}", record)
    return 0


def run_compare(arguments: argparse.Namespace) -> int:
    from workbench.kernel_bench import differences

    found = differences.compare_records(*map(differences.read, arguments.records))
    answer(arguments, found, found.to_json)
    return 0


def parsed(option: str, parse, texts: list[str] | None) -> list | None:
    """Each text through `parse`, whose ValueError becomes one that names the option; None where none was given."""
    try:
        return [parse(text) for text in texts] if texts else None
    except ValueError as error:
        raise WorkbenchError(f"{option}: {error}") from error
