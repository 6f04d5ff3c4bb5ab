"""Which library files multiply integer weights with INT8 activations."""

from __future__ import annotations

from ..pair import Context
from ..weights import scale_library


def packed_library(fmt: str, context: Context) -> tuple[str, ...]:
    """The header files that read weights as bytes, and their scales."""
    return f"packed/{fmt}", *scale_library(context)


def wide_int2(context: Context, groups: int) -> bool:
    """Whether INT2 is read 64 columns at once: blocks and rows of `groups` times 32 are whole numbers of them."""
    return context["block"] % 64 == 0 and groups % 2 == 0


def integer_pieces(fmt: str, context: Context, groups: int) -> tuple[str, ...]:
    """The header files that multiply pieces of a row of `groups` times 32 columns, over any source of activations.

    A piece is 32 columns, of INT2 64 where they divide all (`wide_int2`).
    """
    if fmt == "int2" and wide_int2(context, groups):
        return *scale_library(context), "pieces/a8_int2"
    return *packed_library(fmt, context), "pieces/a8"
