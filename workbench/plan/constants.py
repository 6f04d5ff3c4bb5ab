"""Constants of a plan: buffers whose numbers follow from the plan alone, so that no executor knows what they mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from wgsl_kernels.attention.rope import rope_table


@dataclass(frozen=True)
class RotaryTable:
    """Cosines, then sines, of each position's angles: f32 [positions, 2 * frequencies].

    frequencies: angle a position of each pair of channels. factor: what both are multiplied by. long, original: other
    frequencies where there are more positions than `original` (LongRoPE, Ding et al. 2024); none if it is empty.
    """

    frequencies: tuple[float, ...]
    factor: float = 1.0
    long: tuple[float, ...] = ()
    original: int = 0

    def within(self, positions: int) -> RotaryTable:
        """The table of texts in which no token looks further than this: that settles the frequencies, however long the
        text."""
        if not self.long:
            return self
        chosen = self.long if positions > self.original else self.frequencies
        return replace(self, frequencies=chosen, long=(), original=0)

    def values(self, shape: tuple[int, ...]) -> np.ndarray:
        """The numbers of a buffer of this shape."""
        positions, width = shape
        if width != 2 * len(self.frequencies):
            raise ValueError(f"a table of {len(self.frequencies)} frequencies is not {width} wide")
        frequencies = self.long if self.long and positions > self.original else self.frequencies
        table = rope_table(np.array(frequencies, np.float32), positions)
        return table if self.factor == 1 else table * np.float32(self.factor)


def to_json(initial: RotaryTable) -> dict:
    """A JSON value; `from_json` is the inverse."""
    found = {"kind": "rotary table", "frequencies": list(initial.frequencies), "factor": initial.factor}
    return found | ({"long": list(initial.long), "original": initial.original} if initial.long else {})


def from_json(data: Mapping) -> RotaryTable:
    """Raises `ValueError` for what is no constant."""
    if data["kind"] != "rotary table":
        raise ValueError(f"{data['kind']!r} is not a constant; allowed: 'rotary table'")
    frequencies, long = (tuple(map(float, data.get(name, ()))) for name in ("frequencies", "long"))
    return RotaryTable(frequencies, float(data["factor"]), long, int(data.get("original", 0)))
