"""Calibrated conversion: what is stored, with which errors, from which inputs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.convert.conftest import small_checkpoint
from workbench.convert.convert import convert
from workbench.convert.options import ConvertOptions
from workbench.errors import CheckpointError, WorkbenchError
from workbench.formats.reader import StoredModel
from workbench.formats.spec import WeightFormat
from workbench.models.checkpoint import Checkpoint
from workbench.models.families.dense import EMBEDDING, LM_HEAD
from workbench.quantizers import QUANTIZERS

INT4 = WeightFormat("int4", block_size=32)
INT2 = WeightFormat("int2", block_size=32)
CALIBRATED = [name for name, method in QUANTIZERS.items() if method.needs]


def stored(folder, source, calibration, fmt=INT2, **options) -> StoredModel:
    convert(source, folder, ConvertOptions(fmt, calibration=calibration, **options))
    return StoredModel.open(folder)


def output_errors(model: StoredModel) -> dict[str, float]:
    tensors = model.manifest["provenance"]["tensors"]
    return {name: each["output_error"] for name, each in tensors.items() if "output_error" in each}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return small_checkpoint(tmp_path_factory.mktemp("source") / "untied")


@pytest.fixture(scope="module")
def rounded(source, calibration, tmp_path_factory):
    """Round to nearest, with its errors."""
    return stored(tmp_path_factory.mktemp("rtn") / "out", source, calibration, quantizer="rtn")


def test_calibration_changes_nothing_for_methods_without_data(source, rounded, tmp_path):
    convert(source, tmp_path / "out", ConvertOptions(INT2))
    plain = StoredModel.open(tmp_path / "out")
    for name in plain.names():
        for plane, values in plain.tensor(name).planes.items():
            np.testing.assert_array_equal(rounded.tensor(name).planes[plane], values, err_msg=name)
    assert len(output_errors(rounded)) == 15  # 7 a layer and the LM head: the embedding meets no input
    assert "calibration" not in plain.manifest["provenance"]


@pytest.mark.parametrize("quantizer", CALIBRATED)
def test_methods_with_data_leave_smaller_output_errors(source, rounded, calibration, tmp_path, quantizer):
    steps = {"steps": 20} if QUANTIZERS[quantizer].trains else {}
    model = stored(tmp_path / "out", source, calibration, quantizer=quantizer, **steps)
    ours, theirs = output_errors(model), output_errors(rounded)
    assert set(ours) == set(theirs)
    assert np.mean(list(ours.values())) < 0.9 * np.mean(list(theirs.values()))
    assert {str(model.describe(n)[1]) for n in ours} == {str(INT2)}
    provenance = model.manifest["provenance"]
    assert provenance["quantizer"] == quantizer and provenance["calibration"]["windows"] == 24
    assert not list(tmp_path.glob(".*"))  # the work folder is gone


def test_the_errors_told_are_those_of_the_stored_weights(source, calibration, tmp_path):
    """The first layer's q projection, from the inputs that transformers gives it."""
    from transformers import LlamaForCausalLM

    from tests.eval.conftest import byte_tokenizer
    from workbench.convert.calibration import load_calibration

    fmt = {"embedding": WeightFormat("f32")}
    model = stored(tmp_path / "out", source, calibration, quantizer="gptq", **fmt)
    reference = LlamaForCausalLM.from_pretrained(source, dtype=torch.float32)
    seen = []
    linear = reference.model.layers[0].self_attn.q_proj
    linear.register_forward_pre_hook(lambda module, args: seen.append(args[0].reshape(-1, 48)))
    with torch.no_grad():
        reference(torch.from_numpy(load_calibration(calibration, byte_tokenizer(), 32).ids))
    name = "model.layers.0.self_attn.q_proj.weight"
    x, weight = seen[0], Checkpoint.open(source).tensor(name).dequantize()
    wrong = x.numpy() @ (model.tensor(name).dequantize() - weight).T
    expected = np.square(wrong).sum() / np.square(x.numpy() @ weight.T).sum()
    assert output_errors(model)[name] == pytest.approx(expected, rel=1e-3)


def test_layers_see_the_quantized_layers_before_them_unless_asked(source, calibration, tmp_path):
    chained = stored(tmp_path / "chained", source, calibration, quantizer="gptq")
    apart = stored(tmp_path / "apart", source, calibration, quantizer="gptq", calibration_inputs="float")
    same = {
        name: all(
            np.array_equal(values, apart.tensor(name).planes[plane])
            for plane, values in chained.tensor(name).planes.items()
        )
        for name in chained.names()
    }
    assert same[EMBEDDING]
    assert not same["model.layers.1.mlp.up_proj.weight"] and not same[LM_HEAD]
    # With unquantized inputs a layer does not depend on how those before it are stored.
    changed = {"model.layers.0.*": WeightFormat("int8")}
    other = stored(
        tmp_path / "other",
        source,
        calibration,
        quantizer="gptq",
        calibration_inputs="float",
        overrides=changed,
    )
    name = "model.layers.1.mlp.up_proj.weight"
    for plane, values in apart.tensor(name).planes.items():
        np.testing.assert_array_equal(other.tensor(name).planes[plane], values)


