"""Experts of a layer that a checkpoint holds packed one by one, as the one matrix that they are here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from workbench.formats.tensor import WeightTensor, float_tensor
from workbench.models.architecture import Architecture
from workbench.models.foreign.integers import Grid
from workbench.models.foreign.packed import Packed, Read


@dataclass(frozen=True)
class ExpertStack(Packed):
    """experts: of one layout, and shapes of the same columns; one under the other."""

    experts: tuple[Packed, ...]

    def grid(self, read: Read) -> Grid | None:
        """None where experts differ in bits or groups, or are no `s (q - z)`."""
        grids = [grid for expert in self.experts if (grid := expert.grid(read)) is not None]
        first = grids[0] if grids else None
        alike = {(grid.bits, grid.group, grid.offsets is None) for grid in grids}
        if first is None or len(grids) < len(self.experts) or len(alike) > 1:
            return None
        if any(grid.order is not None for grid in grids):
            return None
        zeros = [np.broadcast_to(np.asarray(grid.zeros, np.int16), grid.scales.shape) for grid in grids]
        offsets = [grid.offsets for grid in grids if grid.offsets is not None]
        return Grid(
            first.bits,
            first.columns,
            first.group,
            np.concatenate([grid.scales for grid in grids]),
            0 if offsets else np.concatenate(zeros),
            offsets=np.concatenate(offsets) if offsets else None,
        )

    def quants(self, read: Read) -> np.ndarray:
        return np.concatenate([expert.quants(read) for expert in self.experts])

    def floats(self, name: str, read: Read) -> WeightTensor:
        values = [expert.floats(name, read).planes["values"] for expert in self.experts]
        return float_tensor(name, np.concatenate(values), "f32")

    @property
    def why_floats(self) -> str:
        reasons = {expert.why_floats for expert in self.experts}
        return f"experts of a layer differ, or {', '.join(sorted(reasons))}"


def with_stacks(matrices: Mapping[str, Packed], model: Architecture) -> dict[str, Packed]:
    """Packed matrices by name, experts stacked where all of a layer's are packed."""
    found = dict(matrices)
    for name, pieces in model.pieces_in(matrices).items():
        experts = tuple(matrices[piece.tensor] for piece in pieces if piece.tensor in matrices)
        if len(experts) < len(pieces) or any(piece.at is not None for piece in pieces):
            continue
        if len({(expert.kind, expert.shape[1]) for expert in experts}) > 1:
            continue
        for piece in pieces:
            del found[piece.tensor]
        rows = sum(expert.shape[0] for expert in experts)
        parts = {
            f"{number}.{part}": tensor
            for number, expert in enumerate(experts)
            for part, tensor in expert.parts.items()
        }
        found[name] = ExpertStack((rows, experts[0].shape[1]), parts, experts[0].kind, experts)
    return found
