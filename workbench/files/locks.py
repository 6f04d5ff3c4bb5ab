"""Which process is at work on a file or a folder: locks that end with their process, however it ends.

What has the name of a temporary file or folder and is not locked was left behind by a process that was killed.
"""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: processes are then not kept apart, and what killed ones left stays
    fcntl = None

#: How often, and how many seconds apart, a folder is asked for that another process holds.
_TRIES, _PAUSE = 100, 0.01


def lock(path: Path) -> int | None:
    """Hold a file or folder for this process until the handle is closed, or the process ends.

    None where there are no such locks. Raises BlockingIOError where another process holds it.
    """
    if fcntl is None:
        return None
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return handle
    except BlockingIOError:
        os.close(handle)
        raise
    except OSError:  # a network file system without locks
        os.close(handle)
        return None


def unlock(handle: int | None) -> None:
    if handle is not None:
        os.close(handle)


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[bool]:
    """One process at a time makes and sweeps temporary names in a folder: what is not locked yet is no ruin.

    Gives whether this one is alone. It does not wait long: then nothing is swept, and all else goes on.
    """
    handle = None
    for _ in range(_TRIES):
        try:
            handle = lock(folder)
            break
        except BlockingIOError:
            time.sleep(_PAUSE)
        except OSError:  # a folder that may be written, but not read
            break
    try:
        yield handle is not None
    finally:
        unlock(handle)


def sweep(folder: Path, prefix: str, pattern: str) -> None:
    """Remove files and folders that nobody holds. prefix: of their names; pattern: of the rest, as in glob."""
    if fcntl is None:
        return
    for ruin in folder.glob(glob.escape(prefix) + pattern):
        with contextlib.suppress(OSError):
            handle = lock(ruin)
            if handle is not None:
                shutil.rmtree(ruin) if ruin.is_dir() and not ruin.is_symlink() else ruin.unlink()
                unlock(handle)
