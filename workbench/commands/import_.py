"""Take a model over as it is: others' quantized weights into a model folder, integers bit for bit where possible."""

from __future__ import annotations

import argparse

from workbench.commands.common import MODEL_HELP
from workbench.commands.output import add_output

FLOATS = ("f32", "f16", "bf16")


EXAMPLES = (
    "import model.gguf OUT",
    "import owner/name-GPTQ OUT --floats f16",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="DIR_OR_HUB_ID", help=MODEL_HELP)
    parser.add_argument("output", metavar="OUT", help="folder to make")
    parser.add_argument(
        "--floats",
        choices=FLOATS,
        help="store matrices that cannot be kept as integers so (default: as they come, f32 where dequantized)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output folder")
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    from workbench.commands.conversions import check_output, print_summary
    from workbench.convert.imported import import_model

    check_output(arguments.output, arguments.overwrite)
    print_summary(
        arguments,
        import_model(
            arguments.model,
            arguments.output,
            floats=arguments.floats,
            overwrite=arguments.overwrite,
            progress=not arguments.quiet,
        ),
    )
    return 0
