"""Every notebook runs from top to bottom in a fresh kernel, and leaves nothing outside its working directory."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.notebooks.execute import execute, from_script, kernel_environment, scripts

#: What a notebook leaves, beside other files, in its folder `runs`; a star stands for the model.
WRITES = {
    "01_quantization_accuracy": "quantization_accuracy/*/results.json",
    "02_kernel_lab": "kernel_lab/comparison.json",
    "03_generation": "generation/*/models/int4/manifest.json",
    "04_benchmark_tables": "benchmark_tables/*/repaired.json",
    "05_per_layer_precision": "per_layer_precision/*/allocation.json",
    "06_compare_models": "compare_models/*/comparison.json",
    "07_mixtures_of_experts": "mixtures_of_experts/*/experts.json",
}
#: The line to change for a model of one's own.
OWN = {"01": "CHECKPOINT = demo_model_path()", "03": "CHECKPOINT = demo_model_path()"}
OWN |= {"04": 'MODEL = "embedded"', "05": "CHECKPOINT = demo_model_path()"}
OWN |= {"06": "MODEL = demo_model_path()", "07": "CHECKPOINT = mixture_model_path()"}


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
    assert len(list((work / "runs").glob(WRITES[script.stem]))) == 1
    assert [path.name for path in work.iterdir()] == ["runs"]
    assert untracked() == before


def with_model(script: Path, model: Path):
    """The notebook of a script with the one line changed that it names."""
    notebook, line = from_script(script), OWN[script.stem[:2]]
    cells = [cell for cell in notebook.cells if line in cell.source]
    assert len(cells) == 1 and cells[0].source.count(line) == 1
    cells[0].source = cells[0].source.replace(line, f"{line.partition(' = ')[0]} = {str(model)!r}")
    return notebook


@pytest.mark.notebook
@pytest.mark.timeout(600)
def test_runs_with_a_small_model_by_one_changed_line(shared, tmp_path):
    """5 layers, 128 columns, a context of 256, a vocabulary of characters, weights in f32."""
    pytest.importorskip("nbclient")
    [script] = [each for each in scripts() if each.stem.startswith("05")]
    notebook = with_model(script, shared / "models" / "babyllama105-hf")
    work = tmp_path / "notebooks"
    work.mkdir()
    execute(notebook, work, kernel_environment(tmp_path))
    [folder] = (work / "runs" / "per_layer_precision").iterdir()
    assert folder.name.startswith("babyllama105-hf-")
    said = "".join(o.get("text", "") for cell in notebook.cells for o in cell.get("outputs", []))
    assert "disjoint-256 in place of disjoint-512: the model's context is 256 tokens" in said
    assert "without int4/256: the narrowest rows have 128 weights" in said


def test_each_notebook_names_its_one_line():
    for script in scripts():
        if line := OWN.get(script.stem[:2]):
            found = [
                each for each in script.read_text(encoding="utf-8").splitlines() if each.startswith(line)
            ]
            assert len(found) == 1 and found[0].endswith("the one line to change"), script.stem
