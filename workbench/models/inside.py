"""What is in a model's files, tensor by tensor: how each is stored, and what it is here. For people."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from workbench.formats.reader import StoredModel
from workbench.models.foreign.gguf_file import open_gguf
from workbench.models.source import Source

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


class Row(NamedTuple):
    """A tensor, or those of several layers that are alike. there: as the file stores it; here: as it is read."""

    name: str
    shape: tuple[int, ...]
    there: str
    here: str


def tensors(source: Source) -> list[Row]:
    """A source's tensors; layers that are alike are one row."""
    rows = []
    for name in source.names():
        shape, fmt = source.describe(name)
        rows.append(Row(name, tuple(shape), _stored_as(source, name), str(fmt)))
    return _together(rows)


def inside(source: Source) -> str:
    """A table of `tensors`."""
    return _table(tensors(source))


def inside_gguf(path: Path) -> str:
    """A table of what a GGUF file holds, whether a model can be made of it or not. Raises CheckpointError."""
    tensors = open_gguf(path).tensors
    return _table(_together([Row(name, t.shape, t.type_name, "") for name, t in tensors.items()]))


def _stored_as(source: Source, name: str) -> str:
    if isinstance(source, StoredModel):
        return str(source.stored(name).format)
    stored_as = getattr(source, "stored_as", None)
    return "" if stored_as is None else stored_as(name)


def _together(rows: Iterable[Row]) -> list[Row]:
    """Rows that differ in the number of their layer alone, as one with the numbers in braces."""
    groups: dict[tuple, list[int]] = {}
    for row in rows:
        numbers = _NUMBER.findall(row.name)
        pattern = _NUMBER.sub("{}", row.name, count=1)
        groups.setdefault((pattern, *row[1:]), []).extend(int(number) for number in numbers[:1])
    return [Row(pattern.format(_ranges(numbers)), *rest) for (pattern, *rest), numbers in groups.items()]


def _ranges(numbers: list[int]) -> str:
    """0, 1, 2, 5 -> "{0-2,5}", and one number as it is."""
    if len(numbers) == 1:
        return str(numbers[0])
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][1] + 1 == number:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    parts = [str(first) if first == last else f"{first}-{last}" for first, last in runs]
    return f"{{{','.join(parts)}}}"


def _table(rows: list[Row]) -> str:
    texts = [(row.name, "x".join(map(str, row.shape)), row.there, row.here) for row in rows]
    widths = [max(len(text[column]) for text in texts) for column in range(4)]
    return "\n".join(
        f"  {name:<{widths[0]}}  {shape:>{widths[1]}}  {there:<{widths[2]}}{f'  -> {here}' if here else ''}".rstrip()
        for name, shape, there, here in texts
    )
