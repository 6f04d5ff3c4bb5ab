"""Progress of a benchmark on stderr: a line a stage with the time since the start, and a bar over the windows."""

from __future__ import annotations

import sys
import time

import numpy as np

from eval.perplexity import RunProgress

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
        from tqdm.auto import tqdm

        bar = tqdm(desc=what, unit="window", leave=False)
        found: dict[str, str] = {}

        def told(done: int, total: int, name: str, nll: float) -> None:
            bar.total = total
            found[name] = f"{np.exp(nll):.3f}"
            bar.set_postfix(found, refresh=False)
            bar.update(done - bar.n)
            if done == total:
                bar.close()
                self.say(f"{what}: " + ", ".join(f"{key} {value}" for key, value in found.items()))

        return told
