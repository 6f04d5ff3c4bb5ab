"""Compare quantizers on the embedded model: every method in every format, paired with the unquantized model."""

from __future__ import annotations

import argparse
from pathlib import Path

from workbench.commands.calibration import add_calibration, calibration_from
from workbench.commands.common import add, add_errors, add_formats
from workbench.commands.output import add_output, answer

FORMATS = ("int8", "int4", "int4/32", "int2")


EXAMPLES = (
    "quantizers",
    "quantizers --formats int4/64 int2/64 --quantizers rtn hqq --tokens 4000",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from workbench.quantizers import QUANTIZERS

    parser.add_argument("--output", default="runs/quantizers", metavar="DIR", help="default runs/quantizers")
    add_formats(parser, FORMATS, "int4/64 or int2/z5")
    parser.add_argument(
        "--quantizers", nargs="+", default=list(QUANTIZERS), choices=list(QUANTIZERS), help="default: all"
    )
    parser.add_argument(
        "--keep-embedding", action="store_true", help="leave the embedding, here also the LM head, in f16"
    )
    add(parser, "--tokens")
    add_calibration(parser)
    add_errors(parser)
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    from workbench.assets import demo_model_path
    from workbench.model_bench.demo import evaluation_tokens, windows_for
    from workbench.model_bench.measure import Settings
    from workbench.model_bench.quantizers import Cell, measure_quantizers, record, save
    from workbench.show.progress import Console

    console, folder = Console(), Path(arguments.output)
    embedding = "f16" if arguments.keep_embedding else None
    settings = windows_for(Settings(), arguments.tokens)
    tokens = evaluation_tokens(demo_model_path(), settings.scheme)
    measured = []
    for form in arguments.formats:
        cells = []
        for quantizer in arguments.quantizers:
            cell = Cell(
                form, quantizer, embedding, folder / "models" / _folder_name(form, quantizer, embedding)
            )
            console.say(f"quantizing the embedded model: {cell.name}")
            _convert(cell, arguments)
            cells.append(cell)
        baseline, found = measure_quantizers(cells, demo_model_path(), tokens, settings, progress=console)
        measured += found
        table = save(baseline, measured, folder)  # after each format, so that nothing waits for the last
    answer(arguments, f"\n{table}", lambda: record(baseline, measured))
    console.say(f"saved in {folder}")
    return 0


def _folder_name(form: str, quantizer: str, embedding: str | None) -> str:
    kept = f"-{embedding}-embedding" if embedding else ""
    return f"{form.replace('/', '-')}-{quantizer}{kept}"


def _convert(cell, arguments: argparse.Namespace) -> None:
    """Convert the embedded model, unless the folder holds just that conversion already."""
    from workbench.assets import demo_model_path
    from workbench.convert.convert import convert
    from workbench.convert.options import ConvertOptions
    from workbench.formats.reader import StoredModel
    from workbench.formats.text import parse_format
    from workbench.quantizers import QUANTIZERS

    options = ConvertOptions(
        parse_format(cell.format),
        quantizer=cell.quantizer,
        embedding=parse_format(cell.embedding) if cell.embedding else None,
        calibration=calibration_from(arguments, cell.quantizer) if QUANTIZERS[cell.quantizer].needs else None,
        calibration_inputs=arguments.calibration_inputs,
        steps=arguments.steps if QUANTIZERS[cell.quantizer].trains else None,
        device=arguments.device,
        overwrite=True,
    )
    if (cell.model / "manifest.json").is_file():
        there = StoredModel.open(cell.model).manifest["provenance"]
        if (there["quantizer"], there["options"]) == (options.quantizer, options.to_json()):
            return
    convert(demo_model_path(), cell.model, options, progress=True)
