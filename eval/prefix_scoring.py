"""Scoring many sequences that begin alike, in one key/value cache.

What a sequence shares with the one before it stays in the cache, so that a prompt with several continuations, or a
set of questions behind the same examples, is computed once. Sort the sequences, so that neighbours share most.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from workbench.errors import ProtocolError
from workbench.runtime.feeding import check_ids, run_chunks


class PrefixScorer:
    """Scores continuations with one loaded model. `computed` counts the tokens that ran, `asked` those that would
    have without sharing. Close it to give its cache's memory back. Where the device is lost the call that finds it out
    raises DeviceLostError, and the next one begins with an empty cache on a new device."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.computed = self.asked = 0
        self._begin(model.executor)

    def _begin(self, executor: Any) -> None:
        """With an empty cache."""
        self._cache = executor.new_cache(self.model.max_tokens)
        self._executor, self._held = executor, np.zeros(0, np.int64)

    def score(self, context: Sequence[int], continuation: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """(ln p f64 [n], whether each is the likeliest token there bool [n]) of the tokens of `continuation` [n].

        context: at least one token. Raises ProtocolError if either is empty or both do not fit the cache,
        DeviceLostError and OutOfMemoryError.
        """
        if not len(context) or not len(continuation):
            raise ProtocolError("a continuation is scored behind a context; both need at least one token")
        ids = check_ids([*context, *continuation], self.model.vocab_size).astype(np.int64)
        inputs, targets = ids[:-1], ids[1:]
        if len(inputs) > self._cache.capacity:
            raise ProtocolError(
                f"context and continuation have {len(ids)} tokens; the cache takes {self._cache.capacity + 1}"
            )
        if (executor := self.model.executor) is not self._executor:  # the cache is lost with its device
            self._begin(executor)
        shared = min(len(self._held), len(inputs))
        differs = np.flatnonzero(self._held[:shared] != inputs[:shared])
        # the token in front of the first target must run anyway: its logits are wanted
        start = min(int(differs[0]) if len(differs) else shared, len(context) - 1)
        if not self._cache.holds(start):
            start = 0  # a window bounds the cache, which has lost what is seen from there
        self._cache.position, self._held = start, inputs[:start]  # what fails halfway leaves a usable cache
        steps = list(run_chunks(self._executor, "score", inputs[start:], self._cache, targets[start:]))
        self._held = inputs
        self.computed += len(inputs) - start
        self.asked += len(inputs)
        part = slice(len(context) - 1 - start, None)
        log_p = np.concatenate([step["log_likelihood"] for step in steps])[part].astype(np.float64)
        top1 = np.concatenate([step["top1"] for step in steps])[part].astype(np.int64)
        return log_p, top1 == np.asarray(continuation)

    def close(self) -> None:
        """Release the cache."""
        release = getattr(self._executor, "free_cache", None)
        if release is not None:
            release(self._cache)
