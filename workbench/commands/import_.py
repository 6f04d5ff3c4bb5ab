"""Take a model over as it is: others' quantized weights into a model folder, integers bit for bit where possible."""

from __future__ import annotations

import argparse

from workbench.commands.common import MODEL_HELP

FLOATS = ("f32", "f16", "bf16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="DIR_OR_HUB_ID", help=MODEL_HELP)
    parser.add_argument("output", metavar="OUT", help="folder to make")
    parser.add_argument(
        "--floats",
        choices=FLOATS,
        help="store matrices that cannot be kept as integers so (default: as they come, f32 where dequantized)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output folder")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(arguments: argparse.Namespace) -> int:
    from workbench.commands.conversions import check_output, print_summary
    from workbench.convert.imported import import_model

    check_output(arguments.output, arguments.overwrite)
    print_summary(
        import_model(
            arguments.model,
            arguments.output,
            floats=arguments.floats,
            overwrite=arguments.overwrite,
            progress=not arguments.quiet,
        )
    )
    return 0
