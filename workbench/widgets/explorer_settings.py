"""What can be chosen on a side of the explorer: bits, blocks, and the quantizers that a source allows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from workbench.errors import UnsupportedModelError, WorkbenchError
from workbench.formats.spec import WeightFormat
from workbench.quantizers import QUANTIZERS
from workbench.studies.matrices import Matrices
from workbench.studies.weight_error import FROM_HESSIAN

from .matrix_inputs import MOST, MatrixInputs

DEFAULTS = {"bits": 4, "block": 128, "quantizer": "rtn", "symmetric": False}


def format_of(settings: Mapping[str, Any]) -> WeightFormat:
    """The format of a side's settings: bits 2, 4 or 8; block a size, "channel" or "tensor"; symmetric."""
    block = settings["block"]
    if isinstance(block, bool) or not isinstance(block, int | str):
        raise WorkbenchError(f"block = {block!r}; allowed: a multiple of 32, 'channel', 'tensor'")
    kind: dict[str, Any] = {"granularity": block} if isinstance(block, str) else {"block_size": block}
    return WeightFormat(f"int{settings['bits']}", symmetric=bool(settings["symmetric"]), **kind)


def given(side: str, settings: Any) -> dict[str, Any]:
    """Settings that a user gave for a side, perhaps in part or none; WorkbenchError for anything but a dict."""
    if settings is not None and not isinstance(settings, Mapping):
        raise WorkbenchError(f"{side}: settings are a dict of {', '.join(DEFAULTS)}, not {settings!r}")
    return dict(settings or {})


def inputs_of(matrices: Matrices) -> MatrixInputs | None:
    """What can tell the inputs of the matrices; None for arrays without a model, for models that cannot be run, and for
    those that would take too much memory."""
    if matrices.source is None:
        return None
    try:
        inputs = MatrixInputs(matrices.source)
    except UnsupportedModelError:
        return None
    return inputs if inputs.nbytes <= MOST else None


def offered(inputs: MatrixInputs | None) -> list[str]:
    """Quantizers of one matrix that have all they need. AWQ's scales belong to a layer, not to a matrix."""
    known = FROM_HESSIAN if inputs is not None else frozenset()
    return [name for name, each in QUANTIZERS.items() if each.able(known) and not each.folds]


def check(settings: Mapping[str, Any], quantizers: Iterable[str]) -> None:
    """Raise WorkbenchError or FormatError for settings that mean nothing, or that these quantizers do not take."""
    if unknown := set(settings) - set(DEFAULTS):
        raise WorkbenchError(f"no setting {sorted(unknown)}; there are {', '.join(DEFAULTS)}")
    name, format = settings["quantizer"], format_of(settings)
    if not isinstance(name, str) or name not in quantizers:
        why = f"no quantizer {name!r}"
        if isinstance(name, str) and name in QUANTIZERS and QUANTIZERS[name].able(FROM_HESSIAN):
            why = f"{name} needs the inputs of its matrix, which are not available here"
        elif isinstance(name, str) and name in QUANTIZERS:
            why = f"{name} changes a whole layer (`workbench quantize --quantizer {name}`), not one matrix"
        raise WorkbenchError(f"{why}; there are {', '.join(quantizers)}")
    if QUANTIZERS[name].zero_points and format.symmetric:
        raise WorkbenchError(
            f"{name} optimises zero-points, and a symmetric format has none; allowed: symmetric = False"
        )
