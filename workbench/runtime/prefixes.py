"""What a new text has in common with what the sequences of a batch hold, so that nothing is read twice.

A sequence that is free still holds its last text. A text that begins like it goes on behind their longest common
beginning, in that sequence or in another one to which the beginning is copied on the device. A token's keys and values
are a function of the tokens up to it and of the adapter that they are read with, so these are what reading the text
would have given, up to what steps of other sizes round otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from workbench.errors import OutOfMemoryError

from .batch import Batch

#: Tokens that are worth a copy, or a wait for the one who is just reading them: a copy takes as long as a short step.
WORTH = 32
#: A sequence is gone on with, and loses the rest of its text, where at least this share of it stays.
KEPT_SHARE = 0.5


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """Tokens of the longest common beginning; found by comparing slices, which lists do fast."""
    low, high = 0, min(len(one), len(other))
    if one[:high] == other[:high]:
        return high
    while high - low > 1:  # alike up to low, not up to high
        middle = (low + high) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle)
    return low


@dataclass
class Prefixes:
    """The sequences of a batch that are free, with the tokens that each still holds, the longest free one first.

    reuse: False to begin every text in an empty sequence.
    """

    batch: Batch
    reuse: bool = True

    def __post_init__(self) -> None:
        self._held: dict[int, list[int]] = {n: [] for n in range(self.batch.sequences)}

    def __len__(self) -> int:
        return len(self._held)

    def free(self, sequence: int, tokens: list[int] | None) -> None:
        """A sequence is free. tokens: what it holds; None for nothing that can be relied on."""
        self._held[sequence] = tokens if self.reuse and tokens else []

    def take(self, wanted: Sequence[int], adapter: str | None = None) -> tuple[int, int]:
        """(sequence, how many of the wanted tokens it holds and keeps): the one for a text that begins so, and is read
        with an adapter of that name."""
        number = self.batch.number_of(adapter)
        alike = {n: self._usable(n, common(held, wanted), number) for n, held in self._held.items()}
        best = max(alike, key=lambda n: alike[n])
        longest_free = min(self._held, key=lambda n: bool(self._held[n]))  # empty ones first
        worth_it = alike[best] >= max(1, KEPT_SHARE * len(self._held[best]))
        sequence = best if worth_it else longest_free
        del self._held[sequence]
        if kept := alike[sequence]:
            self.batch.take_back(sequence, self.batch.length(sequence) - kept)
        else:
            self.batch.reset(sequence, adapter)
        return sequence, kept

    def best(
        self, wanted: Sequence[int], target: int, at_work: Mapping[int, list[int]]
    ) -> tuple[int, int | None]:
        """(how many of the wanted tokens another sequence than `target` holds, which one), of those with its adapter.
        at_work: what the sequences hold that are not free."""
        best, source = 0, None
        number = self.batch.adapter(target)
        for n, held in {**self._held, **at_work}.items():
            if n != target and held and (count := self._usable(n, common(held, wanted), number)) > best:
                best, source = count, n
        return best, source

    def copy(self, source: int, target: int, count: int) -> bool:
        """Let a sequence hold the first `count` tokens of another one; False where there is no memory for it."""
        try:
            self.batch.copy(source, target, count)
        except OutOfMemoryError:
            return False
        return True

    def _usable(self, sequence: int, count: int, adapter: int) -> int:
        """`count`, or 0 where a text with this adapter cannot go on behind so many tokens of a sequence."""
        if not count or self.batch.adapter(sequence) != adapter:
            return 0
        return count if self.batch.can_share(sequence, count) else 0
