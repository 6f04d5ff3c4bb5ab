"""Every notebook runs from top to bottom in a fresh kernel, and leaves nothing outside its working directory."""

from __future__ import annotations

import subprocess

import pytest

from tests.conftest import REPOSITORY
from tests.notebooks.execute import execute, kernel_environment

#: What a notebook leaves, beside other files, in its folder `runs`.
WRITES = {
    "01_quantization_accuracy": "quantization_accuracy/results.json",
    "02_kernel_lab": "kernel_lab/comparison.json",
    "03_generation": "generation/models/int4/manifest.json",
    "04_benchmark_tables": "benchmark_tables/repaired.json",
    "05_per_layer_precision": "per_layer_precision/allocation.json",
}


def untracked() -> str:
    """What git sees as changed or new in notebooks/, ignored files included."""
    done = subprocess.run(
        ["git", "status", "--porcelain", "--ignored", "notebooks"],
        cwd=REPOSITORY,
        capture_output=True,
        encoding="utf-8",
    )
    return done.stdout


@pytest.mark.notebook
@pytest.mark.timeout(1200)
def test_runs_from_top_to_bottom(script, stored, tmp_path):
    pytest.importorskip("nbclient")
    for cell in stored.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    before = untracked()
    work = tmp_path / "notebooks"
    work.mkdir()
    execute(stored, work, kernel_environment(tmp_path))
    found = [output for cell in stored.cells for output in cell.get("outputs", [])]
    assert [output for output in found if output.output_type == "error"] == []
    assert [output.text for output in found if output.get("name") == "stderr"] == []
    assert (work / "runs" / WRITES[script.stem]).is_file()
    assert [path.name for path in work.iterdir()] == ["runs"]
    assert untracked() == before
