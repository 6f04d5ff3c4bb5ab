"""Reading damaged files within limits: computing by this process's own time, waiting by the clock's, and memory."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MOST_SECONDS, MOST_WAITING, MOST_MIB = 2.0, 60.0, 500


class Hung(BaseException):
    """Raised by the alarm in the middle of a reading that takes too long."""


@dataclass
class Worst:
    """The slowest reading so far, in seconds, and the largest, in MiB."""

    seconds: float = 0.0
    mib: float = 0.0


def memory_kib(which: str) -> int:
    """This process's VmRSS, or VmHWM: the largest since the mark was last reset."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{which}:")[1].split()[0])


def reset_memory_mark() -> None:
    Path("/proc/self/clear_refs").write_text("5")


@contextmanager
def held(what: str, worst: Worst) -> Iterator[None]:
    """AssertionError, which names `what`, for anything that the block raises, and for a block beyond the limits."""

    def alarm(*_: object) -> None:
        raise Hung

    before = signal.signal(signal.SIGALRM, alarm)
    reset_memory_mark()
    start_memory, began = memory_kib("VmRSS"), time.process_time()
    signal.setitimer(signal.ITIMER_REAL, MOST_WAITING)
    try:
        yield
    except BaseException as failed:
        raise AssertionError(f"{what}: {failed!r}") from failed
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    worst.seconds = max(worst.seconds, time.process_time() - began)
    assert worst.seconds < MOST_SECONDS, f"{what} took {worst.seconds:.1f} s"
    worst.mib = max(worst.mib, (memory_kib("VmHWM") - start_memory) / 1024)
    assert worst.mib < MOST_MIB, f"{what} took {worst.mib:.0f} MiB"
