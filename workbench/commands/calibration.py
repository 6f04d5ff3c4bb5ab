"""Arguments of data-driven quantizers, and the options that they stand for."""

from __future__ import annotations

import argparse

from workbench.commands.common import OPTIONS, positive
from workbench.quantizers import QUANTIZERS


def add_calibration(parser: argparse.ArgumentParser) -> None:
    learning = ", ".join(name for name, entry in QUANTIZERS.items() if entry.needs)
    group = parser.add_argument_group(
        "calibration",
        f"The text that some quantizers learn from ({learning}). With the others it only adds each matrix's errors "
        "on that text to the provenance.",
    )
    group.add_argument(
        "--calibration",
        metavar="TEXT",
        help="a UTF-8 file, or the embedded text 'calibration' (the default of quantizers that need one)",
    )
    group.add_argument(
        "--calibration-windows", type=positive, metavar="N", help="so many windows of it (128)"
    )
    group.add_argument(
        "--calibration-length",
        type=positive,
        metavar="N",
        help="tokens a window (2048, at most the model's context)",
    )
    group.add_argument("--calibration-separator", **OPTIONS["--separator"])
    group.add_argument("--calibration-seed", type=int, metavar="N", help="of the draw of windows (0)")
    group.add_argument(
        "--calibration-inputs",
        choices=["quantized", "float"],
        default="quantized",
        help="what a layer is given: what the quantized layers before it produce (default), or the unquantized",
    )
    group.add_argument("--steps", type=positive, metavar="N", help="of quantizers that train, for each layer")
    group.add_argument("--device", default="cpu", help="where it runs, as torch names it: cpu, cuda, cuda:1")


def calibration_from(arguments: argparse.Namespace, quantizer: str):
    """CalibrationOptions, or None where nothing asks for calibration; raises WorkbenchError."""
    from workbench.convert.calibration import CalibrationOptions
    from workbench.errors import WorkbenchError

    named = {
        "text": arguments.calibration,
        "windows": arguments.calibration_windows,
        "length": arguments.calibration_length,
        "separator": arguments.calibration_separator,
        "seed": arguments.calibration_seed,
    }
    given = {name: value for name, value in named.items() if value is not None}
    if arguments.calibration is None and not QUANTIZERS[quantizer].needs:
        if given:
            names = ", ".join(f"--calibration-{name}" for name in given)
            raise WorkbenchError(
                f"{names}: {quantizer} takes no calibration unless --calibration names a text"
            )
        return None
    return CalibrationOptions(**given)
