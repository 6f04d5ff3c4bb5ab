"""Write a folder for any web server in which a converted model, or two beside each other, runs in the browser."""

from __future__ import annotations

import argparse

from workbench.commands.common import MODEL_HELP, add
from workbench.commands.output import add_output, answer

EXAMPLES = (
    "page OUT site",
    "page OUT site --beside OTHER --certificate",
    "page OUT site --activations int8 f32",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="DIR", help=MODEL_HELP)
    parser.add_argument("output", metavar="OUT", help="folder to make")
    parser.add_argument(
        "--beside",
        metavar="DIR",
        help="a second model with the same tokenizer: both continue a prompt or read a text, with KL by token",
    )
    add(parser, "--activations")
    add(parser, "--max-tokens", default=2048, help="positions of the cache (default 2048)")
    parser.add_argument(
        "--certificate", action="store_true", help="with a page beside it that certifies its reader's adapter"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a page that is there")
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    from workbench.browser.page import write_page
    from workbench.show.progress import Console

    done = write_page(
        arguments.model,
        arguments.output,
        beside=arguments.beside,
        activations=arguments.activations,
        max_tokens=arguments.max_tokens,
        certificate=arguments.certificate,
        overwrite=arguments.overwrite,
        progress=Console(),
    )
    told = (
        f"{done.nbytes / 1e6:.1f} MB: {done.path}; serve it with any web server, e.g. python -m http.server"
    )
    answer(arguments, told, {"path": str(done.path), "bytes": done.nbytes})
    return 0
