"""Taking a model over as it is: every matrix in the format that its source gives it.

Integers, scales and zero-points of somebody's quantization stay bit for bit where a format holds them; what has none is
stored as floats. It is a conversion like any other, whose formats are the source's own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from workbench.convert.convert import ConversionSummary, convert
from workbench.convert.options import ConvertOptions
from workbench.formats.spec import WeightFormat
from workbench.models.source import open_source


def import_model(
    source: Any,
    output: str | Path,
    *,
    floats: str | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> ConversionSummary:
    """Store a source's tensors in the folder `output`.

    floats: "f32", "f16" or "bf16" for matrices that are no integers; None for what the source gives them as, which
    rounds nothing. Raises what opening the source and `convert` raise.
    """
    opened = open_source(source)
    own = {name: opened.describe(name) for name in opened.names()}
    formats = {name: fmt for name, (shape, fmt) in own.items() if len(shape) == 2}
    if floats is not None:
        formats = {name: fmt if fmt.is_quantized else WeightFormat(floats) for name, fmt in formats.items()}
    options = ConvertOptions(
        WeightFormat("f32"),
        overrides=formats,
        reasons=dict.fromkeys(formats, "as in the source"),
        overwrite=overwrite,
    )
    return convert(opened, output, options, progress=progress)
