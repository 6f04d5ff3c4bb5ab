"""Logits of an unconverted model, computed once and read again by every cell that is paired with it.

`RecordingModel` scores as its model does and keeps the logits of every window in a file; `RecordedModel` gives them
back, so that `eval.perplexity` compares with a file as it compares with a model. Nothing is rounded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eval import statistics
from eval.result import PerplexityResult
from workbench.errors import SweepError
from workbench.runtime.model import Forward, Scores


def window_name(ids: Sequence[int] | np.ndarray) -> str:
    return hashlib.sha256(np.asarray(ids, "<i8").tobytes()).hexdigest()


class RecordingModel:
    """A loaded model whose `score` appends the logits that predict the window's targets (f32, row after row) to
    `file`: what `eval.perplexity` asks a baseline for."""

    def __init__(self, model: Any, file: Any) -> None:
        self._model, self._file = model, file
        self.windows: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def score(self, ids: Sequence[int]) -> Scores:
        logits = np.ascontiguousarray(self._model.forward(ids[:-1]).logits, np.float32)
        self._file.write(logits.tobytes())
        self.windows.append(window_name(ids))
        return Scores(statistics.target_nll(logits, np.asarray(ids)[1:]), logits.argmax(1))


class RecordedModel:
    """A model that knows the windows it was recorded on, and nothing else.

    logits: the file of a RecordingModel; result: its result, of the same windows in the same order.
    """

    def __init__(self, logits: Path, result: PerplexityResult, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self.context_length, self.backend = result.context_length, result.backend
        self._provenance = result.provenance
        self._path = logits
        self._rows: dict[str, slice] = {}
        self._end = 0

    def describe_provenance(self) -> dict[str, Any]:
        return self._provenance

    def expect(self, windows: Sequence[np.ndarray]) -> RecordedModel:
        """Tell which windows (ids [n] each) were recorded, in order. SweepError if the file has other rows."""
        for ids in windows:
            count = len(ids) - 1
            self._rows[window_name(ids[:-1])] = slice(self._end, self._end + count)
            self._end += count
        nbytes, wanted = self._path.stat().st_size, 4 * self.vocab_size * self._end
        if nbytes != wanted:
            raise SweepError(
                f"{self._path}: stored logits have {nbytes} bytes, and the {self._end} targets of these windows take "
                f"{wanted}; remove it and the .npz beside it, and the same sweep makes them again"
            )
        self._logits = np.memmap(self._path, np.float32, "r").reshape(-1, self.vocab_size)
        return self

    def forward(self, ids: Sequence[int]) -> Forward:
        return Forward(np.asarray(self._logits[self._rows[window_name(ids)]]), {})
