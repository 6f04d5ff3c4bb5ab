"""A calibrated conversion that is killed goes on from its last finished layer, to the same bytes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.convert.conftest import small_checkpoint
from workbench.convert.convert import convert
from workbench.convert.options import ConvertOptions
from workbench.convert.provenance import HashesBeside
from workbench.convert.work import WorkFolder
from workbench.errors import WorkbenchError
from workbench.formats.spec import WeightFormat
from workbench.formats.tensor import float_tensor
from workbench.models.checkpoint import Checkpoint

LAYERS = 8


OPTIONS = ConvertOptions(WeightFormat("int2", block_size=32), quantizer="gptq")


def command(source: Path, text: Path, output: Path) -> list[str]:
    arguments = (
        "--format int2 --block-size 32 --quantizer gptq --calibration-windows 16 --calibration-length 32"
    )
    return [
        *(sys.executable, "-m", "workbench.cli", "quantize", "--quiet", *arguments.split()),
        *("--model", str(source), "--output", str(output), "--calibration", str(text)),
    ]


def contents(output: Path) -> dict[str, object]:
    """Hashes of all files; of the manifest everything but when it was written and how long that took."""
    found: dict[str, object] = {
        str(path.relative_to(output)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in output.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }
    manifest = json.loads((output / "manifest.json").read_text())
    del manifest["checksum"], manifest["provenance"]["created"], manifest["provenance"]["seconds"]
    return found | {"manifest.json": manifest}


@pytest.mark.release
def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path, text):
    source = small_checkpoint(tmp_path / "source", num_hidden_layers=LAYERS)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(
        command(source, text, tmp_path / "whole"), env=environment, check=True, capture_output=True
    )

    output = tmp_path / "killed"
    run = subprocess.Popen(command(source, text, output), env=environment, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob(".killed.work-*/stage-0002.safetensors")):
        assert run.poll() is None and time.monotonic() < deadline, run.stderr.read()
        time.sleep(0.002)
    run.send_signal(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    run.stderr.close()
    assert not output.exists()
    [work] = tmp_path.glob(".killed.work-*")
    finished = len(list(work.glob("stage-*.safetensors")))
    assert 3 <= finished < LAYERS + 2
    first = {path.name: path.stat().st_mtime_ns for path in sorted(work.glob("stage-*"))[:finished]}

    told = [each for each in command(source, text, output) if each != "--quiet"]
    again = subprocess.run(told, env=environment, check=True, capture_output=True, text=True)
    assert f"{len(first)} of {LAYERS + 2} stages were done by an earlier run" in again.stderr
    assert contents(output) == contents(tmp_path / "whole")
    assert not list(tmp_path.glob(".*"))


def test_other_options_find_nothing_of_an_interrupted_run(tmp_path, calibration, monkeypatch):
    source = small_checkpoint(tmp_path / "source")
    options = ConvertOptions(
        WeightFormat("int4", block_size=32), quantizer="grid-importance", calibration=calibration
    )
    commits = []
    commit = WorkFolder.commit

    def interrupted(self, *arguments):
        if len(commits) == 2:
            raise KeyboardInterrupt
        commits.append(self.path.name)
        commit(self, *arguments)

    monkeypatch.setattr(WorkFolder, "commit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "out", options)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.glob(".out*")] == commits[:1]
    other = replace(options, calibration=replace(calibration, seed=1))
    assert not any("earlier run" in note for note in convert(source, tmp_path / "out", other).notes)
    notes = convert(source, tmp_path / "out", replace(options, overwrite=True)).notes
    assert "2 of 4 stages were done by an earlier run" in notes


def test_two_runs_do_not_share_a_work_folder(tmp_path):
    with (
        WorkFolder(tmp_path / "out", "0123"),
        pytest.raises(WorkbenchError, match="another conversion with this output is running"),
    ):
        WorkFolder(tmp_path / "out", "0123")


def test_hashes_are_given_up_with_the_conversion(tmp_path):
    source = Checkpoint.open(small_checkpoint(tmp_path / "source"))
    os.truncate(source.path / "model.safetensors", 1 << 34)  # sparse: hashing it would take many seconds
    with pytest.raises(KeyboardInterrupt), HashesBeside(source) as hashes:
        raise KeyboardInterrupt
    with pytest.raises(InterruptedError, match="given up"):
        hashes.result()


def test_a_work_folder_that_is_half_removed_is_no_beginning(tmp_path, monkeypatch):
    """A process that is killed while it removes the folder leaves files in any order, but never the first stage."""
    work = WorkFolder(tmp_path / "out", "0123")
    tensor = float_tensor("a", np.zeros(3, np.float32), "f32")
    for _ in range(2):
        work.commit([tensor], {}, {"hidden": np.zeros(3, np.float32)})
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    work.__exit__(None)
    assert work.path.is_dir() and WorkFolder(tmp_path / "out", "0123").done == 0
