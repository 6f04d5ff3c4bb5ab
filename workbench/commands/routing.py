"""Compare where the tokens of mixtures of experts go: which share goes to other experts after quantization."""

from __future__ import annotations

import argparse

from workbench.commands.common import add, add_adapter, add_text, positive
from workbench.commands.compare_models import add_models, named
from workbench.commands.output import add_output, answer, check_folder

EXAMPLES = (
    "routing int4 int2 --baseline DIR --text FILE --protocol disjoint-512",
    "routing int4 --baseline DIR --dataset wikitext2 --protocol disjoint-512 --plot flips.pdf",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_models(parser, "; it runs in f32")
    add_text(parser)
    parser.add_argument("--windows", type=positive, metavar="N", help="read only the first N windows")
    add(parser, "--backend", "--dtype", "--cache")
    add_adapter(parser)
    parser.add_argument("--plot", metavar="FILE", help="flips by layer and by margin: .png, .svg or .pdf")
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    from eval.protocols import protocol
    from eval.texts import load_dataset_text, load_text
    from workbench.studies.routing import routing

    protocol(arguments.protocol)  # a wrong name should not cost a minute
    if arguments.plot:
        check_folder(arguments.plot)
    models = named([arguments.baseline, *arguments.models])
    found = routing(
        models,
        load_text(arguments.text) if arguments.text else load_dataset_text(arguments.dataset),
        arguments.protocol,
        baseline=next(iter(models)),
        separator=arguments.separator,
        max_windows=arguments.windows,
        backend=arguments.backend,
        dtype=arguments.dtype,
        cache=arguments.cache,
        progress=not arguments.quiet,
    )
    answer(arguments, found, found.to_json)
    if arguments.plot:
        found.plot().save(arguments.plot)
    return 0
