"""MLC's folders: integers with their zero-point 7 as they are, and everything that a folder may lie about."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.support.foreign import SIZES
from tests.support.mlc_files import write_mlc
from workbench import cli
from workbench.convert.imported import import_model
from workbench.errors import CheckpointError, UnsupportedModelError
from workbench.formats.reader import StoredModel
from workbench.models.families import architecture_of
from workbench.models.source import open_source

V = "model.layers.1.self_attn.v_proj.weight"
QWEN3 = {key: value for key, value in SIZES.items() if key != "architectures"} | {"model_type": "qwen3"}

MISTRAL = QWEN3 | {"model_type": "mistral"}


@pytest.mark.parametrize(
    "mode, cache",
    [("q4f16_1", "ndarray-cache.json"), ("q4f16_2", "tensor-cache.json"), ("q4f16_1", "tensor-cache.json")],
)
def test_weights_are_those_of_the_layout_bit_for_bit(tmp_path, mode, cache):
    expected = write_mlc(tmp_path, mode, cache=cache)
    source = open_source(tmp_path)
    assert set(source.names()) == set(expected) and not source.unread
    for name, weights in expected.items():
        table = "f16" if mode == "q4f16_2" else "int4/32"
        wanted = "int4/32" if "_proj" in name else table if "embed" in name else "f16"
        assert str(source.describe(name)[1]) == wanted, name
        np.testing.assert_array_equal(source.tensor(name).dequantize(), weights, name)
    assert (source.tensor(V).planes["zeros"] == 7).all()
    assert source.stored_as(V) == "MLC, 4 bits"
    rows = np.concatenate([part.dequantize() for _, part in source.parts(V)])
    np.testing.assert_array_equal(rows, expected[V])
    assert (source.config["rope_theta"], source.config["eos_token_id"]) == (10000.0, [2])


def test_floats_that_were_shortened_are_bf16(tmp_path):
    """Norms of q4f32_1 are stored as bf16; scales too, whose integers stay."""
    expected = write_mlc(tmp_path, "q4f32_1")
    source = open_source(tmp_path)
    norm = "model.norm.weight"
    assert str(source.describe(norm)[1]) == "bf16"
    np.testing.assert_array_equal(source.tensor(norm).dequantize(), expected[norm])
    assert source.describe(V)[1].dtype == "int4"


def test_qwen_calls_its_stack_by_another_name(tmp_path):
    from tests.models.checkpoints import random_state

    expected = write_mlc(tmp_path, config=QWEN3)
    listed = json.loads((tmp_path / "ndarray-cache.json").read_text())
    assert any(".c_attn." in each["name"] for shard in listed["records"] for each in shard["records"])
    norms = {
        f"model.layers.{layer}.self_attn.{part}_norm.weight": np.full(16, 0.5 + layer, np.float16)
        for layer in (0, 1)
        for part in "qk"
    }
    for name, values in norms.items():
        at = len((tmp_path / "params_shard_0.bin").read_bytes())
        with (tmp_path / "params_shard_0.bin").open("ab") as file:
            file.write(values.tobytes())
        listed["records"][0]["records"].append(
            {"name": name, "shape": [16], "dtype": "float16", "format": "raw", "nbytes": 32, "byteOffset": at}
        )
    (tmp_path / "ndarray-cache.json").write_text(json.dumps(listed))
    source = open_source(tmp_path)
    assert set(source.names()) == set(random_state(SIZES)) | set(norms)
    np.testing.assert_array_equal(source.tensor(V).dequantize(), expected[V])


@pytest.mark.parametrize("window", [None, 24])
def test_mistral_may_have_a_window(tmp_path, window):
    """With one MLC's context has no end, and its attention keeps the first tokens, which Mistral's does not."""
    expected = write_mlc(tmp_path, config=MISTRAL | {"sliding_window": window})
    source = open_source(tmp_path)
    for name, weights in expected.items():
        np.testing.assert_array_equal(source.tensor(name).dequantize(), weights, name)
    assert source.config["sliding_window"] == window
    model = architecture_of(source.config)
    assert model.bounds(1) == ({"window": window} if window else {})
    assert model.context_length == (131072 if window else SIZES["max_position_embeddings"])
    assert any("attention_sink_size" in note for note in source.notes) == bool(window)


def test_an_imported_model_holds_the_same_and_says_where_from(tmp_path, capsys):
    expected = write_mlc(tmp_path / "in")
    import_model(tmp_path / "in", tmp_path / "out")
    stored = StoredModel.open(tmp_path / "out")
    for name, weights in expected.items():
        np.testing.assert_array_equal(stored.tensor(name).dequantize(), weights, name)
    origin = stored.manifest["provenance"]["source"]
    assert origin["mlc"] == {"quantization": "q4f16_1"}
    assert set(origin["sha256"]) >= {"mlc-chat-config.json", "ndarray-cache.json", "params_shard_0.bin"}
    assert cli.main(["info", str(tmp_path / "in"), "--tensors"]) == 0
    assert "MLC, 4 bits" in capsys.readouterr().out


def _chat(**changes):
    def change(folder):
        file = folder / "mlc-chat-config.json"
        told = json.loads(file.read_text())
        model = told["model_config"] | changes.pop("model", {})
        file.write_text(json.dumps(told | changes | {"model_config": model}))

    return change


def _record(**changes):
    def change(folder):
        file = folder / "ndarray-cache.json"
        listed = json.loads(file.read_text())
        listed["records"][0]["records"][0] |= changes
        file.write_text(json.dumps(listed))

    return change


def _shard(name):
    def change(folder):
        file = folder / "ndarray-cache.json"
        listed = json.loads(file.read_text())
        listed["records"][0]["dataPath"] = name
        file.write_text(json.dumps(listed))

    return change


@pytest.mark.parametrize(
    "change, error, message",
    [
        (_chat(quantization="q4f16_0"), UnsupportedModelError, "quantization is 'q4f16_0'; allowed: q4f16_1"),
        (_chat(model_type="phi"), UnsupportedModelError, "model_type is 'phi'; allowed: llama, mistral, qwen2"),
        (_chat(model={"logit_scale": 2}), UnsupportedModelError, "model_config.logit_scale is not understood"),
        (_chat(model={"sliding_window_size": 64}), UnsupportedModelError, "sliding_window_size is 64; allowed: null"),
        (_chat(model={"hidden_size": 32}), UnsupportedModelError, "but config.json asks for"),
        (_record(shape=[97, 9]), CheckpointError, "bytes at 0 of params_shard_0.bin, which has"),
        (_record(dtype="int4"), CheckpointError, "has dtype 'int4'; allowed: uint32"),
        (_record(byteOffset=1 << 40), CheckpointError, "which has .*; its shape needs"),
        (_record(name="model.norm.weight"), CheckpointError, "'model.norm.weight' is there twice"),
        (_shard("../secret.bin"), CheckpointError, r"dataPath is '../secret.bin'; allowed: a file of the same folder"),
        (_shard("a" * 5000), CheckpointError, r"dataPath is 'a{9,40}\.\.\.a{9,40}'; allowed"),
        (_shard("\ud800"), CheckpointError, r"dataPath is '\\ud800'; allowed"),
        (lambda folder: (folder / "params_shard_1.bin").unlink(), CheckpointError, "shard_1.bin: cannot be read"),
        (lambda folder: (folder / "ndarray-cache.json").unlink(), CheckpointError, "is missing, which says where"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path, change, error, message):
    write_mlc(tmp_path)
    change(tmp_path)
    with pytest.raises(error, match=message):
        open_source(tmp_path)
