"""Errors of one matrix in several formats, and of the residual stream with depth, against what they are made of."""

from __future__ import annotations

import numpy as np
import pytest

import workbench
from workbench.errors import WorkbenchError
from workbench.formats.errors import FormatError
from workbench.formats.spec import WeightFormat
from workbench.studies.weight_error import weight_error

IDS = [1, 403, 407, 261, 378, 317, 289, 9, 12, 77]


@pytest.fixture(scope="module")
def weights() -> np.ndarray:
    return np.random.default_rng(3).normal(0, 0.05, (64, 500)).astype(np.float32)


@pytest.fixture(scope="module")
def models(shared):
    checkpoint = shared / "models" / "stories260K-hf"
    run = {"backend": "torch"}
    int4 = workbench.quantize(checkpoint, "int4/32", progress=False, execution=run)
    return {"f32": workbench.load(checkpoint, **run), "int4": int4}


def test_formats_and_quantizers_side_by_side(weights):
    found = workbench.weight_errors(weights, ["int8", "int4/64"], ["rtn", "grid"], name="down")
    assert [(str(e.format), e.quantizer) for e in found.errors] == [
        (each, method) for each in ("int8/128", "int4/64") for method in ("rtn", "grid")
    ]
    alone = weight_error(weights, WeightFormat("int4", block_size=64), "grid")
    assert found["int4/64", "grid"].sqnr_db == alone.sqnr_db
    assert found["int8"].quantizer == "rtn"
    assert [row[4] for row in found.table().rows] == [f"{value:.2f}" for value in found.data()["sqnr_db"]]
    assert repr(found).startswith("<errors of down: int8/128 rtn ") and "<table" in found._repr_html_()
    panels = {"blocks": 1, "levels": 2, "matrix": 3}
    assert {kind: len(found.plot(kind).axes) for kind in panels} == panels


def test_what_no_matrix_can_be_rounded_to(weights):
    refused = {
        "quantizer 'best' is unknown; allowed here: rtn": ("int4", "best"),
        "gptq needs hessian": ("int4", "gptq"),
        "format f16 rounds to no levels; allowed: int8": ("f16", "rtn"),
        "give at least one format": ([], "rtn"),
    }
    for said, asked in refused.items():
        with pytest.raises(WorkbenchError, match=said):
            workbench.weight_errors(weights, *asked)
    with pytest.raises(FormatError, match="int3"):
        workbench.weight_errors(weights, "int3")
    with pytest.raises(WorkbenchError, match=r"a matrix \[rows, columns\] is needed, not \[500\]"):
        workbench.weight_errors(weights[0], "int4")
    found = workbench.weight_errors(weights, "int4", name="down")
    with pytest.raises(WorkbenchError, match=r"'int8' is none .* down .*allowed: \('int4/128', 'rtn'\)"):
        found["int8"]
    with pytest.raises(WorkbenchError, match="plot 'pie' is unknown; allowed: blocks, levels, matrix"):
        found.plot("pie")


def test_errors_by_depth_are_those_of_the_activations(models):
    found = workbench.depth_errors(models, IDS, baseline="f32")
    assert found.places == ("embedded", *(f"layers.{i}.out" for i in range(5)))
    assert list(found.stream) == [
        "the stream itself",
        "int4 against f32",
    ]  # the references have nothing to check
    base, int4 = (
        model.forward(IDS, keep=["layers.3.out", "layers.2.mlp.out"]).kept for model in models.values()
    )
    d = (int4["layers.3.out"] - base["layers.3.out"]).astype(np.float64)
    assert found.stream["int4 against f32"][4] == pytest.approx(np.sqrt(np.mean(d**2)))
    norm = np.linalg.norm
    assert found.relative["int4 against f32"][4] == pytest.approx(
        norm(d) / norm(base["layers.3.out"]), rel=1e-6
    )
    part = int4["layers.2.mlp.out"] - base["layers.2.mlp.out"]
    expected = norm(part) / norm(base["layers.2.mlp.out"])
    assert found.parts["int4"]["MLP's output"][2] == pytest.approx(expected, rel=1e-5)
    assert list(found.table().head) == ["", "embedding", "layer 0", "layer 2", "layer 4"]
    assert list(found.data().index) == list(found.places) and found.plot().png()
    assert repr(found).startswith(
        "<relative error of the residual stream, 10 tokens, after the last layer: int4"
    )


def test_depth_needs_two_models_and_a_baseline_among_them(models):
    for baseline, given in (("f16", models), ("f32", {"f32": models["f32"]})):
        with pytest.raises(WorkbenchError, match=f"baseline '{baseline}' with nothing beside it"):
            workbench.depth_errors(given, IDS, baseline=baseline)
    found = workbench.depth_errors(models, IDS, baseline="f32")
    with pytest.raises(WorkbenchError, match="'int8' was not compared; allowed: int4"):
        found.plot("int8")


def test_options_of_sampling_go_by_name(models):
    run = workbench.continue_prompt(
        models, "Once upon", max_new_tokens=6, sampling={"temperature": 0.9, "seed": 2}
    )
    again = "".join(models["f32"].generate("Once upon", max_new_tokens=6, temperature=0.9, seed=2))
    assert run.continuations[0].text == again
    assert list(run.data().index.names) == ["model", "token"] and len(run.data()) == 12
    assert repr(run).startswith("<run of f32 6 tokens, int4 6 tokens") and "\n" not in repr(run)
    with pytest.raises(WorkbenchError, match="sampling holds 'temp'; allowed: temperature, top_k"):
        workbench.continue_prompt(models, "Once upon", sampling={"temp": 1})
