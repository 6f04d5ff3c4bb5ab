"""Reading files that others have put there: regular files alone, opened without waiting.

A FIFO would be waited for, a device could give bytes for ever or act on being opened. So what lies at a path is looked
at before it is opened, opened with O_NONBLOCK, and looked at again. Whatever is wrong is an `OSError` whose `strerror`
reads on behind "cannot be read: ", so that callers name the file and what it was to be, once.
"""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

_KINDS = (
    (stat.S_ISDIR, "folder", errno.EISDIR),
    (stat.S_ISFIFO, "FIFO", errno.EINVAL),
    (stat.S_ISSOCK, "socket", errno.EINVAL),
    (stat.S_ISCHR, "device", errno.EINVAL),
    (stat.S_ISBLK, "device", errno.EINVAL),
)


def _require_regular(mode: int, path: str | os.PathLike) -> None:
    if stat.S_ISREG(mode):
        return
    kind, code = next(((kind, code) for test, kind, code in _KINDS if test(mode)), ("special", errno.EINVAL))
    raise OSError(code, f"is a {kind}, not a regular file", str(path))


def open_regular(path: str | os.PathLike) -> BufferedReader:
    """A regular file (or a link to one) opened for reading bytes. Raises OSError for anything else, at once."""
    try:
        _require_regular(os.stat(path).st_mode, path)
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError as error:  # a NUL in the path
        raise OSError(errno.EINVAL, str(error), str(path)) from None
    try:
        _require_regular(os.fstat(handle).st_mode, path)
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def is_regular(path: str | os.PathLike) -> bool:
    """Whether an optional file is there. Raises OSError where something else stands in its place."""
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    _require_regular(mode, path)
    return True


def require_regular(path: str | os.PathLike) -> Path:
    """The path, for a library that opens it itself. Raises OSError as `open_regular` does."""
    open_regular(path).close()
    return Path(path)


def read_bytes(path: str | os.PathLike, most: int | None = None) -> bytes:
    """The whole file, of at most `most` bytes where that is given. Raises OSError."""
    with open_regular(path) as file:
        if most is None:
            return file.read()
        found = os.fstat(file.fileno()).st_size
        if found <= most and len(data := file.read(most + 1)) <= most:
            return data
    raise OSError(errno.EFBIG, f"has {max(found, most + 1)} bytes, {most} are allowed", str(path))


def read_text(path: str | os.PathLike, most: int | None = None) -> str:
    """The whole file as UTF-8, newlines as they are. Raises OSError, and UnicodeDecodeError."""
    return read_bytes(path, most).decode("utf-8")
