"""One sequence in the key/value cache: feeding tokens, continuing greedily, and what happens when it is full."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from workbench.errors import CacheFullError, NonFiniteError, PromptTooLongError, WorkbenchError
from workbench.models.llama import TOP

from .edits import Edits, check_edits
from .finite import TOKEN_OF_NAN, require_finite
from .turns import Turns, alone


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
    finite: bool = True,
):
    """Run `ids` through the executor in the steps it likes; yields each step's results.

    targets, where the head takes them, are one fewer than ids or as many; the last step may have none for its last
    token, whose result then means nothing. finite: raise `NonFiniteError` at the first step whose results are not.
    """
    start = 0
    while start < len(ids):
        count = executor.chunk(len(ids) - start)
        step_targets = None if targets is None else targets[start : start + count]
        if step_targets is not None and len(step_targets) < count:
            step_targets = np.append(
                step_targets, np.zeros(count - len(step_targets), dtype=step_targets.dtype)
            )
        step = ids[start : start + count]
        results = executor.run(head, step, cache, step_targets, keep, edit)
        if finite:
            require_finite(executor, head, results, step, cache, step_targets, edit)
        yield results
        start += count


class Session:
    """Keys and values of one sequence, made by `Model.session`. Its memory goes with `close`, or with the session.

    edit: functions that change activations of every step in flight (`workbench.runtime.edits`). A step whose edit
    raises leaves the session as it was before the call. One call at a time: another, from an edit, from another thread
    or between the steps of an iterator, raises `SessionBusyError`; `close` alone may come between an iterator's steps.
    """

    def __init__(self, executor, vocab_size: int, capacity: int, edit: Edits | None = None):
        self._executor, self._vocab_size = executor, vocab_size
        self._edit = {name: edit[name] for name in check_edits(executor.plan("last"), edit)}
        self._cache = executor.new_cache(capacity)
        self._logits: np.ndarray | None = None
        self._turns = Turns()
        # the cache is released with the session, not when Python gets around to its cycles
        self._free = weakref.finalize(self, executor.free_cache, self._cache)
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

    @alone
    def reset(self) -> None:
        """Forget everything; the cache stays allocated."""
        self._cache.position = 0
        self._logits = None

    def close(self) -> None:
        """Give the cache's memory back; the session cannot be used afterwards. Raises `SessionBusyError` in the middle
        of a step."""
        with self._turns.last():
            self._free()

    @alone
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

    @alone
    def feed_top(self, token: int) -> tuple[np.ndarray, np.ndarray]:
        """Append a token; returns the `top` largest logits after it and their ids, f32 and integers [top]: largest
        first, of equals the lowest id first. Raises as `feed` does.
        """
        array = check_ids([token], self._vocab_size)
        self._require(1)
        with self._moving():
            [results] = run_chunks(self._executor, "top", array, self._cache, edit=self._edit)
        self._logits = None
        return results["top_logits"][0], results["top_ids"][0]

    @alone
    def back(self, count: int) -> None:
        """Forget the last `count` tokens. Raises `WorkbenchError` if there are fewer."""
        if not 0 <= count <= self.position:
            raise WorkbenchError(f"{count} tokens cannot be taken back of the {self.position} in the cache")
        self._cache.position -= count
        self._logits = None

    def feed_all(self, ids: Sequence[int]) -> Iterator[np.ndarray]:
        """Append tokens; yields the logits [n, vocab] after each of them, a step of n tokens at a time.

        What is not taken from the iterator is not fed. Raises as `feed` does, at the first step; an edit that raises
        in a later one leaves the steps before it fed. The session is busy until the iterator has ended, or is closed or
        forgotten.
        """
        array = check_ids(ids, self._vocab_size)
        with self._turns.of("feed_all") as turn:
            self._require(len(array))
            self._logits, left = None, len(array)
            for results in run_chunks(self._executor, "all", array, self._cache, edit=self._edit):
                with turn.paused():
                    yield results["logits"]
                left -= len(results["logits"])
                if left:
                    self._require_open()

    @alone
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

    @alone
    def greedy_after(self, token: int, count: int) -> list[int]:
        """Feed `token` and return the `count` greedy tokens after it; all but the last are in the cache then."""
        (token,) = check_ids([token], self._vocab_size)
        self._require(count)
        tokens = self._greedy_after(int(token), count)
        self._logits = None
        return tokens

    def _greedy_after(self, token: int, count: int) -> list[int]:
        with self._moving():
            if self._edit:  # step by step, since Python has its say in each
                return self._greedy_steps(token, count)
            tokens = [int(t) for t in self._executor.greedy(token, count, self._cache)]
            if tokens[-1] == TOKEN_OF_NAN:
                self._require_finite_run([token, *tokens])
            return tokens

    def _require_finite_run(self, tokens: list[int]) -> None:
        """Raises `NonFiniteError` if a greedy run has ended in NaN. It hands out no logits, but a cache that holds NaN
        gives nothing else from there on, and so one token until the end; what gave it is run again."""
        try:
            self._cache.position -= 1
            list(run_chunks(self._executor, "last", np.array(tokens[-2:-1]), self._cache))
        except NonFiniteError:
            self._cache.position -= len(tokens) - 2
            self._greedy_steps(tokens[0], len(tokens) - 1)  # raises where it began
            raise

    def _greedy_steps(self, token: int, count: int) -> list[int]:
        tokens = [token]
        for _ in range(count):
            [step] = run_chunks(self._executor, "last", np.array(tokens[-1:]), self._cache, edit=self._edit)
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

    def _require_open(self) -> None:
        if not self._free.alive:
            raise WorkbenchError("this session is closed; make a new one")

    def _require(self, count: int) -> None:
        self._require_open()
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
