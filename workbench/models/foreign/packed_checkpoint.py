"""A checkpoint whose matrices are packed: each is put together from several tensors of its files.

Reads as any other source does. Matrices that are `w = s (q - z)` or `w = s q + b` keep their integers, scales,
zero-points and offsets bit for bit, in the format that holds them; the others are given as f32, and `notes` says which
and why.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from safetensors import SafetensorError

from workbench.errors import CheckpointError
from workbench.formats.errors import FormatError
from workbench.formats.spec import WeightFormat
from workbench.formats.tensor import WeightTensor
from workbench.models import orders
from workbench.models.checkpoint import PART_BYTES, Checkpoint
from workbench.models.contents import some
from workbench.models.families import architecture_of
from workbench.models.finite import require_finite
from workbench.models.foreign.expert_stack import with_stacks
from workbench.models.foreign.integers import fitting, side_by_side, to_tensor
from workbench.models.foreign.packed import Packed

#: Dtype in a header that no file has: of what is put together from several tensors.
PACKED = "packed"


@dataclass(frozen=True)
class Found:
    """A packed matrix, and what becomes of it. why: of one in f32, what keeps it from being integers. columns: of one
    whose columns are put in another order, the column that stands at each place; None for their own order."""

    packed: Packed
    format: WeightFormat
    why: str
    columns: np.ndarray | None = None


class PackedCheckpoint(Checkpoint):
    """What opens it calls `_assemble` with its packed matrices, before it selects what the model reads."""

    _parts: dict[str, Found]
    _orders: Mapping[str, np.ndarray] = MappingProxyType({})

    def _assemble(self, matrices: Mapping[str, Packed]) -> list[str]:
        """Put matrices in the places of their tensors. Returns names of biases that are nothing but zeros."""
        model = architecture_of(self.config)
        known, zeros = {*model.tensors(), *model.stacked()}, []
        linear = set(model.adaptable())
        made, ordered = dict[str, np.ndarray](), dict[str, list[str]]()
        for name, packed in with_stacks(matrices, model).items():
            grid = packed.grid(self._part)
            if grid is not None and not grid.finite:
                raise CheckpointError(f"{self.path}: scales of {name!r} are not finite")
            own, columns = model.stacked().get(name, (name,)), None
            if grid is not None and linear.issuperset(own):
                grid, columns = side_by_side(grid)
            fmt, why = (None, packed.why_floats) if grid is None else fitting(grid)
            if fmt is None:
                columns = None
            self._parts[name] = Found(packed, fmt or WeightFormat("f32"), why, columns)
            for part in packed.parts.values():
                self._headers.pop(part, None)
            self._headers[name] = packed.shape, PACKED
            self._files.setdefault(name, self._files[next(iter(packed.parts.values()))])
            if columns is not None:
                order = _order_of(name, columns, made)
                ordered[order] = [*ordered.get(order, ()), *own]
                self._headers[order] = columns.shape, "F32"
                self._files[order] = self._files[name]
            bias = f"{name.removesuffix('.weight')}.bias"
            if bias in self._headers and bias not in known and not self._part(bias).any():
                del self._headers[bias]
                zeros.append(bias)
        self._orders = made
        if ordered:
            self.config = self.config | {orders.NAME: ordered}
        return zeros

    def _said(self) -> list[str]:
        """What became of the packed matrices, a sentence each kind."""
        kept = Counter(
            f"{f.packed.kind}, as {f.format}" + ("" if f.columns is None else ", columns by groups")
            for f in self._parts.values()
            if not f.why
        )
        said = [f"{count} matrices keep their integers ({kind})" for kind, count in kept.items()]
        lost: dict[str, list[str]] = {}
        for name, found in self._parts.items():
            if found.why:
                lost.setdefault(f"{found.packed.kind}: {found.why}", []).append(name)
        return said + [f"dequantized to f32: {some(names)} ({why})" for why, names in lost.items()]

    def _part(self, name: str) -> np.ndarray:
        """A tensor of the file: integers as they are, floats as f32."""
        try:
            values = self._values(self._files[name], "pt", name, None)
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(
                f"{self.path / self._files[name]}: tensor {name!r} cannot be read: {error}"
            ) from error
        return (values.float() if values.dtype.is_floating_point else values).numpy()

    def _values(self, file: str, framework: str, name: str, rows: slice | None) -> Any:
        if (order := self._orders.get(name)) is not None:
            return order if rows is None else order[rows]
        return super()._values(file, framework, name, rows)

    def _whole(self, name: str) -> tuple[Found | None, int]:
        """The packed matrix that holds a tensor, and the tensor's first row in it; (None, 0) for one of floats."""
        stack, first = self._rows.get(name, (name, 0))
        return self._parts.get(stack), first

    def describe(self, name: str) -> tuple[tuple[int, ...], WeightFormat]:
        found, _ = self._whole(name)
        if found is None or name not in self._headers:
            return super().describe(name)
        return self._headers[name][0], found.format

    def stored_as(self, name: str) -> str:
        if name in self._orders:
            return "columns by groups"
        found, _ = self._whole(name)
        return super().stored_as(name) if found is None else found.packed.kind

    def tensor(self, name: str) -> WeightTensor:
        found, first = self._whole(name)
        if found is None or name not in self._headers:
            return super().tensor(name)
        stack = self._rows.get(name, (name, 0))[0]
        try:
            if found.why:
                whole = found.packed.floats(stack, self._part)
                require_finite(self.path, stack, 0, whole.planes["values"])
            else:
                grid, q = found.packed.grid(self._part), found.packed.quants(self._part)
                assert grid is not None, "only grids have a format"
                if found.columns is not None:
                    grid, q = side_by_side(grid)[0], q[:, found.columns]
                whole = to_tensor(name, grid, q, found.format)
        except FormatError as error:
            raise CheckpointError(f"{self.path}: {error}") from error
        rows = self._headers[name][0][0]
        part = whole if rows == whole.shape[0] else whole.rows(first, first + rows)
        return WeightTensor(name, part.shape, part.format, part.planes)

    def parts(self, name: str) -> Iterator[tuple[int, WeightTensor]]:
        if self._whole(name)[0] is None:
            yield from super().parts(name)
            return
        whole = self.tensor(name)
        step = max(1, PART_BYTES // (4 * whole.shape[1]))
        for start in range(0, whole.shape[0], step):
            yield start, whole.rows(start, min(start + step, whole.shape[0]))


def _order_of(name: str, columns: np.ndarray, made: dict[str, np.ndarray]) -> str:
    """The tensor with the order of a matrix's columns: of those in `made` that of its block which is the same, or a new
    one there."""
    block, values = name.split(".")[:-2], columns.astype(np.float32)
    for other, each in made.items():
        if other.split(".")[:-2] == block and np.array_equal(each, values):
            return other
    new = f"{name.removesuffix('.weight')}{orders.ENDING}"
    made[new] = values
    return new
