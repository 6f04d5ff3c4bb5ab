"""Token ids of a text, checked, and the steps in which an executor runs them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from workbench.errors import WorkbenchError

from .edits import Edits
from .finite import require_finite

#: Token ids, as anything that numpy takes for a row of integers.
Ids = Sequence[int] | np.ndarray


def check_ids(ids: Ids, vocab_size: int) -> np.ndarray:
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
    """Run `ids` through the executor in the steps that it chooses; yields each step's results.

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
