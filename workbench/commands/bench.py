"""Run benchmarks: perplexity on the whole text, tokens a second, recording costs, kernels; compare their records."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from workbench.commands.common import add, add_adapter, add_formats, positive
from workbench.errors import WorkbenchError

FORMATS = ("int8", "int4", "int2")
REPETITIONS = {"suite": 15, "encoding": 15, "kernels": 7}
KERNEL_OPTIONS = ("kernel", "shape", "format", "block", "dtype", "size", "variants", "compare")
STDOUT = "-"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what",
        nargs="?",
        choices=["suite", "encoding", "kernels", "compare"],
        default="suite",
        help="suite (default): models on the whole text; encoding: only the CPU cost of a recorded dispatch; "
        "kernels: variants against their references, their times and shares of what the adapter reaches; "
        "compare A B: what differs between two records of kernels",
    )
    parser.add_argument("records", nargs="*", metavar="RECORD", help="two files, with compare")
    parser.add_argument("--output", default="runs/bench", metavar="DIR", help="default runs/bench")
    add_formats(parser, FORMATS, "int4 or int4/64", "; f16 is always among them")
    add(parser, "--quantizer")
    told = "to score (default: the whole text); with kernels: of a call (default 1)"
    add(parser, "--tokens", default=None, help=told)
    add(parser, "--repetitions", default=None, help="of each timing (default 15; 7 with kernels)")
    kernels = parser.add_argument_group("kernels")
    kernels.add_argument(
        "--kernel", nargs="+", metavar="NAME", help="such as linear[int4] (default: linear layers)"
    )
    kernels.add_argument(
        "--shape",
        nargs="+",
        metavar="ROWSxCOLUMNS",
        help="default: those of an 8B Llama on a GPU, 256x256 and 1024x1024 on a CPU",
    )
    kernels.add_argument(
        "--format",
        nargs="+",
        metavar="FORMAT",
        help="only kernels of weights in these, such as f16 int4/128 int4/32 int2/256",
    )
    kernels.add_argument(
        "--block", type=positive, metavar="N", help="columns a scale (default: the format's)"
    )
    told = "of activations, of kernels that take either (default f32)"
    add(kernels, "--dtype", choices=["f32", "f16"], default=None, help=told)
    kernels.add_argument(
        "--size",
        nargs="+",
        metavar="NAME=N",
        help="sizes by name, for kernels that take others than rows and columns",
    )
    kernels.add_argument("--variants", nargs="+", metavar="NAME", help="default: all that a kernel has")
    kernels.add_argument(
        "--compare",
        metavar="PEERS",
        help="time the peers' kernels for the same weights in the same rounds: torch, onnxruntime or both (a,b)",
    )
    parser.add_argument(
        "--json",
        nargs="?",
        const=STDOUT,
        metavar="FILE",
        help="kernels and compare: where the JSON goes, without FILE to stdout in the place of text",
    )

    add_adapter(parser)


def run(arguments: argparse.Namespace) -> int:
    what = arguments.what
    if arguments.records and what != "compare":
        raise WorkbenchError(f"`workbench bench {what}` takes no files; `workbench bench compare A B` does")
    if what != "kernels" and (given := [n for n in KERNEL_OPTIONS if getattr(arguments, n) is not None]):
        raise WorkbenchError(f"--{given[0]} is an option of `workbench bench kernels`")
    if what == "compare":
        return run_compare(arguments)
    repetitions = arguments.repetitions or REPETITIONS[what]
    if what == "kernels":
        return run_kernels(arguments, repetitions)
    if arguments.json is not None:
        raise WorkbenchError("--json is an option of `workbench bench kernels` and `workbench bench compare`")
    return run_models(arguments, repetitions)


def run_models(arguments: argparse.Namespace, repetitions: int) -> int:
    from workbench.assets import demo_model_path
    from workbench.commands.conversions import convert_each
    from workbench.model_bench import suite
    from workbench.show.progress import Console

    console = Console()
    folder = Path(arguments.output) / "models"
    if arguments.what == "encoding":
        model = convert_each(demo_model_path(), folder, ["int4"])["int4"]
        suite.encoding(model, output=arguments.output, console=console)
        return 0
    console.say(f"quantizing the embedded model to {', '.join(arguments.formats)} ({arguments.quantizer})")
    models = convert_each(demo_model_path(), folder, arguments.formats, arguments.quantizer)
    suite.run(
        models,
        output=arguments.output,
        tokens=arguments.tokens,
        repetitions=repetitions,
        console=console,
    )
    return 0


def run_kernels(arguments: argparse.Namespace, rounds: int) -> int:
    from workbench.kernel_bench import kernels
    from workbench.kernel_bench.request import Request, parse_format, parse_shape, parse_size

    request = Request(
        kernels=arguments.kernel,
        tokens=arguments.tokens or 1,
        shapes=parsed("--shape", parse_shape, arguments.shape),
        formats=parsed("--format", parse_format, arguments.format),
        block=arguments.block,
        dtype=arguments.dtype or "f32",
        sizes=dict(parsed("--size", parse_size, arguments.size) or ()),
        variants=arguments.variants,
        peers=arguments.compare.split(",") if arguments.compare else (),
        rounds=rounds,
    )
    to_stdout = arguments.json == STDOUT
    output = None if to_stdout else arguments.json or Path(arguments.output) / "kernels.json"
    found, record = kernels.run(request, output=output)
    print(json.dumps(record, indent=2) if to_stdout else f"\n{kernels.table(found)}", flush=True)
    return 0


def run_compare(arguments: argparse.Namespace) -> int:
    from workbench.files.writing import write_json
    from workbench.kernel_bench import differences

    if len(arguments.records) != 2:
        raise WorkbenchError("`workbench bench compare` takes two records of `workbench bench kernels`")
    found = differences.compare_records(*map(differences.read, arguments.records))
    if arguments.json == STDOUT:
        print(json.dumps(found.to_json(), indent=2))
        return 0
    if arguments.json is not None:
        write_json(Path(arguments.json), found.to_json())
    print(found)
    return 0


def parsed(option: str, parse, texts: list[str] | None) -> list | None:
    """Each text through `parse`, whose ValueError becomes one that names the option; None where none was given."""
    try:
        return [parse(text) for text in texts] if texts else None
    except ValueError as error:
        raise WorkbenchError(f"{option}: {error}") from error
