"""Conversions of the embedded model, for the commands that measure it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def convert_embedded(folder: Path, formats: Sequence[str], quantizer: str = "rtn") -> dict[str, Path]:
    """Convert the embedded model anew into `folder`/NAME for each format; folders by name, "f16" the model itself.

    formats: as `workbench.convert.options.parse_format` reads them, such as "int4" or "int4/64". Raises
    WorkbenchError and FormatError for what is no format.
    """
    from workbench.assets import demo_model_path
    from workbench.convert.convert import convert
    from workbench.convert.options import ConvertOptions, parse_format

    chosen = {name: parse_format(name) for name in formats}
    models = {"f16": demo_model_path()}
    for name, spec in chosen.items():
        if name == "f16":
            continue
        models[name] = folder / name.replace("/", "-")
        convert(demo_model_path(), models[name], ConvertOptions(spec, quantizer=quantizer, overwrite=True))
    return models
