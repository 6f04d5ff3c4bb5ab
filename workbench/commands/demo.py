"""Quantize a model (default: the one that comes with the project), measure each format, and tell a story."""

from __future__ import annotations

import argparse
from pathlib import Path

from workbench.commands.common import MODEL_HELP, add_adapter, positive
from workbench.quantizers import QUANTIZERS_OF_ONE_MATRIX

FORMATS = ("int8", "int4", "int2")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="DIR_OR_HUB_ID", help=MODEL_HELP)
    parser.add_argument(
        "--formats",
        nargs="+",
        default=list(FORMATS),
        metavar="FORMAT",
        help=f"such as int4 or int4/64 (default {' '.join(FORMATS)}); the model as it is comes first",
    )
    parser.add_argument("--quantizer", choices=QUANTIZERS_OF_ONE_MATRIX, default="rtn", help="default rtn")
    text = parser.add_mutually_exclusive_group()
    text.add_argument(
        "--text", metavar="FILE", help="UTF-8 text (default: stories that come with the project)"
    )
    text.add_argument("--dataset", metavar="NAME", help="a dataset by its short name, such as wikitext2")
    parser.add_argument(
        "--protocol", default="disjoint-512", metavar="NAME", help="how texts are cut (default disjoint-512)"
    )
    parser.add_argument("--output", metavar="DIR", help="default runs/demo, of a --model runs/demo-NAME")
    parser.add_argument(
        "--tokens", type=positive, default=12_000, metavar="N", help="to score (default 12000)"
    )
    parser.add_argument(
        "--repetitions", type=positive, default=5, metavar="N", help="of each timing (default 5)"
    )
    add_adapter(parser)


def run(arguments: argparse.Namespace) -> int:
    from eval.protocols import protocol
    from eval.texts import load_dataset_text, load_text
    from workbench.assets import demo_model_path
    from workbench.commands.conversions import convert_each
    from workbench.model_bench import demo
    from workbench.model_bench.measure import Settings
    from workbench.models.hub import resolve
    from workbench.show.progress import Console

    protocol(arguments.protocol)  # a wrong name should not cost a conversion
    text = load_text(arguments.text) if arguments.text else None
    if arguments.dataset:
        text = load_dataset_text(arguments.dataset)
    name = Path(arguments.model).name if arguments.model else None
    output = Path(arguments.output or (f"runs/demo-{name}" if name else "runs/demo"))
    console = Console()
    console.say(
        f"quantizing {name or 'the embedded model'} to {', '.join(arguments.formats)} ({arguments.quantizer})"
    )
    model = resolve(arguments.model) if arguments.model else demo_model_path()
    models = convert_each(model, output / "models", arguments.formats, arguments.quantizer)
    # Small matrices gain nothing from several threads; those of other models do.
    settings = Settings(
        scheme=arguments.protocol,
        repetitions=arguments.repetitions,
        reference_threads=None if name else 1,
    )
    demo.run(models, output=output, text=text, tokens=arguments.tokens, settings=settings, console=console)
    return 0
