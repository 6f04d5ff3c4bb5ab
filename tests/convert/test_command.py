"""What the arguments of `workbench quantize` stand for."""

from __future__ import annotations

import pytest

from workbench.cli import build_parser
from workbench.commands.quantize import options_from
from workbench.convert.calibration import CalibrationOptions
from workbench.errors import WorkbenchError
from workbench.quantizers import QUANTIZERS


def options(arguments: str):
    common = ["quantize", "--model", "m", "--output", "o", "--format", "int4"]
    return options_from(build_parser().parse_args([*common, *arguments.split()]))


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_every_method_has_a_name_on_the_command_line(quantizer):
    found = options(f"--quantizer {quantizer}")
    assert found.quantizer == quantizer
    assert found.calibration == (CalibrationOptions() if QUANTIZERS[quantizer].needs else None)


def test_calibration_is_read():
    found = options(
        "--quantizer trained --calibration text.txt --calibration-windows 7 --calibration-length 64 "
        "--calibration-separator <s> --calibration-seed 3 --calibration-inputs float --steps 50 --device cuda"
    )
    assert found.calibration == CalibrationOptions("text.txt", 7, 64, "<s>", 3)
    assert (found.calibration_inputs, found.steps, found.device) == ("float", 50, "cuda")
    assert options("--quantizer gptq --calibration-windows 7").calibration == CalibrationOptions(windows=7)
    assert options("--quantizer rtn --calibration calibration").calibration == CalibrationOptions()


def test_what_means_nothing_is_refused():
    with pytest.raises(
        WorkbenchError, match="--calibration-windows, --calibration-seed: rtn takes no calibration"
    ):
        options("--calibration-windows 7 --calibration-seed 1")
    with pytest.raises(WorkbenchError, match="steps are of quantizers that train"):
        options("--quantizer gptq --steps 5")
