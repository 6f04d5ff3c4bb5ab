"""What a measurement tells while it runs, and a bar over its windows, on a terminal or in a notebook."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .lines import line

#: Called as progress(runs done, runs in all, name of the model just run, its mean nll so far); a run is one
#: window through one model.
RunProgress = Callable[[int, int, str, float], None]
#: Called as steps(done, in all, name of the one that comes).
Steps = Callable[[int, int, str], None]


class Progress:
    """What a measurement tells while it runs; this one tells nothing."""

    def say(self, message: str) -> None:
        """A new stage has begun."""

    def runs(self, what: str) -> RunProgress | None:
        """A function for `perplexities` to call."""
        return None

    def steps(self, what: str, unit: str) -> Steps:
        """A function for what does one thing after the other to call."""
        return lambda done, total, name: None


class Bar:
    """A bar on a terminal or in a notebook; it closes when it is full. options: of tqdm."""

    def __init__(self, unit: str, **options: Any) -> None:
        from tqdm.auto import tqdm

        self._bar = tqdm(unit=unit, **options)

    def at(self, done: int, total: int, figures: Mapping[str, str]) -> None:
        """So much is done; the figures stand behind it."""
        self._bar.total = total
        self._bar.set_postfix(figures, refresh=False)
        self._bar.update(done - self._bar.n)
        if done == total:
            self._bar.close()


def window_bar(
    what: str, *, leave: bool = True, finished: Callable[[Mapping[str, str]], None] = lambda found: None
) -> RunProgress:
    """A function for `perplexities` to call: the bar shows each model's perplexity so far.

    leave: the bar stays when it is full. finished: called then, with the perplexities by model.
    """
    bar = Bar("window", desc=what, leave=leave)
    found: dict[str, str] = {}

    def told(done: int, total: int, name: str, nll: float) -> None:
        found[name] = f"{np.exp(nll):.3f}"
        bar.at(done, total, found)
        if done == total:
            finished(found)

    return told


class Console(Progress):
    """Tells on stderr: a line a stage with the time since the start, and a bar over the windows."""

    def __init__(self) -> None:
        self._began = time.perf_counter()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._began

    def say(self, message: str) -> None:
        line(f"[{self.seconds:5.0f} s] {message}")

    def runs(self, what: str) -> RunProgress:
        def finished(found: Mapping[str, str]) -> None:
            self.say(f"{what}: " + ", ".join(f"{name} {value}" for name, value in found.items()))

        return window_bar(what, leave=False, finished=finished)

    def steps(self, what: str, unit: str) -> Steps:
        bar = Bar(unit, desc=what, leave=False)
        return lambda done, total, name: bar.at(done, total, {"now": name} if name else {})
