"""Several models on the same ids, a step of each in turn, so that their logits can be compared where they are.

A comparison of two models needs the logits of both at once. Step by step these are small (256 tokens of a vocabulary of
128,256 are 131 MB a model), so they stay on the device that computed them, and kernels over both rows leave a few
numbers a token (`workbench.runtime.rows`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np

from workbench.errors import WorkbenchError

from .batch import packed_steps, require_finite_rows
from .feeding import Ids, check_ids
from .finite import require_finite
from .model import Model
from .results import Scores

#: Called as look(logits of each model [count, vocab], targets [count], places) with the places of a step among those
#: that are scored, a slice; gives arrays with a row for each place, by name.
Look = Callable[[Sequence, np.ndarray, slice], Mapping[str, np.ndarray]]
#: The same of rows of several sequences, whose places it is not told.
LookAtRows = Callable[[Sequence, np.ndarray], Mapping[str, np.ndarray]]


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
    (array,) = _checked(models, [ids])
    steps: list[list[dict]] = [[] for _ in models]
    seconds, looked, look_seconds = [0.0] * len(models), [], 0.0
    with _ready(models, len(array) - 1) as ready:
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
    return SideBySide([Scores.joined(found) for found in steps], _joined(looked), seconds, look_seconds)


def sequences_side_by_side(
    models: Sequence[Model], texts: Sequence[Ids], look: LookAtRows
) -> list[SideBySide]:
    """As `side_by_side` of each of these sequences, in shared steps; seconds are shared out equally."""
    arrays = _checked(models, texts)
    inputs, targets = [each[:-1] for each in arrays], [each[1:] for each in arrays]
    steps: list[list[list[dict]]] = [[[] for _ in arrays] for _ in models]
    looked: list[list[dict]] = [[] for _ in arrays]
    seconds, look_seconds = [0.0] * len(models), 0.0
    with _ready(models, max(map(len, inputs)), len(arrays)) as ready:
        most = min(executor.chunk(sum(map(len, inputs)), cache) for executor, cache in ready)
        longest = min(cache.longest for _, cache in ready)
        for step, places in packed_steps(inputs, most, longest=longest):
            given = np.concatenate([targets[n][place] for n, place in places])
            with ready[0][0].holding():
                rows = []
                for index, (executor, cache) in enumerate(ready):
                    began = time.perf_counter()
                    found = executor.run_step("score", step, cache, given, hold=("logits",))
                    rows.append(found.pop("logits"))
                    require_finite_rows(executor.plan("score").results, found, [n for n, _ in places])
                    _share_out(found, places, steps[index])
                    seconds[index] += time.perf_counter() - began
                began = time.perf_counter()
                _share_out(look(rows, given), places, looked)
                look_seconds += time.perf_counter() - began
    share = 1 / len(arrays)
    return [
        SideBySide(
            [Scores.joined(found[n]) for found in steps],
            _joined(looked[n]),
            [share * each for each in seconds],
            share * look_seconds,
        )
        for n in range(len(arrays))
    ]


def _checked(models: Sequence[Model], texts: Sequence[Ids]) -> list[np.ndarray]:
    arrays = [check_ids(ids, models[0].vocab_size) for ids in texts]
    if any(len(array) < 2 for array in arrays):
        raise WorkbenchError("scoring needs at least two tokens, one to predict from and one to predict")
    if not share_memory(models):
        raise WorkbenchError("models are compared on a device only if all are there, with one vocabulary")
    return arrays


@contextmanager
def _ready(models: Sequence[Model], count: int, sequences: int = 1) -> Iterator[list[tuple[Any, Any]]]:
    """Executor and empty cache of each model, which nobody else uses meanwhile."""
    with ExitStack() as stack:
        for model in sorted(models, key=id):  # in one order, so that no two callers wait for each other
            stack.enter_context(model._lock)
        yield [model._empty_cache(count, sequences) for model in models]


def _share_out(
    found: Mapping[str, np.ndarray], places: Sequence[tuple[int, slice]], texts: Sequence[list[dict]]
) -> None:
    """Rows of a step to the texts that they are of."""
    start = 0
    for n, place in places:
        rows = slice(start, start + place.stop - place.start)
        texts[n].append({name: values[rows] for name, values in found.items()})
        start = rows.stop


def _joined(looked: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([each[name] for each in looked]) for name in looked[0]}
