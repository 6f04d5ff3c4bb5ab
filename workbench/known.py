"""Values that may be None by their type, where the code around them makes sure that they are not."""

from __future__ import annotations

from typing import TypeVar

T = TypeVar("T")


def known(value: T | None) -> T:
    """The value itself. Raises `AssertionError` for None, which is then a mistake of the caller."""
    assert value is not None, "a value that must be there is None"
    return value
