"""`workbench allocate`, and `workbench quantize --precision` after it, on the embedded model."""

from __future__ import annotations

import json
import shutil

import pytest

from eval.protocols import protocol
from tests.models.checkpoints import CONFIG, random_state, write_checkpoint
from workbench import cli
from workbench.assets import calibration_text, demo_model_path, evaluation_text, mixture_model_path
from workbench.formats.reader import StoredModel
from workbench.precision.allocation import Allocation
from workbench.precision.experts import ExpertSensitivity
from workbench.precision.table import SensitivityTable

SCHEME = "disjoint-8"  # a few tokens: the command is under test, not the model


def run(capsys, *arguments) -> tuple[int, str, str]:
    status = cli.main([str(argument) for argument in arguments])
    return status, *capsys.readouterr()


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The arguments of a run, whose table is there already."""
    folder = tmp_path_factory.mktemp("allocate")
    command = ["allocate", "--model", demo_model_path(), "--text", calibration_text(), "--protocol", SCHEME]
    command += ["--separator", "<|endoftext|>", "--max-windows", 2, "--table", folder / "table.json"]
    command += ["--formats", "int8", "int4", "int2"]
    assert cli.main([*map(str, command), "--bits", "4", "--quiet", "--output", str(folder / "a.json")]) == 0
    return command, folder


def test_an_allocation_is_measured_solved_verified_and_used(capsys, measured, tmp_path):
    command, _ = measured
    status, said, shown = run(
        capsys,
        *command,
        *("--budget", "3.4MB", "--output", tmp_path / "a.json", "--quiet"),
        *("--check-text", evaluation_text(), "--check-windows", 3, "--plot", tmp_path / "plots"),
        *("--compare", "int4"),
    )
    assert (status, shown) == (0, "")
    assert "at most 3,400,000 bytes" in said and "on held-out text evaluation.txt" in said
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == [
        "allocation.png",
        "pareto.png",
        "sensitivity.png",
    ]
    chosen = Allocation.load(tmp_path / "a.json")
    assert len(chosen.assignments) == 1 + 4 * 8
    assert 3_200_000 < chosen.nbytes <= 3_400_000
    assert [found["tokens"] for found in chosen.joint.values()] == [3 * (protocol(SCHEME).length - 1)] * 2
    assert said.count("int4/128 everywhere (3,859,456 bytes): KL ") == 2 and " in ln PPL" in said

    status, said, shown = run(
        capsys,
        *("quantize", "--model", demo_model_path(), "--precision", tmp_path / "a.json", "--quiet"),
        *("--output", tmp_path / "out", "--set", "embedding=f16"),
    )
    assert (status, shown) == (0, "")
    stored = StoredModel.open(tmp_path / "out")
    assert str(stored.describe("model.embed_tokens.weight")[1]) == "f16"
    found = {name: str(stored.describe(name)[1]) for name in chosen.formats}
    assert found == {name: str(fmt) for name, fmt in chosen.formats.items()} | {
        "model.embed_tokens.weight": "f16"
    }


def test_windows_are_cut_to_the_models_context(capsys, tmp_path):
    config = CONFIG | {"vocab_size": 4096, "max_position_embeddings": 48}
    model = write_checkpoint(tmp_path / "model", random_state(config), config)
    for file in demo_model_path().glob("tokenizer*"):
        shutil.copy(file, model)
    options = ["--max-windows", 1, "--formats", "int8", "int4", "--max-kl", 1]
    command = ["allocate", "--model", model, "--text", calibration_text(), "--output", tmp_path / "a.json"]
    status, _, shown = run(capsys, *command, *options)
    assert status == 0 and "disjoint-512: disjoint-48 instead, the model's context" in shown.splitlines()
    assert SensitivityTable.load(tmp_path / "a.sensitivity.json").key["protocol"] == "disjoint-48"


@pytest.mark.parametrize(
    "target", [["--bits", "3"], ["--max-kl", "0.05"], ["--fit-memory", "12MB", "--max-tokens", "64"]]
)
def test_every_target(capsys, measured, tmp_path, target):
    command, _ = measured
    status, said, _ = run(capsys, *command, *target, "--output", tmp_path / "a.json", "--quiet")
    assert status == 0
    chosen = Allocation.load(tmp_path / "a.json")
    if target[0] == "--bits":
        assert 2.9 < chosen.bits_per_weight <= 3
    elif target[0] == "--max-kl":
        assert chosen.predicted_kl <= 0.05
    else:
        assert "12,000,000 bytes of memory" in said and "cache of 64 tokens" in said


def test_other_options_need_another_table(capsys, measured, tmp_path):
    command, _ = measured
    options = ["--bits", "4", "--quantizer", "hqq", "--output", tmp_path / "a.json", "--quiet"]
    status, _, shown = run(capsys, *command, *options)
    assert status == 2 and "table.json: holds another measurement (other quantizer)" in shown
    assert not (tmp_path / "a.json").exists()


def test_too_small_a_budget_says_the_least(capsys, measured, tmp_path):
    command, _ = measured
    status, _, shown = run(capsys, *command, "--budget", "1MB", "--output", tmp_path / "a.json", "--quiet")
    assert status == 2 and "the smallest allocation has 1,938,432 bytes" in shown


def test_the_allocation_of_other_weights_is_used_with_a_warning(capsys, measured, tmp_path):
    command, folder = measured
    data = json.loads((folder / "a.json").read_text())
    data["key"]["model"]["model.safetensors"] = "0" * 64
    (tmp_path / "other.json").write_text(json.dumps(data))
    command = ["quantize", "--model", demo_model_path(), "--precision", tmp_path / "other.json"]
    status, _, shown = run(capsys, *command, "--quantizer", "hqq", "--output", tmp_path / "out")
    assert status == 0
    assert "other.json: measured on other weights" in shown and "quantizer rtn, not hqq" in shown
    status, _, shown = run(capsys, *command, "--keep-embedding", "--output", tmp_path / "kept")
    assert status == 2 and "--embedding: --precision decides the formats; --set changes" in shown


def test_the_table_holds_its_own_description(measured):
    _, folder = measured
    table = SensitivityTable.load(folder / "table.json")
    assert table.key["text"]["name"] == "calibration.txt" and table.key["protocol"] == SCHEME
    assert set(table.key["model"]) >= {"model.safetensors", "config.json"}
    assert table.record["versions"]["torch"] and table.windows == 2


def test_experts_are_measured_beside_their_traffic(capsys, tmp_path):
    command = [
        "allocate",
        "--text",
        calibration_text(),
        "--protocol",
        SCHEME,
        "--max-windows",
        1,
        "--bits",
        "3",
    ]
    command += ["--formats", "int4", "int2", "--output", tmp_path / "a.json", "--quiet", "--experts"]
    status, said, _ = run(capsys, *command, "--model", mixture_model_path(), "--plot", tmp_path)
    assert status == 0 and "layers.5, 7" in said and "int2/128: rank correlation of KL and traffic" in said
    found = ExpertSensitivity.load(tmp_path / "a.experts.json")
    assert len(found.experts) == 48 and (found.traffic.reshape(6, 8).sum(1) == 2 * 7).all()
    assert (tmp_path / "experts.png").exists()
    # an expert that no token went to costs nothing
    assert (found.measured.kl[found.traffic[:, 0] == 0] == 0).all() and (found.traffic == 0).any()
    status, _, error = run(capsys, *command, "--model", demo_model_path())
    assert status == 2 and "has no experts" in error
