"""Notebooks filled in for a model and a text of one's own: what is changed, what is refused, and running them."""

from __future__ import annotations

import json
import re

import pytest

import workbench
from tests.conftest import REPOSITORY
from tests.models.checkpoints import CONFIG, random_state, write_checkpoint
from workbench import cli
from workbench.convert.convert import convert
from workbench.convert.options import ConvertOptions
from workbench.errors import CheckpointError, WorkbenchError
from workbench.formats.spec import WeightFormat
from workbench.studies.notebooks import filled, find, names, write


def source(notebook) -> str:
    return "\n".join("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code")


def small(*cells: str) -> dict:
    code = [
        {
            "id": f"c{i}",
            "cell_type": "code",
            "metadata": {},
            "execution_count": None,
            "outputs": [],
            "source": [text],
        }
        for i, text in enumerate(cells)
    ]
    return {"cells": code, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


def test_all_notebooks_of_the_repository_are_there():
    assert names() == sorted(path.stem for path in (REPOSITORY / "notebooks").glob("[0-9]*.ipynb"))
    assert find("01") == find("quantization") == REPOSITORY / "notebooks" / "01_quantization_accuracy.ipynb"


#: Those that take a model.
OF_A_MODEL = [name for name in names() if not name.startswith("02")]


@pytest.fixture(scope="module")
def own_models(tmp_path_factory):
    """A folder with "own model", a checkpoint in floats, and "int4" and "f32", converted from it."""
    folder = tmp_path_factory.mktemp("models")
    write_checkpoint(folder / "own model", random_state(CONFIG), CONFIG)
    for form in ("int4", "f32"):
        convert(folder / "own model", folder / form, ConvertOptions(WeightFormat(form)))
    return folder


@pytest.mark.parametrize("name", OF_A_MODEL)
def test_a_quantized_model_is_refused_where_it_would_be_quantized(name, own_models):
    """At once, by what fills the notebook in and by what its first cell calls; a notebook that runs a model alone would
    take it."""
    said = r"int4: tensor '.*' is quantized already \(int4/128\); .* quantizes the model, .* the checkpoint in floats"
    with pytest.raises(CheckpointError, match=said):
        filled(name, str(own_models / "int4"))
    [call] = [line for line in source(filled(name)).split("\n") if line.startswith("study = ")]
    given = {"workbench": workbench, "Study": workbench.Study, "demo_model_path": None}
    for form in ("int4", "f32"):
        given["CHECKPOINT"] = given["MODEL"] = str(own_models / form)
        if form == "f32":  # converted, and in floats
            filled(name, given["MODEL"])
            exec(call, given)
        else:
            with pytest.raises(CheckpointError, match=said):
                exec(call, given)
    assert workbench.Study(own_models / "int4", "runs it alone").dtype == "int4/128"


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=re.escape(str(tmp_path))):
        filled("01", str(tmp_path))


@pytest.mark.parametrize("name", OF_A_MODEL)
def test_the_model_is_changed_and_nothing_else(name, own_models):
    own = own_models / "own model"
    before, after = filled(name), filled(name, str(own))
    lines = [
        (one, other)
        for one, other in zip(source(before).split("\n"), source(after).split("\n"), strict=True)
        if one != other
    ]
    [(_, changed)] = lines
    assert json.dumps(str(own)) in changed and changed.endswith("the one line to change")
    assert all(not cell.get("outputs") for cell in after["cells"])
    compile(changed, "cell", "exec")
    assert 'owner/name"' in source(filled(name, "owner/name"))


def test_the_text_is_changed_where_one_is_scored():
    assert 'TEXT = "wikitext2"  # ' in source(filled("01", text="wikitext2"))
    assert 'TEXT = "wikitext2"  # ' in source(filled("05", text="wikitext2"))
    assert 'TEXT = "wikitext2"  # ' in source(filled("07", text="wikitext2"))
    with pytest.raises(WorkbenchError, match="03_generation takes no text"):
        filled("03", text="wikitext2")
    with pytest.raises(WorkbenchError, match="02_kernel_lab takes no model"):
        filled("02", model="owner/name")


@pytest.mark.parametrize(
    "name, said", [("08", "is no notebook"), ("0", "means several"), ("", "means several")]
)
def test_another_name_says_what_there_is(name, said):
    with pytest.raises(WorkbenchError, match=rf"{said}.*allowed: 01_quantization_accuracy, 02_kernel_lab"):
        find(name)
    with pytest.raises(WorkbenchError, match="did you mean 'generation'"):
        find("generashun")


@pytest.mark.notebook
def test_a_notebook_runs_where_it_lies(tmp_path):
    pytest.importorskip("nbclient")
    write(small("import os", "print(os.getcwd())"), tmp_path / "a.ipynb", execute=True)
    stored = json.loads((tmp_path / "a.ipynb").read_text())
    assert "".join(stored["cells"][1]["outputs"][0]["text"]).strip() == str(tmp_path)
    with pytest.raises(WorkbenchError, match="a cell failed: ZeroDivisionError"):
        write(small("1 / 0", "2"), tmp_path / "b.ipynb", execute=True)
    stored = json.loads((tmp_path / "b.ipynb").read_text())
    assert stored["cells"][0]["outputs"][0]["ename"] == "ZeroDivisionError"
    assert not stored["cells"][1]["outputs"]


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["notebook"]) == 0 and capsys.readouterr().out.split() == names()
    assert cli.main(["notebook", "06", "--model", "owner/name"]) == 0
    assert 'MODEL = "owner/name"' in source(json.loads((tmp_path / "06_compare_models.ipynb").read_text()))
    assert cli.main(["notebook", "06"]) == 2 and "--overwrite replaces it" in capsys.readouterr().err
    assert cli.main(["notebook", "06", "-o", "x.py"]) == 2 and not (tmp_path / "x.py").exists()
