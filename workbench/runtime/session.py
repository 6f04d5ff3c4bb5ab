"""One sequence in the key/value cache: feeding tokens, continuing greedily, and what happens when it is full."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from workbench.errors import CacheFullError, PromptTooLongError, WorkbenchError
from workbench.models.llama import TOP

from .edits import Edits, check_edits


def check_ids(ids: Sequence[int], vocab_size: int) -> np.ndarray:
    """Token ids as an array; raises `WorkbenchError` for an empty list or an id outside the vocabulary."""
    array = np.asarray(ids)
    if array.ndim != 1 or array.size == 0 or not np.issubdtype(array.dtype, np.integer):
        raise WorkbenchError(
            f"token ids are a non-empty list of integers, not {array.dtype} of shape {array.shape}"
        )
    if array.min() < 0 or array.max() >= vocab_size:
        where = int(np.argmax((array < 0) | (array >= vocab_size)))
        raise WorkbenchError(
            f"token id {array[where]} at place {where} is outside the vocabulary of {vocab_size}"
        )
    return array


def run_chunks(
    executor,
    head: str,
    ids: np.ndarray,
    cache,
    targets=None,
    keep: Iterable[str] = (),
    edit: Edits | None = None,
):
    """Run `ids` through the executor in the steps it likes; yields each step's results.

    targets, where the head takes them, are one fewer than ids or as many; the last step may have none for its last
    token, whose result then means nothing.
    """
    start = 0
    while start < len(ids):
        count = executor.chunk(len(ids) - start)
        step_targets = None if targets is None else targets[start : start + count]
        if step_targets is not None and len(step_targets) < count:
            step_targets = np.append(
                step_targets, np.zeros(count - len(step_targets), dtype=step_targets.dtype)
            )
        yield executor.run(head, ids[start : start + count], cache, step_targets, keep, edit)
        start += count


def _nothing(cache) -> None:
    """Caches in host memory need no release."""


class Session:
    """Keys and values of one sequence, made by `Model.session`. Its memory goes with `close`, or with the session.

    edit: functions that change activations of every step in flight (`workbench.runtime.edits`). A step whose edit
    raises leaves the session as it was before the call.
    """

    def __init__(self, executor, vocab_size: int, capacity: int, edit: Edits | None = None):
        self._executor, self._vocab_size = executor, vocab_size
        self._edit = {name: edit[name] for name in check_edits(executor.plan("last"), edit)}
        self._cache = executor.new_cache(capacity)
        self._logits: np.ndarray | None = None
        # the cache is released with the session, not when Python gets around to its cycles
        self._free = weakref.finalize(self, getattr(executor, "free_cache", _nothing), self._cache)
        self._free.atexit = False

    @property
    def position(self) -> int:
        """How many tokens the cache holds."""
        return self._cache.position

    @property
    def capacity(self) -> int:
        """How many tokens the cache can hold."""
        return self._cache.capacity

    @property
    def top(self) -> int:
        """How many logits `feed_top` returns."""
        return min(TOP, self._vocab_size)

    @property
    def edited(self) -> bool:
        """Whether activations are changed in flight."""
        return bool(self._edit)

    def reset(self) -> None:
        """Forget everything; the cache stays allocated."""
        self._cache.position = 0
        self._logits = None

    def close(self) -> None:
        """Give the cache's memory back; the session cannot be used afterwards."""
        self._free()

    def feed(self, ids: Sequence[int]) -> np.ndarray:
        """Append tokens; returns the logits [vocab] after the last one.

        Raises `PromptTooLongError` if they do not fit into an empty cache, `CacheFullError` if not behind what is
        there; the session is unchanged then.
        """
        array = check_ids(ids, self._vocab_size)
        self._require(len(array))
        with self._moving():
            for results in run_chunks(self._executor, "last", array, self._cache, edit=self._edit):
                logits = results["logits"][0]
        self._logits = logits
        return logits

    def feed_top(self, token: int) -> tuple[np.ndarray, np.ndarray]:
        """Append a token; returns the `top` largest logits after it and their ids, f32 and integers [top]: largest
        first, of equals the lowest id first. Raises as `feed` does.
        """
        array = check_ids([token], self._vocab_size)
        self._require(1)
        with self._moving():
            results = self._executor.run("top", array, self._cache, edit=self._edit)
        self._logits = None
        return results["top_logits"][0], results["top_ids"][0]

    def back(self, count: int) -> None:
        """Forget the last `count` tokens. Raises `WorkbenchError` if there are fewer."""
        if not 0 <= count <= self.position:
            raise WorkbenchError(f"{count} tokens cannot be taken back of the {self.position} in the cache")
        self._cache.position -= count
        self._logits = None

    def feed_all(self, ids: Sequence[int]) -> Iterator[np.ndarray]:
        """Append tokens; yields the logits [n, vocab] after each of them, a step of n tokens at a time.

        What is not taken from the iterator is not fed. Raises as `feed` does, at the first step; an edit that raises
        in a later one leaves the steps before it fed.
        """
        array = check_ids(ids, self._vocab_size)
        self._require(len(array))
        self._logits = None
        for results in run_chunks(self._executor, "all", array, self._cache, edit=self._edit):
            yield results["logits"]

    def greedy(self, count: int) -> list[int]:
        """The next `count` greedy tokens. All but the last are in the cache afterwards, so feed the last to go on."""
        if count < 1:
            raise WorkbenchError(f"at least one token can be asked for, not {count}")
        if self._logits is None:
            raise WorkbenchError("feed a prompt before asking for its continuation")
        first = int(self._logits.argmax())
        self._require(count - 1)
        rest = self._greedy_after(first, count - 1) if count > 1 else []
        self._logits = None
        return [first, *rest]

    def greedy_after(self, token: int, count: int) -> list[int]:
        """Feed `token` and return the `count` greedy tokens after it; all but the last are in the cache then."""
        (token,) = check_ids([token], self._vocab_size)
        self._require(count)
        tokens = self._greedy_after(int(token), count)
        self._logits = None
        return tokens

    def _greedy_after(self, token: int, count: int) -> list[int]:
        with self._moving():
            if not self._edit:
                return [int(t) for t in self._executor.greedy(token, count, self._cache)]
            tokens = [token]  # step by step, since Python has its say in each
            for _ in range(count):
                step = self._executor.run("last", np.array(tokens[-1:]), self._cache, edit=self._edit)
                tokens.append(int(step["logits"][0].argmax()))
            return tokens[1:]

    @contextlib.contextmanager
    def _moving(self) -> Iterator[None]:
        """Steps of which all are kept, or none: an error puts the position back."""
        position = self._cache.position
        try:
            yield
        except BaseException:
            self._cache.position = position
            raise

    def _require(self, count: int) -> None:
        if not self._free.alive:
            raise WorkbenchError("this session is closed; make a new one")
        room = self.capacity - self.position
        if count <= room:
            return
        if self.position == 0:
            raise PromptTooLongError(
                f"{count} tokens do not fit into a cache of {self.capacity}; load the model with a larger max_tokens"
            )
        raise CacheFullError(
            f"the cache holds {self.position} of {self.capacity} tokens, so {count} more do not fit; "
            "reset the session or load the model with a larger max_tokens"
        )
