"""Folders that are made whole: filled under another name beside the target, then exchanged with it.

`Partial` is that other name. It is locked while its process lives, so that the next one that writes the same target
can tell what a killed one left behind, and removes it.
"""

from __future__ import annotations

import ctypes
import errno
import glob
import os
import secrets
import shutil
import sys
from pathlib import Path

from workbench.errors import StorageError
from workbench.files.locks import alone_in, lock, sweep, unlock
from workbench.files.writing import flush, storing

_AT_FDCWD, _RENAME_EXCHANGE, _RENAME_SWAP = -100, 2, 2
#: What `exchange` fails with where system or file system cannot do it.
_CANNOT = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EXDEV)


def exchange(one: Path, other: Path) -> None:
    """Two names that are there change places in one step. Raises OSError, with one of `_CANNOT` where that is
    impossible."""
    names = os.fsencode(one), os.fsencode(other)
    library = None if sys.platform == "win32" else ctypes.CDLL(None, use_errno=True)
    if hasattr(library, "renameat2"):  # Linux
        failed = library.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE)
    elif sys.platform == "darwin":
        failed = library.renamex_np(*names, _RENAME_SWAP)
    else:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if failed:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(other))


class Partial:
    """A folder beside `target` to fill; then `put_in_place`, or `remove`. Raises StorageError, which names `target`.

    First removes what killed processes left of the same target, and puts back what one of them had moved away.
    exclusive: refuse where another process is filling one of the same target.
    """

    def __init__(self, target: Path, *, exclusive: bool = False) -> None:
        self.target = target
        with storing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            with alone_in(target.parent) as alone:
                _put_back(target)
                if alone:
                    for what in ("partial", "replaced"):
                        sweep(target.parent, f".{target.name}.{what}-", "????????")
                if exclusive and (others := _siblings(target, "partial")):
                    raise StorageError(
                        f"{target}: another process is filling {others[0].name} for it; wait until it has ended"
                    )
                self.path = self._sibling("partial")
                self.path.mkdir()
                self._lock = lock(self.path)

    def _sibling(self, what: str) -> Path:
        return self.target.parent / f".{self.target.name}.{what}-{secrets.token_hex(4)}"

    def put_in_place(self) -> None:
        """Give the folder its target's name. What is there goes; there is always one of the two, where the system can
        exchange names. Where it cannot, a process that is killed between two renames leaves the old one under
        another name, and the next one puts it back."""
        old = self.path
        with storing(self.target):
            flush(self.path)
            if not os.path.lexists(self.target):
                os.rename(self.path, self.target)
            else:
                try:
                    exchange(self.path, self.target)
                except OSError as error:
                    if error.errno not in _CANNOT:
                        raise
                    old = self._by_two_renames()
            flush(self.target.parent)
        shutil.rmtree(old, ignore_errors=True)
        self._release()

    def _by_two_renames(self) -> Path:
        old = self._sibling("replaced")
        os.rename(self.target, old)
        try:
            os.rename(self.path, self.target)
        except BaseException:
            os.rename(old, self.target)
            raise
        return old

    def remove(self) -> None:
        """Nothing stays of what was written; the target is as it was."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._release()

    def _release(self) -> None:
        unlock(self._lock)
        self._lock = None


def _put_back(target: Path) -> None:
    """What a killed process had moved away and not replaced."""
    for moved in _siblings(target, "replaced"):
        if not os.path.lexists(target):
            os.rename(moved, target)


def _siblings(target: Path, what: str) -> list[Path]:
    return sorted(target.parent.glob(f"{glob.escape(f'.{target.name}.{what}-')}????????"))
