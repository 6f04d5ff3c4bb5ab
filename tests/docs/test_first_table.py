"""The README's way from a clean clone to the first table of one's own checkpoint: at most four commands, run here."""

from __future__ import annotations

import dataclasses
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.eval.conftest import byte_tokenizer
from tests.runtime.models import STACKABLE, write_random
from tests.support.vulkan import without_vulkan

SECTION = "## The first table of your own checkpoint"


@pytest.fixture(scope="module")
def lines() -> list[str]:
    section = (REPOSITORY / "README.md").read_text("utf-8").partition(SECTION)[2]
    found = re.search(r"```sh\n(.*?)```", section, re.DOTALL)
    assert found, "the commands stand in the first block of the section"
    return found[1].strip().splitlines()


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """A model of one layer over bytes: what it costs does not depend on what it says."""
    folder = write_random(tmp_path / "mine", dataclasses.replace(STACKABLE, layers=1, vocab=259))
    byte_tokenizer().save_pretrained(folder)
    return folder


def test_it_is_four_commands_the_first_of_which_clones_and_sets_up(lines):
    assert len(lines) <= 4
    clone, make, *own = lines
    assert re.fullmatch(r"git clone \S+ (\S+) && cd \1", clone)
    assert all(line.startswith(".venv/bin/workbench ") for line in own)
    if shutil.which("make"):
        told = [*shlex.split(make), "--dry-run", "--old-file", ".venv/.packages"]
        done = subprocess.run(told, cwd=REPOSITORY, capture_output=True, encoding="utf-8", timeout=60)
        assert done.returncode == 0, done.stderr


@pytest.mark.release
def test_they_make_a_table_of_a_checkpoint(lines, checkpoint, tmp_path):
    """As a user runs them, on a machine without an adapter: what the kernels compute there is tested elsewhere."""
    text = tmp_path / "text.txt"
    text.write_text("Once upon a time there was a little girl named Lily. She had a red ball. " * 10)
    said = {
        ".venv/bin/workbench": f"{sys.executable} -m workbench.cli",
        "DIR_OR_HUB_ID": "mine",
        "FILE": text.name,
    }
    for line in lines[2:]:
        words = shlex.split(" ".join(said.get(word, word) for word in line.split()))
        environment = {**without_vulkan(), "PYTHONPATH": str(REPOSITORY)}
        done = subprocess.run(
            words, cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8", timeout=120
        )
        assert done.returncode == 0, done.stderr
    head, _, *rows = [line for line in done.stdout.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in (head, *rows)]
    table = {row[0]: dict(zip(cells[0], row, strict=True)) for row in cells[1:]}
    assert set(table) == {"mine", "int4"}
    assert float(table["int4"]["bits a weight"]) < 10 < float(table["mine"]["bits a weight"])
    assert re.fullmatch(r"[+-][\d.]+ ± [\d.]+", table["int4"]["paired change ± SE, %"])
    assert float(table["int4"]["KL ± SE, nats"].split(" ± ")[0]) > 0
