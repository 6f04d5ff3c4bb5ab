"""Every notebook runs from top to bottom in a fresh kernel, and leaves nothing outside its working directory."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.notebooks.execute import execute, kernel_environment, scripts
from tests.support.shallow import write_shallow
from workbench.studies.notebooks import filled

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
OWN = {"01": "CHECKPOINT = workbench.demo_model_path()", "03": "CHECKPOINT = demo_model_path()"}
OWN |= {"04": 'MODEL = "embedded"', "05": "CHECKPOINT = demo_model_path()"}
OWN |= {"06": "MODEL = demo_model_path()", "07": "CHECKPOINT = mixture_model_path()"}
#: Those whose windows are longer than the context of the tests' model.
SHORTER = ("01", "04", "05", "06")
#: That of mixtures, whose model is small already.
MIXTURES = ("07",)
#: That which always runs, being the shortest; the others take a minute or two each.
ALWAYS = MIXTURES


def untracked() -> str:
    """What git sees as changed or new in notebooks/, ignored files included."""
    done = subprocess.run(
        ["git", "status", "--porcelain", "--ignored", "notebooks"],
        cwd=REPOSITORY,
        capture_output=True,
        encoding="utf-8",
    )
    return done.stdout


@pytest.fixture(scope="module")
def own_model(tmp_path_factory) -> Path:
    """A few layers of the embedded model, with a quarter of its context: one's own model, with words to write."""
    return write_shallow(tmp_path_factory.mktemp("models") / "own", context=128)


def filled_in(script: Path, model: Path):
    """The stored notebook as `workbench notebook --model` fills it in, with as few windows as have an error."""
    nbformat = pytest.importorskip("nbformat")
    own = str(model) if script.stem[:2] in OWN and script.stem[:2] not in MIXTURES else None
    notebook = nbformat.from_dict(filled(script.stem, own))
    for cell in notebook.cells:
        text = "".join(cell.source)
        cell.source = re.sub(r"^WINDOWS = \d+", "WINDOWS = 2", text, flags=re.M)
    return notebook


@pytest.mark.notebook
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "script",
    [
        pytest.param(each, id=each.stem, marks=() if each.stem.startswith(ALWAYS) else pytest.mark.release)
        for each in scripts()
    ],
)
def test_runs_from_top_to_bottom(script, own_model, tmp_path):
    """On the stored model the notebooks ran when they were stored (`tests.notebooks.execute`)."""
    pytest.importorskip("nbclient")
    notebook, before = filled_in(script, own_model), untracked()
    work = tmp_path / "notebooks"
    work.mkdir()
    execute(notebook, work, kernel_environment(tmp_path))
    found = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert [output for output in found if output.output_type == "error"] == []
    assert [output.text for output in found if output.get("name") == "stderr"] == []
    assert len(list((work / "runs").glob(WRITES[script.stem]))) == 1
    assert [path.name for path in work.iterdir()] == ["runs"]
    assert untracked() == before
    if script.stem[:2] in OWN and script.stem[:2] not in MIXTURES:
        [folder] = (work / "runs" / script.stem[3:]).iterdir()
        assert folder.name.startswith("own-")
    if script.stem[:2] in SHORTER:
        said = "".join(output.get("text", "") for output in found)
        assert "disjoint-128 in place of disjoint-512: the model's context is 128 tokens" in said


@pytest.mark.release
@pytest.mark.notebook
@pytest.mark.timeout(1200)
def test_a_model_with_windows_comes_to_the_end(own_model, tmp_path):
    """Its attention is bounded already, which notebook 03 says in place of what it would measure."""
    pytest.importorskip("nbclient")
    model = shutil.copytree(own_model, tmp_path / "windows")
    config = json.loads((model / "config.json").read_text())
    config |= {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 32}
    (model / "config.json").write_text(json.dumps(config))
    [script] = [each for each in scripts() if each.stem.startswith("03")]
    notebook = filled_in(script, model)
    (work := tmp_path / "notebooks").mkdir()
    execute(notebook, work, kernel_environment(tmp_path))
    found = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert [output.text for output in found if output.get("name") == "stderr"] == []
    assert any("Not of this model: " in output.get("text", "") for output in found)


def test_each_notebook_names_its_one_line():
    for script in scripts():
        if line := OWN.get(script.stem[:2]):
            found = [
                each for each in script.read_text(encoding="utf-8").splitlines() if each.startswith(line)
            ]
            assert len(found) == 1 and found[0].endswith("the one line to change"), script.stem
