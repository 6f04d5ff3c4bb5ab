"""Tensors that the model does not read: nothing of them enters calibration, the file, or a count."""

from __future__ import annotations

import re

import pytest
import torch
from safetensors.torch import load_file

from tests.convert.conftest import small_checkpoint
from tests.models.checkpoints import STRAYS, write_checkpoint
from workbench.cli import main
from workbench.convert.convert import convert
from workbench.convert.options import ConvertOptions
from workbench.errors import UnsupportedModelError
from workbench.formats.reader import StoredModel
from workbench.formats.spec import WeightFormat
from workbench.formats.tensor import float_tensor
from workbench.formats.writer import ModelWriter
from workbench.models.source import open_source

INT4 = WeightFormat("int4", block_size=32)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return small_checkpoint(tmp_path_factory.mktemp("plain") / "source")


@pytest.fixture(scope="module")
def strayed(source, tmp_path_factory):
    """The same model, with tensors that mean nothing to it."""
    folder = small_checkpoint(tmp_path_factory.mktemp("strayed") / "source")
    write_checkpoint(folder, load_file(source / "model.safetensors") | STRAYS, open_source(source).config)
    return folder


@pytest.mark.parametrize("quantizer", ["rtn", "gptq", "awq"])
def test_a_conversion_is_the_same_with_and_without_them(source, strayed, calibration, tmp_path, quantizer):
    options = ConvertOptions(INT4, quantizer, calibration=None if quantizer == "rtn" else calibration)
    plain = convert(source, tmp_path / "plain", options)
    summary = convert(strayed, tmp_path / "strayed", options)
    for file in plain.path.glob("*.wgpu"):
        assert (summary.path / file.name).read_bytes() == file.read_bytes()
    assert (summary.weights, summary.nbytes, summary.tensors) == (plain.weights, plain.nbytes, plain.tensors)
    assert set(summary.skipped) == set(STRAYS) and plain.skipped == {}
    assert summary.notes == plain.notes  # listed once
    manifest = StoredModel.open(summary.path).manifest
    assert set(manifest["provenance"]["skipped"]) == set(STRAYS)
    assert not set(STRAYS) & set(manifest["precision"])


def test_undeclared_biases_are_refused_before_calibration(source, calibration, tmp_path):
    state = load_file(source / "model.safetensors")
    biased = state | {"model.layers.1.self_attn.v_proj.bias": torch.ones(16)}
    folder = write_checkpoint(tmp_path / "biased", biased, open_source(source).config)
    with pytest.raises(UnsupportedModelError, match=r"v_proj.bias: no Llama of this config.json reads it"):
        convert(folder, tmp_path / "out", ConvertOptions(INT4, "gptq", calibration=calibration))
    assert not (tmp_path / "out").exists()


def written(folder, stored: StoredModel, **more: torch.Tensor) -> StoredModel:
    """What a conversion was that stored everything it found."""
    with ModelWriter(folder, config=stored.config) as writer:
        for name in stored.names():
            writer.add(stored.tensor(name))
        for name, values in more.items():
            writer.add(float_tensor(name, values.numpy(), "f32"))
    return StoredModel.open(folder)


def test_a_converted_model_that_stores_more_than_it_reads(source, tmp_path):
    stored = StoredModel.open(convert(source, tmp_path / "once", ConvertOptions(INT4)).path)
    extra = "model.layers.7.mlp.up_proj.weight"
    older = written(tmp_path / "older", stored, **{extra: torch.ones(80, 48)})
    summary = convert(older, tmp_path / "twice", ConvertOptions(WeightFormat("f16")))
    assert set(summary.skipped) == {extra} and "layer 7 of a model that has 2" in summary.skipped[extra]
    assert set(StoredModel.open(summary.path).names()) == set(stored.names())
    other = written(tmp_path / "other", stored, **{"model.layers.0.self_attn.q_norm.weight": torch.ones(8)})
    with pytest.raises(UnsupportedModelError, match=r"q_norm.weight: no Llama"):
        open_source(other.path)


def test_a_head_of_its_own_is_stored_and_the_manifest_says_so(tmp_path):
    untied = open_source(small_checkpoint(tmp_path / "source"))
    state = load_file(untied.path / "model.safetensors")
    folder = write_checkpoint(tmp_path / "tied", state, untied.config | {"tie_word_embeddings": True})
    summary = convert(folder, tmp_path / "out", ConvertOptions(INT4))
    stored = StoredModel.open(summary.path)
    assert stored.config["tie_word_embeddings"] is False and "lm_head.weight" in stored.names()
    assert "not tied, though tie_word_embeddings is true" in summary.notes[0]


def test_the_command_lists_them_once(strayed, tmp_path, capsys):
    arguments = [
        "quantize",
        "--model",
        str(strayed),
        "--format",
        "int4",
        "--output",
        str(tmp_path / "out"),
    ]
    assert main(arguments) == 0
    told = capsys.readouterr().err
    assert "not read: v_head.summary.weight (no part of the decoder and its LM head)\n" in told
    for name in ("model.layers.2.self_attn.q_proj.weight", "steps", "model.layers.0.counter"):
        assert len(re.findall(rf"{re.escape(name)}\b", told)) == 1
