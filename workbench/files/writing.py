"""Writing a file whole: under another name beside it, flushed to the disk, then renamed into place.

    with written_whole(path) as partial:
        figure.savefig(partial, format="png")

At `path` is always the old file or the new one. Where anything goes wrong, the disk being full included, what was
written is removed and the old file stays. A process that is killed leaves the file of the other name, hidden
(`.NAME.....part`), and the next one that writes `path` removes it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from workbench.errors import StorageError
from workbench.files.locks import alone_in, lock, sweep, unlock
from workbench.files.reading import is_regular

_ELSEWHERE = "name another place"
_WHY = {
    errno.ENOSPC: f"the disk is full; free some space, or {_ELSEWHERE}",
    errno.EDQUOT: f"the disk quota is used up; free some space, or {_ELSEWHERE}",
    errno.EFBIG: f"the file would be larger than is allowed here (see `ulimit -f`); raise the limit, or {_ELSEWHERE}",
    errno.EROFS: f"the file system is read-only; {_ELSEWHERE}",
    errno.EACCES: f"permission is denied; {_ELSEWHERE}, or change the folder's permissions",
    errno.EPERM: f"permission is denied; {_ELSEWHERE}, or change the folder's permissions",
    errno.ENOTDIR: f"a part of the path is a file, not a folder; {_ELSEWHERE}",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
}
#: The end of a temporary name, in which the `?` are random.
_PART = "????????.part"
_IN_TEXT = re.compile(r"os error (\d+)")


def storage_error(path: str | os.PathLike, error: OSError) -> StorageError:
    """What a failed write of `path` is told as: why, and what to do."""
    why = _WHY.get(error.errno or 0) or error.strerror or str(error) or type(error).__name__
    return StorageError(f"{path}: cannot be written: {why}", error.errno)


@contextlib.contextmanager
def storing(path: str | os.PathLike) -> Iterator[None]:
    """The OSErrors of the block as a StorageError that names `path`; one about a file elsewhere stays as it is."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        folder = os.path.dirname(os.path.abspath(path))
        if error.filename is not None and not os.path.abspath(os.fsdecode(error.filename)).startswith(folder):
            raise
        raise storage_error(path, error) from error


def os_error(error: Exception) -> OSError:
    """The OSError of which a library's own exception tells: safetensors writes "(os error 28)"."""
    found = _IN_TEXT.search(str(error))
    return OSError(int(found[1]), os.strerror(int(found[1]))) if found else OSError(str(error))


@contextlib.contextmanager
def written_whole(path: str | os.PathLike, *, durable: bool = True) -> Iterator[Path]:
    """A path beside `path` to write to, which takes its name at the end of the block; gone if that fails.

    A link is followed, and what it leads to replaced; folders on the way are made. durable: wait until the disk has
    it; without, a crash of the machine may lose it. Raises StorageError, which names `path`.
    """
    with storing(path):
        real = Path(os.path.realpath(path))
        is_regular(real)  # what is there may be replaced if it is a file, and not if it is /dev/null
        real.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{real.name[:60]}."
        with alone_in(real.parent) as alone:
            if alone:
                sweep(real.parent, prefix, _PART)
            partial = real.parent / f"{prefix}{secrets.token_hex(4)}.part"
            partial.touch(exist_ok=False)
            held = lock(partial)
        try:
            yield partial
            if durable:
                flush(partial)
            os.replace(partial, real)
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise
        finally:
            unlock(held)
        if durable:
            flush(real.parent)


def flush(path: Path) -> None:
    """Wait until the disk has what was written to a file, or the names in a folder."""
    folder = path.is_dir()
    # Some systems do not open folders, and some file systems know no fsync of them.
    with contextlib.suppress(OSError) if folder else contextlib.nullcontext():
        handle = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_bytes(path: str | os.PathLike, data: bytes | memoryview, *, durable: bool = True) -> None:
    """Write a file whole or not at all. Raises StorageError."""
    with written_whole(path, durable=durable) as partial, partial.open("wb") as file:
        file.write(data)


def write_text(path: str | os.PathLike, text: str, *, durable: bool = True) -> None:
    """Write UTF-8 whole or not at all; what has no UTF-8 (half a surrogate pair, from a file name that is none) is
    escaped. Raises StorageError."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"), durable=durable)


def json_bytes(values: Any) -> bytes:
    """The values as indented JSON in UTF-8. Raises ValueError for NaN and infinities."""
    return (json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode(
        "utf-8", "backslashreplace"
    )


def write_json(path: str | os.PathLike, values: Any, *, durable: bool = True) -> None:
    """The values as indented JSON, whole or not at all. Raises StorageError, and ValueError for NaN and infinities."""
    write_bytes(path, json_bytes(values), durable=durable)
