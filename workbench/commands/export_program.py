"""Write the programs that a page needs to run a converted model without Python."""

from __future__ import annotations

import argparse

from workbench.commands.common import MODEL_HELP, add
from workbench.commands.output import add_output, answer

EXAMPLES = (
    "export-program OUT programs",
    "export-program OUT programs --max-tokens 4096 --overwrite",
    "export-program OUT programs --activations f32",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="DIR", help=MODEL_HELP)
    parser.add_argument("output", metavar="OUT", help="folder to make")
    parser.add_argument(
        "--limits",
        choices=("browser",),
        default="browser",
        help="what devices are known to grant: browser (default) is what WebGPU promises",
    )
    add(parser, "--activations")
    add(parser, "--max-tokens", default=2048, help="positions of the cache (default 2048)")
    parser.add_argument("--overwrite", action="store_true", help="replace programs that are there")
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    from workbench.models.source import open_source
    from workbench.runtime.export import export_programs
    from workbench.show.progress import Console

    done = export_programs(
        open_source(arguments.model),
        arguments.output,
        limits=arguments.limits,
        max_tokens=arguments.max_tokens,
        types=arguments.activations,
        overwrite=arguments.overwrite,
        progress=Console().steps("programs", "program"),
    )
    made = {"path": str(done.path), "programs": done.programs, "bytes": done.nbytes}
    answer(arguments, f"{done.programs} programs, {done.nbytes / 1e6:.1f} MB: {done.path}", made)
    return 0
