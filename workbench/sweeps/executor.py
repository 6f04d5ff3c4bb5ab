"""Where jobs run: what local processes and a cluster have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Event:
    """kind: "started" (value: the worker's name), "progress" (share done), "done" (the job's result), "failed"
    (the error as text), "again" (why the job, whose worker was lost, waits again)."""

    key: str
    kind: str
    value: Any = None


class Executor(Protocol):
    """Jobs are those of `workbench.sweeps.jobs`; each ends in one event "done" or "failed"."""

    #: Jobs that run at once; None where that changes.
    slots: int | None

    def note(self, gpu: bool) -> str:
        """What the user should know about who works, or nothing. gpu: whether some jobs need one."""
        ...

    def submit(self, job: dict[str, Any], *, gpu: bool) -> None:
        """Take a job. Of those with `gpu`, a device gets one at a time."""

    def next_event(self, timeout: float) -> Event | None:
        """The next event, None if none came within `timeout` seconds. Raises SchedulerLostError."""

    def close(self) -> None:
        """Stop at once; what is running is given up."""
