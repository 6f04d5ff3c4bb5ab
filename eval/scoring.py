"""Scoring one window with one or several models, and comparing them with a baseline.

Where all models lie on one device (or all run as references), their logits stay there and kernels compare them:
`workbench.runtime.side_by_side`. Anything else that scores and gives logits is compared on the host, in f64 by numpy,
and with it the others. Both ways give the same figures to 1e-6 of their size.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from eval import statistics
from eval.protocols import Window
from eval.scorer import Scorer
from eval.statistics import Divergence
from eval.top_logits import StoredBaseline, TopLogits, seeds
from workbench.errors import ProtocolError, WorkbenchError
from workbench.runtime.model import Model
from workbench.runtime.side_by_side import (
    SideBySide,
    sequences_side_by_side,
    share_memory,
    side_by_side,
)

#: The name of a model, its scores of a window, and the seconds that they took.
Scored = tuple[str, Divergence, float]


class Scoring:
    """Scores windows with `models` by name, one of which may be the `baseline` of the others; or `stored` is.

    keep: the model whose distributions are kept, and top_k how many likeliest tokens a place; `top` has those of the
    windows so far.
    """

    def __init__(
        self,
        models: Mapping[str, Scorer],
        baseline: str | None = None,
        stored: StoredBaseline | None = None,
        keep: str | None = None,
        top_k: int = 0,
    ) -> None:
        self._models, self._baseline, self._stored = models, baseline, stored
        self._keep, self._top_k = keep, top_k
        self._ahead: dict[tuple[str, int], tuple[Any, float]] = {}
        self._compared: dict[int, SideBySide] = {}
        #: The baseline runs first in each window; alone it is scored like any other.
        self.order = [name for name in models if name == baseline]
        self.order += [name for name in models if name != baseline]
        self.top: list[TopLogits] = []

    @property
    def alone(self) -> bool:
        """Whether models are compared with nothing, so that no logits are looked at."""
        return (
            self._stored is None and self._keep is None and (self._baseline is None or len(self._models) == 1)
        )

    def score_together(self, first: int, windows: Sequence[Window]) -> None:
        """Score these windows, of which the first has this number, in shared steps, for models that can. Raises
        `ProtocolError` where a file holds the baseline or is to hold one, and where the models that are compared do not
        lie on one device."""
        if not self.alone:
            self._compare_together(first, windows)
            return
        for name, model in self._models.items():
            score_batch = getattr(model, "score_batch", None)
            if score_batch is None:
                raise ProtocolError(f"the {name} scores one window at a time: windows_per_step=1 here")
            began = time.perf_counter()
            found = score_batch([window.ids for window in windows])
            took = (time.perf_counter() - began) / len(windows)
            self._ahead |= {(name, first + n): (scores, took) for n, scores in enumerate(found)}

    def _compare_together(self, first: int, windows: Sequence[Window]) -> None:
        models = [self._models[name] for name in self.order]
        if self._stored is not None or self._keep is not None or not share_memory(models):
            raise ProtocolError(
                "windows share steps where a model is compared with nothing, or with a loaded model on the same device "
                "that is not kept in a file: windows_per_step=1 here"
            )
        found = sequences_side_by_side(models, [window.ids for window in windows], self._divergences)
        self._compared |= dict(enumerate(found, first))

    def _divergences(self, rows: Sequence, targets: np.ndarray) -> dict[str, np.ndarray]:
        """Of the models behind the first, which is the baseline."""
        found: dict[str, np.ndarray] = {}
        others = self.order[1:] if self._baseline is not None else []
        for name, each in zip(others, rows[1:], strict=True):
            pair = each.apply("divergence", baseline=rows[0], targets=targets)
            found |= {f"{name}\0{key}": values for key, values in pair.items()}
        return found

    def window(self, index: int, window: Window, place: slice) -> Iterator[Scored]:
        """The scores of each model in order. place: of the window among all scored tokens."""
        if self._stored is not None:
            for name in self.order:
                yield self._against_stored(self._stored, name, window, place)
        elif self.alone:
            for name in self.order:
                yield self._alone(name, index, window)
        elif share_memory(models := [self._models[name] for name in self.order]):
            yield from self._on_device(models, index, window)
        else:
            yield from self._on_host(index, window)

    def _alone(self, name: str, index: int, window: Window) -> Scored:
        """Of a model that is compared with nothing: no matrix of logits leaves the device."""
        if (name, index) in self._ahead:
            scores, took = self._ahead.pop((name, index))
            return name, _own(scores.nll, scores.top1, window), took
        began = time.perf_counter()
        scores = self._models[name].score(window.ids)
        if not len(scores.nll) == len(scores.top1) == len(window.ids) - 1:
            raise WorkbenchError(
                f"score() of {len(window.ids)} tokens gave {len(scores.nll)} nll and {len(scores.top1)} top1; "
                f"expected {len(window.ids) - 1} of each"
            )
        return name, _own(scores.nll, scores.top1, window), time.perf_counter() - began

    def _against_stored(self, stored: StoredBaseline, name: str, window: Window, place: slice) -> Scored:
        began = time.perf_counter()
        model, first = self._models[name], window.first_scored - 1
        asked = stored.top.rows(place).asked()
        if share_memory(alone := [model]):
            ids = np.zeros((len(window.ids) - 1, asked["ids"].shape[1]), np.uint32)
            ids[first:] = asked["ids"]

            def look(rows: Sequence, targets: np.ndarray, places: slice) -> Mapping[str, np.ndarray]:
                return rows[0].apply("log_probabilities", ids=ids[places], counted=asked["counted"])

            found = side_by_side(alone, window.ids, look)
            nll, top1 = found.scores[0].nll[first:], found.scores[0].top1[first:]
            kept = {key: values[first:] for key, values in found.looked.items()}
        else:
            from workbench.runtime.rows import HostRows  # and torch with it

            logits = _logits(model, window)
            nll, top1 = statistics.target_nll(logits, window.targets), logits.argmax(1)
            kept = HostRows(logits).apply("log_probabilities", **asked)
        part = stored.divergence(place, nll, top1, kept["y"], kept["beyond"])
        return name, part, time.perf_counter() - began

    def _on_device(self, models: Sequence[Model], index: int, window: Window) -> Iterator[Scored]:
        first = window.first_scored - 1
        others = self.order[1:] if self._baseline is not None else []
        drawn = seeds(index, window.scored)

        def look(rows: Sequence, targets: np.ndarray, places: slice) -> dict[str, np.ndarray]:
            found = self._divergences(rows, targets)
            if self._keep is not None and places.stop > first:
                # of places before the first that is scored nothing is kept
                given = np.zeros(places.stop - places.start, np.uint32)
                skipped = max(first - places.start, 0)
                given[skipped:] = drawn[places.start + skipped - first : places.stop - first]
                top = TopLogits.of_rows(rows[0], self._top_k, given)
                tops.append(top.rows(slice(skipped, None)))
            return found

        tops: list[TopLogits] = []
        found = self._compared.pop(index, None) or side_by_side(models, window.ids, look)
        if tops:
            self.top.append(TopLogits.join(tops))
        base = _own(found.scores[0].nll, found.scores[0].top1, window)
        yield self.order[0], base, found.seconds[0]
        for at, name in enumerate(others, 1):
            change, kl = (
                found.looked[f"{name}\0{key}"][first:].astype(np.float64) for key in ("change", "kl")
            )
            # the difference of two likelihoods is exacter than either
            part = Divergence(base.nll - change, base.nll, kl, found.scores[at].top1[first:], base.top1)
            yield name, part, found.seconds[at] + found.look_seconds / len(others)

    def _on_host(self, index: int, window: Window) -> Iterator[Scored]:
        """Logits of the baseline and of one model at a time are held."""
        for name in self.order:
            began = time.perf_counter()
            logits = _logits(self._models[name], window)
            if name == self.order[0]:
                baseline = logits
                nll, top1 = statistics.target_nll(logits, window.targets), logits.argmax(1)
                part = Divergence(nll, nll, np.zeros(0), top1, top1)  # its own stand in for the baseline's
                if self._keep is not None:
                    self.top.append(TopLogits.of(logits, self._top_k, seed=index))
            else:
                part = statistics.divergence(logits, baseline, window.targets)
            yield name, part, time.perf_counter() - began


def _own(nll: np.ndarray, top1: np.ndarray, window: Window) -> Divergence:
    """Scores of a model at all places, for those that are scored; its own stand in for the baseline's."""
    places = slice(window.first_scored - 1, None)
    nll, top1 = np.asarray(nll, np.float64)[places], np.asarray(top1, np.int64)[places]
    return Divergence(nll, nll, np.zeros(0), top1, top1)


def _logits(model: Scorer, window: Window) -> np.ndarray:
    """f32 [scored, vocab]: the logits that predict the window's targets."""
    return model.forward(window.ids[:-1]).logits[window.first_scored - 1 :]
