"""Rows of an embedding for token ids, in ranges of rows, so that only a range is in memory as f32."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch

from workbench.formats.tensor import WeightTensor

#: Rows of a matrix over the vocabulary that are dequantized at a time.
ROWS = 8192


def row_parts(stored: WeightTensor) -> Iterator[tuple[int, WeightTensor]]:
    """(first row, rows) of a tensor in memory, as `source.parts` gives them of one in a file."""
    for start in range(0, stored.shape[0], ROWS):
        yield start, stored.rows(start, min(start + ROWS, stored.shape[0]))


def looked_up(parts: Iterable[tuple[int, WeightTensor]], ids: np.ndarray, columns: int) -> torch.Tensor:
    """The rows of a matrix [vocabulary, columns] that ids [n, T], all within it, look up: f32 [n, T, columns]."""
    found = np.empty((*ids.shape, columns), np.float32)
    for start, part in parts:
        here = (ids >= start) & (ids < start + part.shape[0])
        if here.any():
            found[here] = part.dequantize()[ids[here] - start]
    return torch.from_numpy(found)
