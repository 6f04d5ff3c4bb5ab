"""Commands on a disk that fills up: one line that names the path and what to do, and nothing left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.convert.conftest import small_checkpoint, text  # noqa: F401 (a fixture)
from tests.support.disk import small_files
from tests.sweeps.inline import Inline
from tests.sweeps.synthetic import Synthetic
from workbench import cli
from workbench.sweeps.sweep import Sweep


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return small_checkpoint(tmp_path_factory.mktemp("disk") / "source", num_hidden_layers=1)


def refused(capsys, path: Path, argv: list) -> None:
    """The command fails with one line about `path`, or what is inside, and leaves nothing beside it."""
    before = sorted(path.parent.rglob("*"))
    with small_files(3000):
        assert cli.main([str(each) for each in argv]) == 1
    told = capsys.readouterr().err.strip().splitlines()
    assert (
        told[-1].startswith(f"workbench: error: {path}") and "cannot be written: the file would" in told[-1]
    )
    assert not any("Traceback" in line for line in told)
    assert sorted(path.parent.rglob("*")) == before


@pytest.mark.parametrize("calibrated", [False, True])
def test_quantize(tmp_path, source, text, capsys, calibrated):  # noqa: F811
    """Also with a work folder, whose stages would keep the disk full."""
    argv = ["quantize", "--model", source, "--format", "int4", "--quiet", "--output", tmp_path / "out"]
    if calibrated:
        argv += ["--quantizer", "gptq", "--calibration", text]
        argv += ["--calibration-windows", 4, "--calibration-length", 32]
        with small_files(3000):
            assert cli.main([str(each) for each in argv]) == 1
        assert f"{tmp_path}/.out.work-" in capsys.readouterr().err and not list(tmp_path.iterdir())
    else:
        refused(capsys, tmp_path / "out", argv)


def test_perplexity_and_allocate(tmp_path, source, text, capsys):  # noqa: F811
    common = ["--model", source, "--text", text, "--protocol", "disjoint-32", "--quiet", "--max-windows", 2]
    kept = ["--backend", "torch", "--save-baseline", tmp_path / "kept"]
    refused(capsys, tmp_path / "kept", ["perplexity", *common, *kept])
    output = ["--output", tmp_path / "a.json", "--bits", 12, "--table", tmp_path / "t.json"]
    refused(capsys, tmp_path / "t.json", ["allocate", *common, *output])


def test_tables_and_what_is_printed(tmp_path, capsys):
    synthetic = Synthetic(tmp_path / "runs", 4)
    for index in range(4):
        synthetic.finish(index)
    refused(capsys, tmp_path / "front.png", ["table", tmp_path / "runs", "--plot", tmp_path / "front.png"])


def test_cells_of_a_sweep_carry_the_message(tmp_path, source, text):  # noqa: F811
    spec = tmp_path / "some.toml"
    spec.write_text(
        f'[sweep]\nmax_windows = 2\n[texts.numbers]\nfile = "{text}"\n'
        f'[grid]\nmodel = "{source}"\nformat = "int4"\nprotocol = "disjoint-32"\n'
    )
    sweep = Sweep.read(spec)
    with small_files(3000):
        sweep.run(executor=Inline())
    assert [state.status for state in sweep.cells] == ["failed", "failed"]
    for state in sweep.cells:
        assert "cannot be written: the file would be larger" in state.error and "Traceback" not in state.error
    left = [path for path in sweep.store.folder.rglob("*") if path.is_file() and path.parent.name != "sweeps"]
    assert not left and sweep.run(executor=Inline()).count("done") == 2
