"""Folders of whoever runs this, also where nobody has a home: containers, with a user id that no name belongs to."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path | None:
    """The home directory, None where there is none to be found."""
    try:
        found = Path.home()
    except RuntimeError:  # neither HOME nor an entry for the user id
        return None
    return found if found.is_absolute() else None


def expanded(path: str | Path) -> Path:
    """A path with `~` and `~user` at its start replaced, as it is where they have no home directory."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def can_be_written(folder: Path) -> bool:
    """Whether files can be made in a folder, or in one that would have to be made first."""
    for there in (folder.absolute(), *folder.absolute().parents):
        try:
            there.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:  # not even to be looked into
            return False
        return there.is_dir() and os.access(there, os.W_OK | os.X_OK)
    return False
