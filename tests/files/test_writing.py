"""Files and folders are written whole or not at all: a full disk, an error, a kill, two writers at once."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.support.disk import small_files
from workbench.errors import StorageError
from workbench.files import folders
from workbench.files.folders import Partial
from workbench.files.writing import os_error, storing, write_bytes, write_json, write_text, written_whole


def test_what_is_written_is_there_and_nothing_else(tmp_path):
    path = tmp_path / "a" / "b" / "x.json"
    write_json(path, {"é": [1, None]})
    assert path.read_bytes() == '{\n  "é": [\n    1,\n    null\n  ]\n}\n'.encode()
    write_text(path, "half of a pair: \ud83d", durable=False)
    assert path.read_text() == r"half of a pair: \ud83d"
    assert [each.name for each in path.parent.iterdir()] == ["x.json"]
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.parametrize(
    "error", [ZeroDivisionError, KeyboardInterrupt, OSError(errno.ENOSPC, "No space left")]
)
def test_an_error_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "x"
    write_bytes(path, b"old")
    wanted = StorageError if isinstance(error, OSError) else error
    with pytest.raises(wanted), written_whole(path) as partial:
        partial.write_bytes(b"new")
        raise error
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, float("nan"))
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "the disk is full; free some space"),
        (errno.EDQUOT, "quota"),
        (errno.EFBIG, "ulimit -f"),
        (errno.EROFS, "read-only; name another place"),
        (errno.EACCES, "permission"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_the_error_names_the_path_and_what_to_do(tmp_path, number, advice):
    with (
        pytest.raises(StorageError, match=f"{tmp_path}/x: cannot be written: .*{advice}") as raised,
        storing(tmp_path / "x"),
    ):
        raise OSError(number, os.strerror(number))
    assert raised.value.errno == number and isinstance(raised.value, OSError)
    assert os_error(Exception(f"I/O error (os error {number})")).errno == number
    with pytest.raises(FileNotFoundError), storing(tmp_path / "x"):
        open("/no/such/file")  # noqa: SIM115 (about another file, which keeps its own message)


def test_a_disk_that_fills_up_leaves_nothing(tmp_path):
    with small_files(1000), pytest.raises(StorageError, match=r"x: cannot be written: .*ulimit"):
        write_bytes(tmp_path / "x", bytes(2000))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["/dev/null", "folder", "folder/file/x"])
def test_what_is_no_file_is_not_replaced(tmp_path, place):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").touch()
    with pytest.raises(StorageError, match="cannot be written"):
        write_bytes(tmp_path / place, b"x")
    assert Path("/dev/null").is_char_device() and (tmp_path / "folder").is_dir()


def test_a_link_stays_one(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real" / "file")
    write_bytes(tmp_path / "link", b"x")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real" / "file").read_bytes() == b"x"


KILLED = """
import os, signal, sys
from pathlib import Path
from workbench.files.writing import written_whole
from workbench.files.folders import Partial
with written_whole(sys.argv[1]) as partial:
    partial.write_bytes(b"x" * 1000)
    held = Partial(Path(sys.argv[2]))
    (held.path / "file").write_bytes(b"x" * 1000)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_goes_with_the_next_writing(tmp_path):
    """And what a living one is writing stays."""
    file, folder = tmp_path / "x [1]", tmp_path / "y [1]"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    for _ in range(2):
        subprocess.run([sys.executable, "-c", KILLED, str(file), str(folder)], env=environment, check=False)
    assert len(list(tmp_path.iterdir())) == 2  # the second has removed what the first left
    with written_whole(file) as alive:
        alive.write_bytes(b"1")
        write_bytes(file, b"2")
        other = Partial(folder)
        Partial(folder).put_in_place()
        assert alive.exists() and other.path.exists()
        other.remove()
    assert file.read_bytes() == b"1" and sorted(each.name for each in tmp_path.iterdir()) == [
        "x [1]",
        "y [1]",
    ]


def filled(target: Path, text: str) -> Partial:
    partial = Partial(target)
    (partial.path / "file").write_text(text)
    return partial


@pytest.mark.parametrize("can", [True, False], ids=["exchanged", "by two renames"])
def test_folders_take_each_others_place(tmp_path, monkeypatch, can):
    if not can:

        def cannot(*_: object) -> None:
            raise OSError(errno.EINVAL, "Invalid argument")

        monkeypatch.setattr(folders, "exchange", cannot)
    target = tmp_path / "model"
    for text in ("one", "two", "three"):
        filled(target, text).put_in_place()
        assert (target / "file").read_text() == text and [each.name for each in tmp_path.iterdir()] == [
            "model"
        ]


def test_a_folder_that_is_replaced_is_there_at_every_moment(tmp_path):
    target, missing, done = tmp_path / "model", [], threading.Event()
    filled(target, "0").put_in_place()

    def look() -> None:
        while not done.is_set():
            if not (target / "file").exists() and not (target / "file").exists():
                missing.append(1)

    try:
        folders.exchange(target, target)
    except OSError as error:
        pytest.skip(f"this file system cannot exchange names ({error})")
    looking = threading.Thread(target=look)
    looking.start()
    for number in range(200):
        filled(target, str(number)).put_in_place()
    done.set()
    looking.join()
    assert not missing


def test_a_folder_that_was_only_moved_away_is_put_back(tmp_path):
    """As after a kill between two renames, where the system cannot exchange names."""
    (tmp_path / ".model.replaced-01234567").mkdir()
    (tmp_path / ".model.replaced-01234567" / "file").write_text("old")
    Partial(tmp_path / "model").remove()
    assert (tmp_path / "model" / "file").read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["model"]
