"""Formats as text: what `str(WeightFormat)` writes, and people on the command line."""

from __future__ import annotations

import re
from typing import Any

from workbench.errors import WorkbenchError

from .spec import WeightFormat


def parse_format(text: str) -> WeightFormat:
    """The inverse of `str(WeightFormat)`: "f16", "int4", "int4/64", "int8/channel/sym", "int2/256/z5/f32".

    Raises WorkbenchError for a part that means nothing, FormatError for a combination that is not allowed.
    """
    dtype, given = format_parts(text)
    return WeightFormat(dtype, **given)


def as_format(given: str | WeightFormat) -> WeightFormat:
    """A format that is given whole or as `parse_format` reads it."""
    return given if isinstance(given, WeightFormat) else parse_format(given)


def format_parts(text: str) -> tuple[str, dict[str, Any]]:
    """The dtype, and the other fields of `WeightFormat` that a text names. Raises WorkbenchError as `parse_format`."""
    dtype, *parts = text.strip().split("/")
    given: dict[str, Any] = {}
    for part in parts:
        if part.isdecimal():
            given["block_size"] = int(part)
        elif part in ("block", "channel", "tensor"):
            given["granularity"] = part
        elif part == "sym":
            given["symmetric"] = True
        elif part == "offset":
            given["offset"] = True
        elif re.fullmatch(r"z\d", part):
            given["zero_frac_bits"] = int(part[1:])
        elif part in ("f16", "f32"):
            given["scale_dtype"] = part
        elif part in ("low-first", "high-first"):
            given["order"] = part
        else:
            raise WorkbenchError(
                f"format {text!r}: {part!r} means nothing; allowed after the dtype, behind a '/': a block "
                "size, channel, tensor, sym, offset, zN (fraction bits of zero-points), f16, f32 (scales), high-first"
            )
    return dtype, given
