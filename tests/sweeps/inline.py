"""An executor without processes of its own."""

from __future__ import annotations

from collections import deque
from typing import Any

from workbench.sweeps.executor import Event
from workbench.sweeps.jobs import run_job
from workbench.sweeps.worker import error_text


class Inline:
    """Jobs run in this process, where they are submitted: what holds for it holds for them."""

    slots = 1

    def __init__(self) -> None:
        self._events: deque = deque()

    def submit(self, job: dict[str, Any], *, gpu: bool) -> None:
        self._events.append(Event(job["key"], "started", "here"))
        try:
            self._events.append(Event(job["key"], "done", run_job(job)))
        except Exception as error:
            self._events.append(Event(job["key"], "failed", error_text(error)))

    def next_event(self, timeout: float):
        return self._events.popleft() if self._events else None

    def close(self) -> None:
        pass
