"""Convert a checkpoint into a quantized (or f16, bf16, f32) model folder."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from workbench.commands.calibration import add_calibration, calibration_from
from workbench.commands.common import add, add_adapter, size
from workbench.commands.output import add_output
from workbench.commands.precision import allocated_options, fitted_options

FLOATS = ("f32", "f16", "bf16")
DTYPES = ("int8", "int4", "int2", *FLOATS)
# Options of quantized formats alone: argument -> field of WeightFormat. None means "not given".
QUANTIZED = ("block_size", "granularity", "symmetric", "scale_dtype", "zero_frac_bits", "order")


EXAMPLES = (
    "quantize --model DIR_OR_HUB_ID --format int4 --output OUT",
    "quantize --model DIR --format int2 --block-size 64 --quantizer gptq --calibration FILE --output OUT",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from workbench.quantizers import QUANTIZERS

    parser.add_argument(
        "--model",
        "--input-dir",
        required=True,
        metavar="DIR_OR_HUB_ID",
        help="checkpoint: a folder with config.json and safetensors, owner/name[@revision] on the hub, or a name that "
        "`workbench models` lists",
    )
    parser.add_argument("--output", "--output-dir", required=True, metavar="DIR", help="folder to make")
    precision = parser.add_mutually_exclusive_group(required=True)
    precision.add_argument(
        "--format",
        metavar="FORMAT",
        help=f"of every weight matrix, embedding and LM head too: {', '.join(DTYPES)}; also whole, such as int4/64 or "
        "int8/channel/sym",
    )
    precision.add_argument(
        "--precision", metavar="FILE", help="a format for each matrix, from `workbench allocate`"
    )
    precision.add_argument(
        "--fit-memory",
        type=size,
        metavar="SIZE",
        help="the highest of 16 bits, int8, int4 and int2 whose forecast (weights, cache, activations) fits, "
        "such as 2GB",
    )
    add(parser, "--max-tokens", help="positions of the cache that --fit-memory counts")
    parser.add_argument(
        "--block-size", type=int, metavar="N", help="weights a scale, a multiple of 32 (128; int2: 256)"
    )
    parser.add_argument("--granularity", choices=["tensor", "channel", "block"], help="default block")
    add(
        parser,
        "--quantizer",
        choices=list(QUANTIZERS),
        default=None,
        help="default rtn (round to nearest), with --precision the one that it was measured with; "
        "docs/quantizers.md has what each one is worth",
    )
    parser.add_argument("--symmetric", action="store_true", default=None, help="store no zero-points")
    parser.add_argument("--scale-dtype", choices=["f16", "f32"], help="default f16")
    parser.add_argument(
        "--zero-frac-bits",
        type=int,
        metavar="N",
        help="fraction bits of zero-points (0; int4 takes 3, int2 5)",
    )
    parser.add_argument("--order", choices=["low-first", "high-first"], help="packing order within a byte")
    parser.add_argument(
        "--layout", choices=["planar", "interleaved"], default="planar", help="interleaved is for exchange"
    )
    for name, what in (("embedding", "embedding"), ("lm-head", "LM head")):
        parser.add_argument(
            f"--keep-{name}",
            nargs="?",
            const="f16",
            choices=FLOATS,
            help=f"store the {what} as a float (f16)",
        )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PATTERN=FORMAT",
        help="a format for matrices by their name in the plan or the checkpoint, such as "
        "'layers.*.mlp.down_proj=int8' or 'embedding=f16'; goes before everything else; repeatable",
    )
    add(
        parser,
        "--lora",
        help="an adapter as PEFT saves it, merged into the weights before they are quantized",
    )
    add_calibration(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output folder")
    add_adapter(parser, "the WebGPU adapter whose limits --fit-memory counts with")
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    from workbench.commands.conversions import check_output, print_summary
    from workbench.convert.convert import convert
    from workbench.models.adapted import merged

    check_output(arguments.output, arguments.overwrite)
    options = options_from(arguments)
    source = merged(arguments.model, arguments.lora) if arguments.lora else arguments.model
    print_summary(arguments, convert(source, arguments.output, options, progress=not arguments.quiet))
    return 0


def options_from(arguments: argparse.Namespace):
    """ConvertOptions from the arguments; raises WorkbenchError or FormatError naming what is wrong."""
    from workbench.convert.options import ConvertOptions
    from workbench.errors import WorkbenchError
    from workbench.formats.spec import WeightFormat
    from workbench.formats.text import format_parts, parse_format

    given = {name: getattr(arguments, name) for name in QUANTIZED if getattr(arguments, name) is not None}
    dtype, said = format_parts(arguments.format or "")
    if arguments.format is not None and dtype not in DTYPES:
        raise WorkbenchError(f"--format {arguments.format}: {dtype!r} is not one of {', '.join(DTYPES)}")
    if dtype in FLOATS and given:
        raise WorkbenchError(f"{_options(given)}: nothing that {dtype} has")
    if twice := said.keys() & given.keys():
        raise WorkbenchError(
            f"--format {arguments.format} and {_options(sorted(twice))} say the same thing: give one"
        )
    overrides = {}
    for text in arguments.set:
        pattern, equals, form = text.rpartition("=")
        if not equals or not pattern:
            raise WorkbenchError(f"--set {text!r}: expected PATTERN=FORMAT, such as 'layers.*.mlp.*=int8/64'")
        overrides[pattern] = parse_format(form)
    common = {
        "quantizer": arguments.quantizer,
        "embedding": WeightFormat(arguments.keep_embedding) if arguments.keep_embedding else None,
        "lm_head": WeightFormat(arguments.keep_lm_head) if arguments.keep_lm_head else None,
        "overrides": overrides,
        "layout": arguments.layout,
        "overwrite": arguments.overwrite,
        "calibration": calibration_from(arguments, arguments.quantizer or "rtn"),
        "calibration_inputs": arguments.calibration_inputs,
        "steps": arguments.steps,
        "device": arguments.device,
    }
    common = {name: value for name, value in common.items() if value is not None}
    if arguments.max_tokens and not arguments.fit_memory:
        raise WorkbenchError("--max-tokens: counts in --fit-memory alone")
    if arguments.precision:
        return allocated_options(arguments, given, common)
    if arguments.fit_memory:
        return fitted_options(arguments, given, common)
    return ConvertOptions(format=WeightFormat(dtype, **said, **given), **common)


def _options(fields: Iterable[str]) -> str:
    return ", ".join("--" + name.replace("_", "-") for name in fields)
