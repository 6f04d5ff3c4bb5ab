"""Matrices that lie row under row on the device, because fused calls read them together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from workbench.plan.count import plane_bytes
from workbench.plan.plan import Buffer


@dataclass(frozen=True)
class Stack:
    """Matrices that share columns and format; `buffer` is the matrix that they are together."""

    members: tuple[Buffer, ...]

    @property
    def name(self) -> str:
        return "+".join(self.names)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(member.name for member in self.members)

    @property
    def buffer(self) -> Buffer:
        first = self.members[0]
        shape = (sum(member.rows for member in self.members), first.columns)
        tensors = tuple(name for member in self.members for name in member.tensors)
        return Buffer(self.name, shape, first.type, "weight", tensors)

    def part(self, name: str, nbytes: int) -> tuple[int, int]:
        """Offset and length, in bytes, of a member in a plane of the stack that has so many bytes."""
        rows = [member.rows for member in self.members]
        at = self.names.index(name)
        row_bytes = nbytes // sum(rows)
        return sum(rows[:at]) * row_bytes, rows[at] * row_bytes


def stackable(groups: Iterable[tuple[Buffer, ...]], binding_bytes: int, alignment: int) -> list[Stack]:
    """Those of the groups that can lie so, and be bound one by one too.

    They have one format, with a scale of their own for each row at least; every plane is a multiple of `alignment`
    bytes, so that a member's begins where a binding may; and together they fit into a binding.
    """
    found = []
    for members in groups:
        formats = {member.format for member in members}
        if len(formats) > 1 or len({member.shape[1] for member in members}) > 1:
            continue
        (fmt,) = formats
        if fmt.is_quantized and fmt.granularity == "tensor":
            continue
        sizes = [list(plane_bytes(member, {}).values()) for member in members]
        aligned = all(size % alignment == 0 for each in sizes for size in each)
        if aligned and max(map(sum, zip(*sizes, strict=True))) <= binding_bytes:
            found.append(Stack(members))
    return found
