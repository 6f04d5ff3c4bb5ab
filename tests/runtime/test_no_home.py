"""Nobody's containers: no home directory, one that cannot be written, a user id without a name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from workbench.assets import demo_model_path
from workbench.errors import CheckpointError
from workbench.models import paths
from workbench.models.hub import resolve
from workbench.runtime.choices import choose
from workbench.runtime.tuning import store
from workbench.runtime.tuning.tuned import Tuned

from .models import SHAPES, write_random

#: Run before anything else in a process: what getpwuid does for a user id without a name.
NAMELESS = """
import pwd, sys
def nobody(uid): raise KeyError(uid)
pwd.getpwuid = nobody
"""


@pytest.fixture
def homeless(monkeypatch):
    """This process, as a user without a home directory."""
    for name in ("HOME", "XDG_CACHE_HOME", "WORKBENCH_CACHE", "WORKBENCH_TUNING"):
        monkeypatch.delenv(name, raising=False)

    def nobody(uid):
        raise KeyError(uid)

    monkeypatch.setattr("pwd.getpwuid", nobody)
    store._warn_once.cache_clear()


@pytest.fixture
def unwritable(monkeypatch, tmp_path):
    """A home that is there and cannot be written, whoever runs the tests."""
    for name in ("XDG_CACHE_HOME", "WORKBENCH_CACHE", "WORKBENCH_TUNING"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(paths.os, "access", lambda path, mode: Path(path) != tmp_path)
    store._warn_once.cache_clear()
    return tmp_path


def test_no_home_has_no_folder_and_says_so_once(homeless, open_promised):
    assert paths.home() is None and store.folder() is None
    assert paths.expanded("~/models") == Path("~/models")
    device = open_promised()
    with pytest.warns(
        store.TuningFileWarning, match="tuning is not remembered: there is no home directory"
    ) as said:
        assert store.open_store(device) is None
        assert store.open_store(device) is None
    assert len(said) == 1
    assert "WORKBENCH_TUNING names a folder" in Tuned.of(None).missing


def test_a_home_that_cannot_be_written_says_so_once(unwritable, open_promised):
    with pytest.warns(
        store.TuningFileWarning, match=f"{unwritable}/.cache/workbench/tuning cannot be written"
    ) as said:
        for _ in range(2):
            opened = store.open_store(open_promised())
    assert len(said) == 1
    assert opened.read() == {}  # what somebody put there would be used all the same


def test_the_choices_say_it_too(homeless, open_promised, tmp_path):
    open_promised()  # skips where there is no adapter
    from workbench.models.families import architecture_of
    from workbench.models.source import open_source

    config = architecture_of(open_source(write_random(tmp_path / "model", SHAPES[0])).config)
    with pytest.warns(store.TuningFileWarning):
        chosen = choose(config, "wgpu", "f32", 16)
    said = {what: why for what, _, why in chosen.reasons}
    assert said["kernels"].startswith("tuning is not remembered")


def test_folders_that_can_be_written_are_told_apart(tmp_path):
    assert paths.can_be_written(tmp_path / "not" / "yet" / "there")
    (tmp_path / "file").write_text("")
    assert not paths.can_be_written(tmp_path / "file" / "below")


def test_a_model_under_a_home_that_is_not_there_is_an_error_of_ours(homeless):
    with pytest.raises(CheckpointError, match="no folder '~/nowhere'"):
        resolve("~/nowhere")


def test_downloads_get_a_folder_of_their_own(homeless, monkeypatch, tmp_path):
    monkeypatch.setattr(paths.tempfile, "gettempdir", lambda: str(tmp_path))
    for name in ("HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    paths.settle_hub_cache()
    chosen = Path(os.environ.pop("HF_HOME"))
    assert chosen.parent.parent == tmp_path and chosen.parent.stat().st_mode & 0o077 == 0
    chosen.parent.chmod(0o755)  # somebody else can look into it: another one is made
    paths.settle_hub_cache()
    other = Path(os.environ.pop("HF_HOME"))
    assert other.parent != chosen.parent
    monkeypatch.setenv("HF_HOME", "/chosen")
    paths.settle_hub_cache()
    assert os.environ["HF_HOME"] == "/chosen"


@pytest.mark.skipif(sys.platform == "win32", reason="there is a home directory")
def test_a_command_runs_without_a_home(tmp_path):
    """In a process of its own, and nothing is left in the folder where it runs."""
    script = NAMELESS + "from workbench.cli import main\nsys.exit(main(sys.argv[1:]))"
    gone = ("HOME", "XDG_CACHE_HOME", "WORKBENCH_CACHE", "WORKBENCH_TUNING", "HF_HOME", "MPLCONFIGDIR")
    environment = {name: value for name, value in os.environ.items() if name not in gone}
    arguments = ["generate", "--model", str(demo_model_path()), "--prompt", "Once", "--max-new-tokens", "3"]
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(REPOSITORY), "TMPDIR": str(tmp_path / "none")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Once upon a time") and list(tmp_path.iterdir()) == []
    if "backend: wgpu" in done.stderr:
        assert done.stderr.count("workbench: tuning is not remembered: there is no home directory") == 1
    assert "Traceback" not in done.stderr and "TuningFileWarning" not in done.stderr
