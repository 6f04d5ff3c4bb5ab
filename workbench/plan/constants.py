"""Constants of a plan: buffers whose numbers follow from the plan alone, so that no executor knows what they mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from wgsl_kernels.rope import rope_table


@dataclass(frozen=True)
class RotaryTable:
    """Cosines, then sines, of each position's angles: f32 [positions, 2 * frequencies].

    frequencies: angle a position of each pair of channels. factor: what both are multiplied by.
    """

    frequencies: tuple[float, ...]
    factor: float = 1.0

    def values(self, shape: tuple[int, ...]) -> np.ndarray:
        """The numbers of a buffer of this shape."""
        positions, width = shape
        if width != 2 * len(self.frequencies):
            raise ValueError(f"a table of {len(self.frequencies)} frequencies is not {width} wide")
        table = rope_table(np.array(self.frequencies, np.float32), positions)
        return table if self.factor == 1 else table * np.float32(self.factor)


def to_json(initial: RotaryTable) -> dict:
    """A JSON value; `from_json` is the inverse."""
    return {"kind": "rotary table", "frequencies": list(initial.frequencies), "factor": initial.factor}


def from_json(data: Mapping) -> RotaryTable:
    """Raises `ValueError` for what is no constant."""
    if data["kind"] != "rotary table":
        raise ValueError(f"{data['kind']!r} is no constant; 'rotary table' is")
    return RotaryTable(tuple(map(float, data["frequencies"])), float(data["factor"]))
