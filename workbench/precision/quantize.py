"""`workbench.quantize`: from a checkpoint to a quantized model that is ready to run."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eval.advice import advise
from workbench.convert.calibration import CalibrationOptions
from workbench.convert.convert import convert
from workbench.convert.options import ConvertOptions
from workbench.convert.suited import padding
from workbench.errors import WorkbenchError
from workbench.formats.spec import WeightFormat
from workbench.formats.text import as_format
from workbench.models.source import open_source
from workbench.runtime.loading import load
from workbench.runtime.model import Model

from .allocation import Allocation


def quantize(  # many parameters: what a conversion is asked to do, by the names that users know
    model: Any,
    format: str | WeightFormat | Allocation = "int4",
    *,
    quantizer: str | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    calibration: str | CalibrationOptions | None = None,
    overrides: Mapping[str, str | WeightFormat] | None = None,
    options: Mapping[str, Any] | None = None,
    execution: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Model:
    """Quantize a checkpoint and load the result.

        m = workbench.quantize("DIR", "int4/128", quantizer="gptq", output="OUT")
        "".join(m.generate("Once upon a time", max_new_tokens=40))

    model: a checkpoint as `workbench.load` takes it, or a Model of one. format: of every matrix, as `--set` takes it
    ("int8", "int4/64", "int2/256/z5"), or what `workbench.allocate` found, a format for each. quantizer: a name of
    docs/quantizers.md, by default "rtn", or the one an allocation was measured with. output: the folder to make;
    without one the model lies in a temporary folder for as long as the returned Model lives. calibration: a file or
    "calibration", or CalibrationOptions, for quantizers that learn from a text. overrides: name pattern -> format.
    options: further fields of `workbench.convert.options.ConvertOptions` by name, execution: options of
    `workbench.load`.

    Raises WorkbenchError for options that do not fit, an output that exists, and an allocation of another model;
    FormatError for a format that does not exist; and what `convert` and `load` raise.
    """
    source: Any = model.source if isinstance(model, Model) else open_source(model)
    if unknown := set(options or ()) - set(ConvertOptions.__dataclass_fields__):
        allowed = ", ".join(ConvertOptions.__dataclass_fields__)
        raise WorkbenchError(f"quantize: options hold {min(unknown)!r}; allowed: {allowed}")
    asked: dict[str, Any] = {**(options or {}), "overwrite": overwrite}
    asked["overrides"] = {pattern: as_format(each) for pattern, each in (overrides or {}).items()}
    if quantizer is not None:
        asked["quantizer"] = quantizer
    if calibration is not None:
        given = isinstance(calibration, CalibrationOptions)
        asked["calibration"] = calibration if given else CalibrationOptions(str(calibration))
    if isinstance(format, Allocation):
        format.check_source(source)
    chosen = _options(format, asked)
    kept = tempfile.TemporaryDirectory(prefix="workbench-") if output is None else None
    folder = Path(output or "") if kept is None else Path(kept.name) / f"{source.path.name}-{_name(format)}"
    try:
        advise(padding(convert(source, folder, chosen, progress=progress).notes))
        made = load(folder, **dict[str, Any](execution or {}))
    except BaseException:
        if kept is not None:
            kept.cleanup()
        raise
    if kept is not None:
        weakref.finalize(made, kept.cleanup)
    return made


def _options(format: Any, asked: dict[str, Any]) -> ConvertOptions:
    if isinstance(format, Allocation):
        return format.options(**asked)
    return ConvertOptions(as_format(format), **asked)


def _name(format: Any) -> str:
    return "allocation" if isinstance(format, Allocation) else str(format).replace("/", "-")
