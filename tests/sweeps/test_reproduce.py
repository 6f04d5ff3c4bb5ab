"""Published cells: the registry is sound, and a verdict is given for what runs here."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from eval.protocols import protocol
from workbench import cli
from workbench.errors import SweepError, WorkbenchError
from workbench.sweeps import published, reproduce
from workbench.sweeps.cells import convert_options
from workbench.sweeps.published import NotHereError, registry, select


def test_the_registry_is_sound():
    assert {
        "stories260K-int4-32",
        "babyllama105-int2-32",
        "llama-2-7b-f16",
        "llama-3-8b-f16",
    } <= registry().keys()
    for name, cell in registry().items():
        assert cell.ppl > 1 and 0 < cell.tolerance < 0.5 and protocol(cell.protocol)
        assert cell.source["title"] and cell.source["where"] and cell.source["url"]
        if not cell.source["url"].startswith("https://"):  # then a section of this project's documents
            document = Path(__file__).parents[2] / cell.source["url"]
            assert f"### {cell.source['where'].partition(':')[0]}\n" in document.read_text(
                encoding="utf-8"
            ), name
        assert re.fullmatch("[0-9a-f]{64}", cell.text.get("sha256", "0" * 64))
        if cell.options and not cell.unavailable:
            assert convert_options(cell.options).format.is_quantized, name
    assert {cell.own for cell in registry().values()} == {True, False}


def test_tolerance_is_of_the_ratio():
    cell = dataclasses.replace(registry()["llama-2-7b-f16"], ppl=10.0, tolerance=0.01)
    assert [cell.accepts(value) for value in (9.89, 9.91, 10.09, 10.11, None)] == [
        False,
        True,
        True,
        False,
        False,
    ]


def test_names_are_patterns():
    assert [cell.name for cell in select(["stories260K-int4-*"])] == [
        "stories260K-int4-channel",
        "stories260K-int4-32",
    ]
    with pytest.raises(SweepError, match="no published cell 'stories260k'; allowed: stories260K-f32, "):
        select(["stories260k"])


def test_what_is_not_here_is_named_with_how_to_get_it(tmp_path, monkeypatch):
    for variable in (published.MODELS_VARIABLE, published.TEXTS_VARIABLE, published.SHARED_VARIABLE):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    cell = registry()["llama-2-7b-f16"]
    with pytest.raises(
        NotHereError, match=r"since neither --models nor WORKBENCH_MODELS .* hf download meta-llama"
    ):
        cell.cell()
    model = tmp_path / "models" / "Llama-2-7b-hf"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    found = cell.cell(tmp_path / "models")
    assert (found.model, found.options, found.text.dataset) == (str(model), None, True)
    (tmp_path / "wiki.test.raw").write_text("not WikiText")
    with pytest.raises(NotHereError, match="is another text"):
        cell.cell(tmp_path / "models", tmp_path)
    unknown = dataclasses.replace(cell, options={"format": "int4", "quantizer": "magic"})
    with pytest.raises(NotHereError, match=r"quantizer = 'magic'; allowed: rtn"):
        unknown.cell(tmp_path / "models")


def test_the_command_says_pass_or_fail(tmp_path, capsys, monkeypatch, one_thread):
    """A cell of the embedded model passes; the same with another number fails, from the stored result."""
    command = ["reproduce", "embedded-rtn-int4", "--output", str(tmp_path), "--processes", "1", "--quiet"]
    assert cli.main(command) == 0
    assert re.search(r"\| embedded-rtn-int4 .* \| passed +\|", capsys.readouterr().out)
    cell = registry()["embedded-rtn-int4"]
    wrong = dataclasses.replace(cell, ppl=1.02 * cell.ppl)
    monkeypatch.setattr(reproduce, "select", lambda names: [wrong])
    assert cli.main(command) == 1
    said = capsys.readouterr().out
    assert re.search(r"-1\.9\d\d % \| failed +\|", said) and "Measured by this project" in said


def test_the_command_without_a_model_is_status_2(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    command = ["reproduce", "llama-3-8b-f16", "--models", str(tmp_path), "--output", str(tmp_path / "out")]
    assert cli.main(command) == 2
    said = capsys.readouterr().out
    assert "| not here |" in said and "hf download meta-llama/Meta-Llama-3-8B" in said
    assert not (tmp_path / "out").exists()
    assert cli.main(["reproduce"]) == 2 and "--list" in capsys.readouterr().err
    assert cli.main(["reproduce", "--list"]) == 0
    listed = capsys.readouterr().out
    assert all(f"| {name} " in listed for name in registry())


@pytest.mark.release
def test_the_smallest_checkpoint_reproduces_its_table(shared, tmp_path, capsys, one_thread):
    """One cell of the table; docs/sweeps.md has all of them."""
    found = published.registry()["babyllama105-int4-32"].cell(shared / "models", shared / "data")
    assert (found.protocol, found.max_windows, found.paired) == ("disjoint-256", 200, False)
    with pytest.raises(WorkbenchError):
        published.registry()["babyllama105-int4-32"].cell(tmp_path, shared / "data")
    folders = ["--models", str(shared / "models"), "--texts", str(shared / "data")]
    command = [
        "reproduce",
        "babyllama105-int4-32",
        *folders,
        "--output",
        str(tmp_path),
        "--processes",
        "1",
        "--quiet",
    ]
    assert cli.main(command) == 0
    assert re.search(
        r"\| babyllama105-int4-32 \| +2\.5851 \| +0\.5 % \| 2\.585\d ± 0\.016\d .* \| passed +\|",
        capsys.readouterr().out,
    )
