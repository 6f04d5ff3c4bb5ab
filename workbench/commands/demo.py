"""Quantize a model (default: the one that comes with the project), measure each format, and tell a story."""

from __future__ import annotations

import argparse
from pathlib import Path

from workbench.commands.common import add, add_adapter, add_errors, add_formats
from workbench.commands.output import add_output, answer

FORMATS = ("int8", "int4", "int2")


EXAMPLES = (
    "demo",
    "demo --model DIR_OR_HUB_ID --text FILE --formats int8 int4/64",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add(parser, "--model")
    add_formats(parser, FORMATS, "int4 or int4/64", "; the model as it is comes first")
    add(parser, "--quantizer")
    text = parser.add_mutually_exclusive_group()
    add(text, "--text", help="UTF-8 text (default: stories that come with the project)")
    add(text, "--dataset")
    add(parser, "--protocol")
    parser.add_argument("--output", metavar="DIR", help="default runs/demo, of a --model runs/demo-NAME")
    add(parser, "--tokens", "--repetitions")
    add_adapter(parser)
    add_errors(parser)
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    from eval.protocols import protocol
    from eval.texts import load_dataset_text, load_text
    from workbench.assets import demo_model_path
    from workbench.commands.conversions import convert_each
    from workbench.model_bench import demo
    from workbench.model_bench.measure import Settings
    from workbench.model_bench.records import record
    from workbench.model_bench.tour import PAGE
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
    found = demo.run(
        models, output=output, text=text, tokens=arguments.tokens, settings=settings, console=console
    )
    answer(arguments, f"All of it on a page: {output / PAGE}", lambda: record(found, story=demo.STORY))
    return 0
