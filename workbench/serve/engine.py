"""A scheduler at work in a thread: requests come from any thread, and a device that is lost is replaced.

One thread has the batch. What it gives goes to the jobs themselves. When a device is lost, or anything happens that no
job is to blame for, the jobs that ran end with that error, those that wait go on waiting, and the batch is made anew,
on a new device where need be; until a step has run there, nothing is taken.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

from workbench.errors import WorkbenchError
from workbench.runtime.jobs import Job, finish
from workbench.runtime.scheduler import Scheduler

from .errors import STOPPING, QueueFullError, UnavailableError

log = logging.getLogger(__name__)

#: Rows of prompts in a step that others wait for: the step of 256 of an 8B model on a large GPU takes 0.1 s.
CHUNK = 256
#: About how long greedy tokens are computed without being looked at, seconds: less than a reader notices.
GROUP_S = 0.02
#: Seconds between two attempts to replace a device: the first wait, and the longest.
FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 10.0
#: Seconds that `close` waits for a step to end.
CLOSE_S = 60.0


class Engine:
    """model: of `workbench.load`. sequences: jobs side by side; queue: jobs that may wait beside them. reuse: whether
    what sequences hold of a prompt is not read again.

    Raises `OutOfMemoryError` for what does not fit, and whatever a first step raises.
    """

    def __init__(self, model: Any, sequences: int, queue: int, *, reuse: bool = True) -> None:
        self.model, self.sequences, self.queue, self.reuse = model, sequences, queue, reuse
        self._scheduler = self._opened()
        self._condition = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._refused: str | None = None  # nothing is taken any more
        self._starting: str | None = None  # nothing is taken until a device has been replaced
        self._ending: Exception | None = None  # nothing goes on
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    # ---- from any thread ---------------------------------------------------------------------------------------

    @property
    def unavailable(self) -> str | None:
        """Why nothing is taken at the moment; None if jobs are."""
        return self._refused or self._starting

    @property
    def running(self) -> int:
        """Jobs that have a sequence."""
        return self._scheduler.running

    @property
    def waiting(self) -> int:
        """Jobs that have none yet."""
        return len(self._waiting)

    def submit(self, jobs: Sequence[Job]) -> None:
        """Let jobs wait for their turn, all or none. Raises `UnavailableError` and `QueueFullError`."""
        with self._condition:
            if (why := self.unavailable) is not None:
                raise UnavailableError(why)
            if len(self._waiting) + len(jobs) > self.queue:
                raise QueueFullError(
                    f"{len(self._waiting)} answers are waiting, and {len(jobs)} more do not fit into a queue of "
                    f"{self.queue}; try again later"
                )
            self._waiting += jobs
            self._condition.notify()

    def cancel(self, jobs: Iterable[Job]) -> None:
        """End jobs before the next step; those that have ended stay as they are."""
        with self._condition:
            for job in jobs:
                job.cancelled = True
                with contextlib.suppress(ValueError):
                    self._waiting.remove(job)

    def refuse(self, why: str) -> None:
        """Take no more jobs; those that there are go on."""
        with self._condition:
            self._refused = self._refused or why

    def end_all(self) -> None:
        """End all jobs before the next step, and take no more."""
        with self._condition:
            self._refused = self._refused or STOPPING
            self._ending = UnavailableError(self._refused)
            self._condition.notify()

    def close(self) -> None:
        """End all jobs and give the batch back."""
        self.end_all()
        self._thread.join(CLOSE_S)

    # ---- the engine's thread -----------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            with self._condition:
                while not (self._waiting or self._scheduler.busy or self._ending):
                    self._condition.wait()
                if self._ending is not None:
                    break
                refused = self._hand_over()
            for job, error in refused:
                finish(job, error=error)
            try:
                self._scheduler.step()
            except Exception as error:
                self._replace(error)
        self._end_waiting(self._ending)
        self._scheduler.end_all(self._ending)
        self._close_batch()

    def _hand_over(self) -> list[tuple[Job, Exception]]:
        """Give the scheduler as many jobs as there are sequences free; those that it refuses, with why."""
        refused = []
        while self._waiting and self._scheduler.free:
            job = self._waiting.popleft()
            try:
                self._scheduler.submit(job)
            except Exception as error:  # of this job alone: the others go on
                refused.append((job, error))
        return refused

    def _opened(self) -> Scheduler:
        """A batch in which a step has run, so that what it needs is there."""
        batch = self.model.batch(self.sequences)
        try:
            batch.feed({0: [0]})
            batch.reset(0)
        except BaseException:
            with contextlib.suppress(Exception):
                batch.close()
            raise
        return Scheduler(batch, chunk=CHUNK, group_s=GROUP_S, reuse=self.reuse)

    def _replace(self, error: Exception) -> None:
        """Another batch, on another device where the one that there was is lost."""
        if isinstance(error, WorkbenchError):
            log.warning("answers ended: %s", error)
        else:
            log.error("answers ended by what should not have happened", exc_info=error)
        self._starting = f"starting again after: {error}"
        self._scheduler.end_all(error)
        self._close_batch()
        wait = FIRST_WAIT_S
        while self._ending is None:
            try:
                self._scheduler = self._opened()
            except Exception as again:
                log.warning("not yet: %s", again)
                self._end_waiting(UnavailableError(f"starting again, which fails: {again}"))
                with self._condition:
                    self._condition.wait_for(lambda: self._ending is not None, wait)
                wait = min(2 * wait, LONGEST_WAIT_S)
            else:
                self._starting = None
                log.warning("answering again")
                return

    def _close_batch(self) -> None:
        try:
            self._scheduler.batch.close()
        except Exception as error:  # what a lost device says to that is not new
            log.debug("a batch was not given back: %s", error)

    def _end_waiting(self, error: Exception | None) -> None:
        with self._condition:
            ended, self._waiting = list(self._waiting), deque()
        for job in ended:
            finish(job, error=error)
