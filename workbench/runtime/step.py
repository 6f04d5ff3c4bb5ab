"""One step of a model: rows of any sequences of a cache, each with the place where its token stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Step:
    """Rows [n] of int64: token ids, positions in their sequences, and the sequences of the cache that these are.

    A sequence's rows stand in the order of their positions. wanted: rows of which the head "last" gives logits, by
    default the last one. batch: the rows may be of several sequences.
    """

    ids: np.ndarray
    positions: np.ndarray
    sequences: np.ndarray
    wanted: tuple[int, ...] = ()
    batch: bool = False

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def following(cls, ids: np.ndarray, position: int, sequence: int = 0) -> Step:
        """Tokens of one sequence from a position on."""
        count = len(ids)
        return cls(np.asarray(ids), position + np.arange(count), np.full(count, sequence))

    @classmethod
    def joined(cls, parts: Sequence[Step]) -> Step:
        """Rows of several steps one behind the other; wanted is the last row of each."""
        ends = np.cumsum([len(part) for part in parts]) - 1
        ids, positions, sequences = (
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("ids", "positions", "sequences")
        )
        return cls(ids, positions, sequences, tuple(ends.tolist()), batch=True)

    @property
    def results(self) -> np.ndarray:
        """Rows of which the head "last" gives logits."""
        return np.array(self.wanted or (len(self) - 1,))

    def places(self, rows: Any = slice(None)) -> tuple:
        """What an edit is told of some rows: the position of the first one, or in a batch the positions and sequences
        of all."""
        positions = self.positions[rows]
        return (positions, self.sequences[rows]) if self.batch else (int(positions[0]),)

    def state(self, size: int, adapters: np.ndarray) -> np.ndarray:
        """The words of `wgsl_kernels.state`, u32 [size, 4]. Rows of padding go on behind the last one, so that one
        sequence stays a run. adapters: which each sequence of the cache has, from 1 on, and 0 for none."""
        state = np.zeros((size, 4), np.uint32)
        state[:, 0] = self.positions[-1] - len(self) + 1 + np.arange(size)
        state[: len(self), 0], state[: len(self), 1] = self.positions, 1 + adapters[self.sequences]
        state[:, 2] = self.sequences[-1]
        state[: len(self), 2] = self.sequences
        return state


def padded(values: np.ndarray, size: int) -> np.ndarray:
    """u32 [size]: the values, then zeros."""
    words = np.zeros(size, dtype=np.uint32)
    words[: len(values)] = values
    return words
