"""Random weights in a published shape: what executors ask of a source, numbers that stay finite, the speed table."""

from __future__ import annotations

import json

import numpy as np
import pytest

from workbench.cli import main
from workbench.errors import UnsupportedModelError, WorkbenchError
from workbench.formats.text import parse_format
from workbench.model_bench.speed import SpeedRun
from workbench.model_bench.speed_table import measured, table
from workbench.model_bench.synthetic import RandomSource, shape_config, shapes
from workbench.models.catalogue import catalogue
from workbench.runtime.device import adapter_missing
from workbench.runtime.loading import load

TINY = {
    "model_type": "llama",
    "vocab_size": 160,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}


@pytest.mark.parametrize("fmt", ["f16", "bf16", "int8/32", "int4/32", "int4/64/sym", "int2/64"])
def test_weights_have_the_deviation_that_keeps_activations_finite(fmt):
    source = RandomSource("tiny", TINY, parse_format(fmt))
    name = "model.layers.1.mlp.down_proj.weight"
    whole = source.tensor(name)
    assert whole.shape == (64, 96) and whole.format == source.describe(name)[1]
    weights = whole.dequantize()
    assert abs(weights.std() * np.sqrt(96) - 1) < 0.1 and abs(weights.mean()) < weights.std() / 2
    parts = list(source.parts(name))
    assert [first for first, _ in parts] == [0] and parts[0][1].shape == (64, 96)
    assert (source.tensor("model.norm.weight").dequantize() == 1).all()
    assert (RandomSource("tiny", TINY, parse_format(fmt)).tensor(name).dequantize() == weights).all()
    model = load(source, backend="torch", max_tokens=16)
    logits = model.forward([1, 2, 3]).logits
    assert np.isfinite(logits).all() and 0.1 < logits.std() < 100


def test_long_matrices_come_in_parts():
    source = RandomSource("long", {**TINY, "vocab_size": 300_000}, parse_format("int4/64"))
    parts = list(source.parts("model.embed_tokens.weight"))
    rows = [tensor.shape[0] for _, tensor in parts]
    assert len(parts) > 1 and sum(rows) == 300_000
    assert [first for first, _ in parts] == [0, *np.cumsum(rows)[:-1]]


@pytest.mark.parametrize("name", ["smollm2-1.7b", "llama-3.2-3b", "llama-3-8b"])
def test_shapes_are_those_of_the_catalogue(name):
    config = catalogue()[name].config
    assert shape_config(name) == config and name in shapes()
    source = RandomSource(name, shape_config(name), parse_format("int4"))
    shape, _ = source.describe("model.layers.15.mlp.gate_proj.weight")
    assert shape == (config["intermediate_size"], config["hidden_size"])


def test_bad_shapes_are_refused(tmp_path):
    with pytest.raises(
        WorkbenchError, match=r"not the name of a shape; allowed: smollm2-135m, .*llama-3\.2-1b"
    ):
        shape_config("llama-9")
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(WorkbenchError, match="expected a JSON object, found list"):
        shape_config(str(tmp_path / "config.json"))
    with pytest.raises(UnsupportedModelError, match="num_attention_heads"):
        RandomSource("bad", {**TINY, "num_attention_heads": None}, parse_format("int4"))
    with pytest.raises(UnsupportedModelError, match="has no tensor"):
        RandomSource("tiny", TINY, parse_format("int4/32")).tensor("model.unknown.weight")


def test_speed_of_a_shape(tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    shape, out = str(tmp_path / "config.json"), tmp_path / "speed.json"
    common = ["speed", "--like", shape, "--format", "int4/32", "--backend", "torch", "--repetitions", "2"]
    assert (
        main([*common, "--prompt-tokens", "8", "--tokens", "4", "--dtype", "f32", "int8", "--json", str(out)])
        == 0
    )
    printed = capsys.readouterr().out
    rows = json.loads(out.read_text())
    assert [row["dtype"] for row in rows] == ["f32", "int8"] and "decode, tokens/s" in printed
    for row in rows:
        assert len(row["speed"]["decode"]["seconds"]) == 2 and row["speed"]["decode"]["tokens"] == 4
        assert row["gb_per_s"] == pytest.approx(
            row["weight_bytes"] * row["speed"]["decode"]["tokens_per_second"] / 1e9
        )
        assert row["record"]["backend"] == "torch" and row["record"]["kernels_sha256"]
    assert main(["speed", "--like", shape]) == 2 and "go together" in capsys.readouterr().err
    assert main(["speed"]) == 2 and "a model, or a shape" in capsys.readouterr().err


@pytest.mark.parametrize("backend", ["torch", "wgpu"])
def test_how_long_windows_take_against_a_baseline(tmp_path, capsys, backend):
    if backend == "wgpu" and adapter_missing():
        pytest.skip(adapter_missing())
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    shape, out = str(tmp_path / "config.json"), tmp_path / "speed.json"
    common = ["speed", "--like", shape, "--format", "int4/32", "--backend", backend, "--json", str(out)]
    assert main([*common, "--against", "f16", "--windows", "2", "--window-tokens", "24"]) == 0
    printed = capsys.readouterr().out
    [row] = json.loads(out.read_text())
    assert "2 windows of 24 random tokens" in printed and "in f16" in printed
    assert row["alone"] > 0 and 0 < row["model_seconds"] < row["seconds"] and row["kl"] > 0
    assert row["record"]["backend"] == backend


def test_bytes_are_those_of_the_matrices_that_a_token_reads():
    run = SpeedRun("torch", "f32", None, prompt_tokens=4, decode_tokens=2, repetitions=1)
    row = measured(RandomSource("tiny", TINY, parse_format("int8/32")), run)
    layer = 64 * (64 + 32 + 32 + 64 + 3 * 96)
    bits = 8 + 24 / 32
    assert row.weight_bytes == pytest.approx((2 * layer + 160 * 64) * bits / 8 + 5 * 64 * 4)
    assert row.dispatches == 0 and "–" in table([row])
