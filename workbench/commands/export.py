"""Write a model in somebody else's layout, exactly: hf, gguf, gptq, compressed-tensors or onnx."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.commands.common import MODEL_HELP
from workbench.commands.output import add_output, answer
from workbench.models.foreign import TARGETS

if TYPE_CHECKING:
    from workbench.models.source import Source

EXAMPLES = (
    "export OUT model.gguf --to gguf",
    "export OUT folder --to onnx --activations int8",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="DIR_OR_HUB_ID", help=MODEL_HELP)
    parser.add_argument("output", metavar="OUT", help="folder to make; a file for gguf")
    parser.add_argument("--to", required=True, choices=TARGETS, help="the layout")
    parser.add_argument(
        "--floats",
        choices=("f32", "f16", "bf16"),
        help="round what is not packed to this type (default: nothing is rounded; integers become f32)",
    )
    parser.add_argument(
        "--activations",
        choices=("f32", "int8"),
        default="f32",
        help="what products with integers are asked to compute with, of onnx alone (default: %(default)s)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    from workbench.errors import OutputExistsError, WorkbenchError
    from workbench.models.foreign.export import export
    from workbench.models.source import open_source

    source = open_source(arguments.model)
    try:
        written = export(
            source,
            arguments.to,
            arguments.output,
            floats=arguments.floats,
            activations=arguments.activations,
            overwrite=arguments.overwrite,
        )
    except OutputExistsError as error:
        instead = f"{error.path} exists; --overwrite replaces it" if error.path else str(error)
        raise WorkbenchError(instead) from error
    answer(arguments, *_made(source, arguments, written))
    return 0


def _made(source: Source, arguments: argparse.Namespace, written: list[str]) -> tuple[str, dict[str, Any]]:
    """What was made, as text and as JSON; of gguf with its types. Says on stderr which matrices it widens."""
    from workbench.models.foreign.export_gguf import types_of, widened

    output, made = Path(arguments.output), {"path": arguments.output, "files": list(written)}
    if arguments.to != "gguf":
        nbytes = sum((output / name).stat().st_size for name in written)
        return f"{output}: {', '.join(written)}, {nbytes / 1e6:.1f} MB", {**made, "bytes": nbytes}
    nbytes, types = output.stat().st_size, types_of(source, arguments.floats)
    if said := widened(source, types):
        print(f"note: {said}", file=sys.stderr)
    counts = dict(Counter(types.values()))
    counted = ", ".join(f"{count} {name}" for name, count in counts.items())
    return f"{output}: {counted}, {nbytes / 1e6:.1f} MB", {**made, "bytes": nbytes, "types": counts}
