"""Several models on the same ids, a step of each in turn, so that their logits can be compared where they are.

A comparison of two models needs the logits of both at once. Step by step these are small (256 tokens of a vocabulary of
128,256 are 131 MB a model), so they stay on the device that computed them, and kernels over both rows leave a few
numbers a token (`workbench.runtime.rows`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TypeGuard

import numpy as np

from workbench.errors import WorkbenchError

from .finite import require_finite
from .model import Model, Scores
from .session import Ids, check_ids

#: Called as look(logits of each model [count, vocab], targets [count], places) with the places of a step among those
#: that are scored, a slice; gives arrays with a row for each place, by name.
Look = Callable[[Sequence, np.ndarray, slice], Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class SideBySide:
    """scores: of each model. looked: what `look` gave, put together. seconds: of each model's steps, and of `look`."""

    scores: list[Scores]
    looked: dict[str, np.ndarray]
    seconds: list[float]
    look_seconds: float


def share_memory(models: Sequence) -> TypeGuard[Sequence[Model]]:
    """Whether these are different loaded models whose logits lie in one memory: one device's, or the host's."""
    plain = all(type(model) is Model and not {"forward", "score"} & vars(model).keys() for model in models)
    if not plain or len({id(model) for model in models}) < len(models):
        return False
    executors = [model.executor for model in models]
    places = {(executor.backend, id(getattr(executor, "device", None))) for executor in executors}
    return len(places) == 1 and len({model.vocab_size for model in models}) == 1


def side_by_side(models: Sequence[Model], ids: Ids, look: Look) -> SideBySide:
    """Score a sequence from an empty cache with models that `share_memory`; raises what `Model.score` raises."""
    array = check_ids(ids, models[0].vocab_size)
    if len(array) < 2:
        raise WorkbenchError("scoring needs at least two tokens, one to predict from and one to predict")
    if not share_memory(models):
        raise WorkbenchError("models are compared on a device only if all are there, with one vocabulary")
    steps: list[list[dict]] = [[] for _ in models]
    seconds, looked, look_seconds = [0.0] * len(models), [], 0.0
    with ExitStack() as stack:
        for model in sorted(models, key=id):  # in one order, so that no two callers wait for each other
            stack.enter_context(model._lock)
        ready = [model._empty_cache(len(array) - 1) for model in models]
        start, stop = 0, len(array) - 1
        while start < stop:
            count = min(executor.chunk(stop - start) for executor, _ in ready)
            targets = array[start + 1 : start + 1 + count]
            with ready[0][0].holding():  # all of them are on one device
                rows = []
                for index, (executor, cache) in enumerate(ready):
                    began = time.perf_counter()
                    step = executor.run(
                        "score", array[start : start + count], cache, targets, hold=("logits",)
                    )
                    rows.append(step.pop("logits"))
                    require_finite(
                        executor, "score", step, array[start : start + count], cache, targets, None
                    )
                    steps[index].append(step)
                    seconds[index] += time.perf_counter() - began
                began = time.perf_counter()
                looked.append(look(rows, targets, slice(start, start + count)))
                look_seconds += time.perf_counter() - began
            start += count
    return SideBySide(
        [Scores.joined(found) for found in steps],
        {name: np.concatenate([each[name] for each in looked]) for name in looked[0]},
        seconds,
        look_seconds,
    )
