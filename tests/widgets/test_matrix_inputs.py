"""Moments of the inputs of matrices are those that a conversion captures, and quantizers of the explorer use them."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest

from tests.convert.conftest import small_checkpoint
from workbench.assets import demo_model_path
from workbench.convert.calibration import load_calibration
from workbench.errors import WorkbenchError
from workbench.formats.spec import WeightFormat
from workbench.models.source import open_source
from workbench.quantizers import QUANTIZERS, QUANTIZERS_OF_ONE_MATRIX
from workbench.runtime.loading import load
from workbench.studies.exploration import explore, first_look
from workbench.studies.weight_error import weight_error
from workbench.widgets import QuantizationExplorer, explorer, matrix_inputs
from workbench.widgets.explorer_settings import inputs_of
from workbench.widgets.matrix_inputs import MatrixInputs

TEXT = replace(matrix_inputs.TEXT, windows=2, length=48)
#: One of each group that reads one input.
READ = (
    "model.layers.0.self_attn.k_proj.weight",
    "model.layers.3.self_attn.o_proj.weight",
    "model.layers.3.mlp.up_proj.weight",
    "model.layers.7.mlp.down_proj.weight",
)
NAME = "model.layers.3.mlp.down_proj.weight"
ALONE = ", ".join(QUANTIZERS_OF_ONE_MATRIX)


@pytest.fixture(autouse=True)
def little_text(monkeypatch):
    monkeypatch.setattr(matrix_inputs, "TEXT", TEXT)


@pytest.fixture(scope="module")
def source():
    return open_source(demo_model_path())


@pytest.fixture(scope="module")
def hessian() -> np.ndarray:
    x = np.random.default_rng(1).standard_normal((500, 96), np.float32)
    x *= np.geomspace(0.1, 10, 96).astype(np.float32)
    return x.T @ x / len(x)


def test_moments_are_those_of_the_models_activations(source):
    inputs = MatrixInputs(source)
    stops = iter([True, True, True, False])
    assert not inputs.measure(lambda share: next(stops))  # stopped behind three layers
    assert inputs.hessian("model.layers.2.mlp.up_proj.weight") is not None
    assert inputs.hessian("model.layers.3.mlp.up_proj.weight") is None and not inputs.measured
    shares = []
    assert inputs.measure(lambda share: shares.append(share) or True) and inputs.measured
    assert shares == [pytest.approx(layer / 9) for layer in range(3, 9)]
    model = load(source, backend="torch")
    calibration = load_calibration(TEXT, model.tokenizer, 512)
    plan = model.plan()
    for matrix in READ:
        reader = next(
            call
            for call in plan.calls
            if call.op == "linear" and matrix in plan.buffers[call.inputs["weight"]].tensors
        )
        kept = [
            model.forward(ids, keep=[reader.inputs["x"]]).kept[reader.inputs["x"]] for ids in calibration.ids
        ]
        x = np.concatenate(kept).astype(np.float64)
        found = inputs.hessian(matrix)
        np.testing.assert_allclose(found, x.T @ x / len(x), rtol=1e-3, atol=1e-4 * np.abs(found).max())
    assert inputs.hessian("model.embed_tokens.weight").shape == (256, 256)  # tied: the LM head's
    assert inputs.hessian("model.layers.0.input_layernorm.weight") is None


@pytest.mark.parametrize("quantizer", ["gptq", "grid-importance"])
@pytest.mark.parametrize("granularity", ["block", "channel", "tensor"])
def test_calibrated_quantizers_in_pieces_and_samples(hessian, quantizer, granularity, monkeypatch):
    monkeypatch.setattr("workbench.studies.exploration.PIECE", 1)
    weights = np.random.default_rng(2).standard_normal((300, 96), np.float32)
    size = {"block_size": 32} if granularity == "block" else {}
    format = WeightFormat("int2", granularity=granularity, **size)
    whole = weight_error(weights, format, quantizer, hessian=hessian)
    found = explore(weights, format, quantizer, hessian=hessian)
    assert found.sqnr_db == pytest.approx(whole.sqnr_db, abs=1e-3)
    lost = weights.astype(np.float64) - whole.restored
    outputs = [np.einsum("rk,kl,rl->", each, hessian.astype(np.float64), each) for each in (weights, lost)]
    assert found.output_db == (pytest.approx(10 * np.log10(outputs[0] / outputs[1]), abs=1e-3), 0.0)
    assert found.facts()["output SQNR"] == f"{found.output_db[0]:.2f} dB"
    look = first_look(weights, format, quantizer, count=40 * 96, hessian=hessian)
    value, error = look.output_db
    assert look.sampled and abs(value - found.output_db[0]) < 4.5 * error
    # The levels of a block, whether its row was looked at or not.
    for row in (int(look.rows[3]), int(look.rows[3]) + 1):
        block, values, levels = look.levels(weights, row, 40)
        assert np.array_equal(values, whole.block(row, block)[0])
        if granularity != "tensor":
            assert levels == pytest.approx(whole.block(row, block)[1])


def test_gptq_gives_better_outputs_than_rounding(hessian):
    weights = np.random.default_rng(3).standard_normal((64, 96), np.float32)
    format = WeightFormat("int2", block_size=32)
    outputs = {
        each: explore(weights, format, each, hessian=hessian).output_db[0] for each in ("grid", "gptq")
    }
    assert outputs["gptq"] > outputs["grid"] + 1


def test_what_a_quantizer_lacks_is_named():
    weights = np.ones((4, 32), np.float32)
    for name, entry in QUANTIZERS.items():
        if entry.needs:
            says = f"{name} needs .*{min(entry.needs)}.*allowed without: {ALONE}$"
            with pytest.raises(WorkbenchError, match=says):
                weight_error(weights, WeightFormat("int4"), name)


def test_the_explorer_calibrates_once_and_shows_outputs_of_both_sides(source, monkeypatch):
    widget = QuantizationExplorer(source, NAME, b={"bits": 2, "block": 64})
    assert {*QUANTIZERS_OF_ONE_MATRIX, "grid-importance", "gptq"} <= set(widget.quantizers)
    told = []
    monkeypatch.setattr(widget, "tell", lambda kind, content=None, buffers=None: told.append((kind, content)))
    widget.wait()
    assert widget.a.output_db is None
    widget.choose(b={"quantizer": "gptq"})
    assert widget.b.quantizer == "gptq" and widget.b.output_db[0] > widget.b.sqnr_db
    widget.wait()
    assert widget.state == "done" and widget.error == "" and widget.a.output_db is not None
    shares = [content["share"] for kind, content in told if kind == "calibrated"]
    assert len(shares) == 9 and shares == sorted(shares)
    widget.choose(tensor="model.layers.5.mlp.gate_proj.weight", a={"quantizer": "gptq"})
    widget.wait()
    assert widget.a.facts()["quantizer"] == "gptq" and len(widget._map) == len(widget.tensors)
    assert len([kind for kind, _ in told if kind == "calibrated"]) == 9  # not again
    assert "output SQNR" in widget.static_html()


def test_an_embedding_that_is_only_looked_up_gets_what_a_conversion_gives_it(tmp_path):
    source = open_source(small_checkpoint(tmp_path / "untied"))
    inputs = MatrixInputs(source)
    assert inputs.measure(lambda share: True)
    assert inputs.hessian("model.embed_tokens.weight") is None
    assert inputs.hessian("lm_head.weight").shape == (48, 48)
    widget = QuantizationExplorer(source, "model.embed_tokens.weight")
    widget.wait()
    widget._inputs = inputs
    widget.choose(a={"quantizer": "gptq", "bits": 2})
    assert widget.a.facts()["quantizer"] == "grid"
    widget.wait()


def test_only_what_can_run_is_offered(source, monkeypatch):
    arrays = {"w": np.random.default_rng(0).standard_normal((64, 64), np.float32)}
    widget = QuantizationExplorer(arrays)
    assert widget.quantizers == list(QUANTIZERS_OF_ONE_MATRIX)
    refused = {
        "gptq": "inputs of its matrix",
        "awq": "whole layer",
        "trained": "whole layer",
        "magic": "no quantizer 'magic'",
    }
    for name, why in refused.items():
        with pytest.raises(WorkbenchError, match=f"{why}.*there are {ALONE}"):
            widget.choose(a={"quantizer": name})
    with pytest.raises(WorkbenchError, match="hqq optimises zero-points"):
        widget.choose(a={"quantizer": "hqq", "symmetric": True})
    assert widget.settings_a["quantizer"] == "rtn"
    monkeypatch.setattr(
        "workbench.widgets.explorer_settings.MOST", 1 << 20
    )  # a model too large for its moments
    assert inputs_of(QuantizationExplorer(source).matrices) is None


def test_a_result_is_there_before_all_rows_are_counted(monkeypatch):
    arrays = {"w": np.random.default_rng(0).standard_normal((2048, 1024), np.float32)}
    widget = QuantizationExplorer(arrays)
    widget.wait()
    seen = threading.Event()
    monkeypatch.setattr(explorer, "explore", lambda *given, **more: seen.wait(60) and explore(*given, **more))
    widget.choose(a={"bits": 2})
    assert widget.a.sampled and widget.a.format == WeightFormat("int2", block_size=128)
    assert len(widget.data()) == widget.a.signal.size and "±" in widget.static_html()
    seen.set()
    widget.wait()
    assert not widget.a.sampled