def test_scales_are_folded_and_the_rest_is_said(source, calibration, tmp_path):
    model = stored(tmp_path / "out", source, calibration, fmt=INT4, quantizer="awq")
    original = Checkpoint.open(source)
    norm = "model.layers.0.input_layernorm.weight"
    assert not np.array_equal(model.tensor(norm).dequantize(), original.tensor(norm).dequantize())
    record = model.manifest["provenance"]["tensors"]
    assert "grouped queries" in record["model.layers.0.self_attn.o_proj.weight"]["not_scaled"]
    assert "not_scaled" not in record["model.layers.0.mlp.down_proj.weight"]


def test_a_tied_embedding_is_rounded_as_the_head_that_it_is(calibration, tmp_path):
    source = small_checkpoint(tmp_path / "tied", tie_word_embeddings=True)
    model = stored(tmp_path / "out", source, calibration, quantizer="gptq")
    record = model.manifest["provenance"]["tensors"][EMBEDDING]
    assert record["quantizer"] == "gptq" and record["output_error"] > 0
    kept = stored(tmp_path / "kept", source, calibration, quantizer="gptq", embedding=WeightFormat("f16"))
    assert EMBEDDING not in kept.manifest["provenance"]["tensors"]


def test_an_embedding_that_is_looked_up_is_rounded_without_data(source, calibration, tmp_path):
    model = stored(tmp_path / "out", source, calibration, quantizer="gptq")
    weights = Checkpoint.open(source).tensor(EMBEDDING).dequantize()
    np.testing.assert_array_equal(
        model.tensor(EMBEDDING).quants(), QUANTIZERS["grid"].quantize(weights, INT2).q
    )


def test_two_runs_give_the_same_bytes(source, calibration, tmp_path):
    for quantizer in ("awq-gptq", "trained"):
        steps = {"steps": 5} if QUANTIZERS[quantizer].trains else {}
        bytes_ = []
        for run in ("one", "two"):
            options = ConvertOptions(
                INT2, calibration=calibration, quantizer=quantizer, overwrite=True, **steps
            )
            convert(source, tmp_path / run, options)
            bytes_.append((tmp_path / run / "model.wgpu").read_bytes())
        assert bytes_[0] == bytes_[1]


def test_what_cannot_be_calibrated_is_refused_and_leaves_nothing(source, calibration, tmp_path):
    convert(source, tmp_path / "int8", ConvertOptions(WeightFormat("int8")))
    options = ConvertOptions(INT4, quantizer="gptq", calibration=calibration)
    with pytest.raises(WorkbenchError, match="convert the unquantized checkpoint"):
        convert(tmp_path / "int8", tmp_path / "out", options)
    with pytest.raises(WorkbenchError, match="exists"):
        convert(source, tmp_path / "int8", options)
    with pytest.raises(WorkbenchError, match="device = 'tpu9': "):
        convert(source, tmp_path / "out", replace(options, device="tpu9"))
    with pytest.raises(WorkbenchError, match="neither a file"):
        convert(source, tmp_path / "out", replace(options, calibration=replace(calibration, text="none")))
    assert [path.name for path in tmp_path.iterdir()] == ["int8"]


def test_weights_that_are_not_finite_are_named(calibration, tmp_path):
    from safetensors.torch import load_file, save_file

    source = small_checkpoint(tmp_path / "bad")
    state = load_file(source / "model.safetensors")
    state["model.layers.1.mlp.up_proj.weight"][3, 4] = float("nan")
    save_file(state, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"layers.1.mlp.up_proj.weight' is not finite: nan at \[3, 4\]"):
        convert(source, tmp_path / "out", ConvertOptions(INT4, quantizer="gptq", calibration=calibration))
    assert [path.name for path in tmp_path.iterdir()] == ["bad"]


def test_weights_beyond_the_format_are_named(calibration, tmp_path):
    from safetensors.torch import load_file, save_file

    source = small_checkpoint(tmp_path / "large")
    state = load_file(source / "model.safetensors")
    state["model.layers.1.mlp.up_proj.weight"][3, 4:6] = torch.tensor([3e38, -3e38])  # a range beyond f32
    save_file(state, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        CheckpointError,
        match=r"layer 1: tensor 'model.layers.1.mlp.down_proj.weight' cannot be int2/32.*hessian.* is nan",
    ):
        convert(source, tmp_path / "out", ConvertOptions(INT2, quantizer="gptq", calibration=calibration))
