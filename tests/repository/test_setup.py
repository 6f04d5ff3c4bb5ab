"""The scripts behind `make`: what they report, and the status they end with."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")


@pytest.fixture
def folder(tmp_path) -> Path:
    """A folder with the scripts and the Makefile only, so that nothing here is set up."""
    shutil.copytree(REPOSITORY / ".ci", tmp_path / ".ci")
    shutil.copy(REPOSITORY / "Makefile", tmp_path)
    return tmp_path


def run(folder: Path, *command: str, **environment: str) -> subprocess.CompletedProcess:
    # Under `make test` a make started here would take itself for a recursive one, and say so.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        command,
        cwd=folder,
        env={**inherited, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
    )


@pytest.mark.parametrize(
    ("printed", "status", "last"),
    [
        ("===== 3 passed, 1 skipped in 0.52s =====", 0, "===== 3 passed, 1 skipped in 0.52s ====="),
        (
            "1 failed, 2 passed, 1 warning in 75.21s (0:01:15)",
            2,
            "1 failed, 2 passed, 1 warning in 75.21s (0:01:15)",
        ),
        ("=== no tests ran in 0.01s ===", 2, "=== no tests ran in 0.01s ==="),
        ("setup: no Python", 2, "the tests did not run (make test: exit status 2)"),
    ],
)
def test_ci_ends_with_the_closing_line_and_the_status_of_make(folder, printed, status, last):
    (folder / "Makefile").write_text(f"test:\n\t@echo collecting\n\t@echo '{printed}'\n\t@exit {status}\n")
    done = run(folder, ".ci/run", CI="true")
    assert done.stdout.splitlines()[0] == "collecting"
    assert done.stdout.splitlines()[-1] == last
    assert done.returncode == status


def test_ci_runs_another_target_when_asked(folder):
    (folder / "Makefile").write_text("test-all:\n\t@echo '1 passed in 1.00s'\n")
    done = run(folder, ".ci/run", "test-all", CI="true")
    assert done.returncode == 0 and done.stdout.splitlines() == ["1 passed in 1.00s"] * 2


def test_an_unsuitable_python_is_named_with_the_remedy(folder):
    old = folder / "old-python"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.2\nexit 1\n')
    old.chmod(0o755)
    done = run(folder, ".ci/setup", "packages", PYTHON=str(old))
    assert done.returncode == 1
    assert "Python 3.11 or newer is needed" in done.stderr and "is Python 3.9.2" in done.stderr
    assert "make PYTHON=" in done.stderr
    assert not (folder / ".venv").exists()


@pytest.mark.parametrize("step", ["packages", "docs"])
def test_the_environment_of_another_folder_is_left_alone(folder, step):
    """A worktree beside the clone, with a link to its .venv: what pip installs there would be this folder's code."""
    other = folder / "other" / ".venv"
    (other / "bin").mkdir(parents=True)
    (folder / "other" / "pyproject.toml").touch()
    python = other / "bin" / "python"
    python.write_text(f'#!/bin/sh\necho "$@" >> {folder}/asked\n[ "$1" = -m ]\n')
    python.chmod(0o755)
    (folder / ".venv").symlink_to(other)
    done = run(folder, ".ci/setup", step)
    assert done.returncode == 1 and f"environment of another folder, {other}" in done.stderr
    asked = (folder / "asked").read_text() if (folder / "asked").exists() else ""
    assert "pip install" not in asked and not (other / ".packages").exists()


def test_unknown_steps_are_refused(folder):
    done = run(folder, ".ci/setup", "everything")
    assert done.returncode == 2
    assert "packages docs vulkan browser node tint" in done.stderr


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_make_alone_lists_every_target(folder):
    done = run(folder, "make")
    assert done.returncode == 0, done.stderr
    listed = [line.split()[0] for line in done.stdout.splitlines()]
    assert listed == [
        *("help", "setup", "demo", "real", "test", "test-all", "wheel-check", "lab", "bench", "docs"),
        *("links", "lint"),
    ]
