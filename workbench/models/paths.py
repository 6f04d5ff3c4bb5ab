"""Folders of whoever runs this, also where nobody has a home: containers, with a user id that no name belongs to."""

from __future__ import annotations

import contextlib
import os
import tempfile
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


def cache_folder() -> Path | None:
    """`$WORKBENCH_CACHE`, else `workbench` in the user's folder for caches; None where there is no home directory."""
    given, caches = os.environ.get("WORKBENCH_CACHE", ""), os.environ.get("XDG_CACHE_HOME", "")
    if given:
        return expanded(given)
    if os.path.isabs(caches):  # the XDG base directory specification has relative paths ignored
        return Path(caches) / "workbench"
    own = home()
    return None if own is None else own / ".cache" / "workbench"


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


def settle_hub_cache() -> None:
    """Give the Hugging Face libraries a folder for downloads where there is no home directory that could hold it: they
    would fail at the first hub id, or fill the current folder. Theirs alone is changed, and only if nobody chose it.
    """
    own = home()
    chosen = any(os.environ.get(name) for name in ("HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME"))
    if chosen or (own is not None and can_be_written(own / ".cache" / "huggingface")):
        return
    if own is not None and (own / ".cache" / "huggingface").is_dir():
        return  # it may hold what is asked for
    with contextlib.suppress(OSError):  # no folder for temporary files either
        os.environ["HF_HOME"] = str(_private_folder() / "huggingface")


def _private_folder() -> Path:
    """A folder for temporary files that is this user's alone, the same one in the next process."""
    folder = Path(tempfile.gettempdir()) / f"workbench-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    there = folder.lstat()
    if there.st_uid != os.getuid() or there.st_mode & 0o077 or folder.is_symlink():
        return Path(tempfile.mkdtemp(prefix="workbench-"))
    return folder
