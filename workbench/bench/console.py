"""Progress of a benchmark on stderr: a line a stage with the time since the start, and a bar over the windows."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping

from eval.perplexity import RunProgress

from .bars import window_bar
from .measure import Progress


class Console(Progress):
    """Tells on stderr what a benchmark is doing."""

    def __init__(self) -> None:
        self._began = time.perf_counter()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._began

    def say(self, message: str) -> None:
        print(f"[{self.seconds:5.0f} s] {message}", file=sys.stderr, flush=True)

    def runs(self, what: str) -> RunProgress:
        def finished(found: Mapping[str, str]) -> None:
            self.say(f"{what}: " + ", ".join(f"{name} {value}" for name, value in found.items()))

        return window_bar(what, leave=False, finished=finished)
