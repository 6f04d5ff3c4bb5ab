"""A model and conversions of it, for the commands that measure what formats cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def convert_each(
    model: Path, folder: Path, formats: Sequence[str], quantizer: str = "rtn"
) -> dict[str, Path]:
    """Convert a checkpoint anew into `folder`/NAME for each format; folders by name, its own dtype and folder first.

    formats: as `workbench.convert.options.parse_format` reads them, such as "int4" or "int4/64". Raises
    WorkbenchError and FormatError for what is no format.
    """
    from workbench.convert.convert import convert
    from workbench.convert.options import ConvertOptions, parse_format
    from workbench.models.families import architecture_of
    from workbench.models.source import open_source

    chosen = {name: parse_format(name) for name in formats}
    source = open_source(model)
    own = source.describe(architecture_of(source.config).embedding)[1].dtype
    models = {own: model}
    for name, spec in chosen.items():
        if name == own:
            continue
        models[name] = folder / name.replace("/", "-")
        convert(model, models[name], ConvertOptions(spec, quantizer=quantizer, overwrite=True))
    return models
