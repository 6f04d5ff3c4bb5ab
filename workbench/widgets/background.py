"""Work beside the kernel: one task of a widget at a time, on a thread, stopped between its steps."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

#: Seconds between two reports of how far work has come.
REPORT_S = 0.1
#: Seconds after which work that waits asks whether it is to end.
LOOK_S = 0.2


class Task:
    """`work(stopped)` on a thread of its own, started after `before` has ended. failed: called with what it raised.

    `stopped` is a function that the work asks between its steps; whatever it still does after a stop is unseen. A
    program that ends stops its tasks and waits for them: PyTorch aborts a process whose interpreter goes away beneath.
    """

    def __init__(
        self,
        work: Callable[[Callable[[], bool]], Any],
        failed: Callable[[BaseException], None],
        before: Task | None = None,
    ):
        self._stop = threading.Event()
        self._work, self._failed, self._before = work, failed, before
        # No daemon: the interpreter waits for its end before it takes itself down.
        self._thread = threading.Thread(
            target=self._run, name=f"workbench {type(self).__name__}", daemon=False
        )
        self._thread.start()

    def _run(self) -> None:
        if self._before is not None:
            self._before.join()
            self._before = None  # else tasks would keep all their predecessors
        if self.stopped():
            return
        try:
            self._work(self.stopped)
        except BaseException as error:
            if not self.stopped():
                self._failed(error)

    def stopped(self) -> bool:
        """Whether it is to end: it was asked to, or the program is ending."""
        return self._stop.is_set() or not threading.main_thread().is_alive()

    def stop(self) -> None:
        """Ask it to end; does not wait."""
        self._stop.set()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def join(self, timeout: float | None = None) -> bool:
        """Wait for its end; whether it has ended. A keyboard interrupt comes through and stops the task."""
        try:
            self._thread.join(timeout)
        except KeyboardInterrupt:
            self.stop()
            raise
        return not self.alive


def wait(event: threading.Event, seconds: float | None, stopped: Callable[[], bool]) -> None:
    """Wait for an event: for so long at most (None: for ever), and not beyond the time that the work is to end."""
    until = None if seconds is None else time.monotonic() + seconds
    while not event.is_set() and not stopped():
        left = LOOK_S if until is None else min(LOOK_S, until - time.monotonic())
        if left <= 0:
            return
        event.wait(left)


class Stopped(Exception):
    """Raised by a `meter` inside work that is to end; its task leaves it unseen."""


def meter(
    stopped: Callable[[], bool], report: Callable[[float, float | None], None]
) -> Callable[[float, float], None]:
    """A function progress(done, total) that ends the work once it is stopped, by raising `Stopped`.

    report: called at most ten times a second with the share that is done and the seconds left at this rate.
    """
    began = told = time.monotonic()

    def progress(done: float, total: float) -> None:
        nonlocal told
        if stopped():
            raise Stopped
        now = time.monotonic()
        if now - told >= REPORT_S or done >= total:
            told, share = now, done / total
            report(share, (now - began) * (1 - share) / share if share > 0 else None)

    return progress
