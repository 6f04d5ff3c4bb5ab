"""The host's memory: running out of it as an error of the workbench's own, and how much of it was used at most."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from workbench.errors import OutOfMemoryError

#: What PyTorch says in a bare RuntimeError where it cannot allocate, or where a size is beyond any memory.
SAID = ("can't allocate memory", "not enough memory", "bad_alloc", "bad allocation", "calculation overflowed")
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@contextlib.contextmanager
def out_of_memory(what: str) -> Iterator[None]:
    """What numpy and PyTorch raise where the host's memory does not suffice becomes an `OutOfMemoryError`.

    what: is computed or made, in words.
    """
    try:
        yield
    except MemoryError as error:
        raise OutOfMemoryError(_message(what, error)) from error
    except RuntimeError as error:
        if not any(said in str(error) for said in SAID):
            raise
        raise OutOfMemoryError(_message(what, error)) from error


def _message(what: str, error: Exception) -> str:
    said = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return f"the host's memory does not suffice for {what}: {said}"


def reset_peak() -> bool:
    """Begin a new `peak_bytes`; whether the system can (Linux)."""
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    return True


def peak_bytes() -> int | None:
    """The most memory of this process that was resident since `reset_peak`, or since it began where that cannot be
    told apart; None where the system does not say."""
    with contextlib.suppress(OSError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    try:
        import resource
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most << 10
