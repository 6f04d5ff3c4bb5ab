"""Checkpoint reading: each tensor bit for bit as safetensors gives it, and clear refusals of all else."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import torch

from tests.models.checkpoints import CONFIG, random_state, write_checkpoint
from workbench.errors import CheckpointError
from workbench.models import checkpoint as module
from workbench.models.checkpoint import INDEX, Checkpoint

NAMES = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}


@pytest.fixture(scope="module")
def state():
    return random_state(CONFIG)


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("dtype", list(NAMES), ids=str)
def test_tensors_are_exact_in_their_own_dtype(tmp_path, state, dtype, shards):
    state = {name: value.to(dtype) for name, value in state.items()}
    opened = Checkpoint.open(write_checkpoint(tmp_path, state, CONFIG, shards))
    assert sorted(opened.names()) == sorted(state)
    assert opened.config == CONFIG
    for name, value in state.items():
        shape, fmt = opened.describe(name)
        assert (shape, fmt.dtype) == (tuple(value.shape), NAMES[dtype])
        np.testing.assert_array_equal(opened.tensor(name).dequantize(), value.float().numpy())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_parts_are_the_tensor_in_order(tmp_path, state, dtype, monkeypatch):
    state = {name: value.to(dtype) for name, value in state.items()}
    opened = Checkpoint.open(write_checkpoint(tmp_path, state, CONFIG))
    monkeypatch.setattr(module, "PART_BYTES", 10 * 48 * 4)
    for name, value in state.items():
        parts = list(opened.parts(name))
        assert [start for start, _ in parts] == list(
            np.cumsum([0] + [len(p.planes["values"]) for _, p in parts])[:-1]
        )
        assert all(p.dequantize().nbytes <= max(module.PART_BYTES, 4 * value[0].numel()) for _, p in parts)
        np.testing.assert_array_equal(
            np.concatenate([p.dequantize() for _, p in parts]), value.float().numpy()
        )
    assert len(list(opened.parts("model.embed_tokens.weight"))) == 10


def test_shared_checkpoints_open(shared):
    for name, count in (("stories260K-hf", 260_032), ("babyllama105-hf", 936_448)):
        opened = Checkpoint.open(shared / "models" / name)
        assert sum(int(np.prod(opened.describe(n)[0])) for n in opened.names()) == count


def test_source_hashes_are_those_of_the_files(tmp_path, state):
    folder = write_checkpoint(tmp_path, state, CONFIG, shards=2)
    expected = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}
    assert Checkpoint.open(folder).source_hashes() == expected


def break_nothing_there(folder):
    (folder / "model.safetensors").unlink()
    return "model.safetensors"


def break_only_pickle(folder):
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return r"pytorch_model.bin.*pickle.*safe_serialization"


def break_no_config(folder):
    (folder / "config.json").unlink()
    return "config.json.*missing"


def break_config_json(folder):
    (folder / "config.json").write_text("{")
    return "config.json.*JSON"


def break_config_list(folder):
    (folder / "config.json").write_text("[]")
    return "config.json.*object"


def break_truncated(folder):
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-5])
    return "model.safetensors.*not a whole"


def break_header_length(folder):
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(b"\xff" * 8 + data[8:])
    return "model.safetensors.*not a whole"


def break_header_json(folder):
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:8] + b"[" + data[9:])
    return "model.safetensors.*not a whole"


def break_empty_file(folder):
    (folder / "model.safetensors").write_bytes(b"")
    return "model.safetensors.*not a whole"


@pytest.mark.parametrize("break_it", [v for k, v in list(globals().items()) if k.startswith("break_")])
def test_broken_folders_are_refused(tmp_path, state, break_it):
    folder = write_checkpoint(tmp_path, state, CONFIG)
    with pytest.raises(CheckpointError, match=f"(?s){break_it(folder)}"):
        Checkpoint.open(folder)


_LEADS_OUT = ("../other.safetensors", "/etc/passwd", "a\\b.safetensors", "pytorch_model.bin", 3, "")
_IS_NO_NAME = ("a" * 5000 + ".safetensors", "\x00.safetensors", "\ud800.safetensors")


@pytest.mark.parametrize("bad", [*_LEADS_OUT, *_IS_NO_NAME])
def test_an_index_that_leaves_the_folder_is_refused(tmp_path, state, bad):
    folder = write_checkpoint(tmp_path / "inside", state, CONFIG, shards=2)
    write_checkpoint(tmp_path, state, CONFIG)
    (tmp_path / "model.safetensors").rename(tmp_path / "other.safetensors")
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"]["model.norm.weight"] = bad
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"model.norm.weight.*points to") as refused:
        Checkpoint.open(folder)
    assert len(str(refused.value)) < 1000 and str(refused.value).isprintable()


def test_a_missing_shard_and_a_missing_tensor_are_named(tmp_path, state):
    folder = write_checkpoint(tmp_path, state, CONFIG, shards=2)
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"]["model.extra.weight"] = "model-00001-of-00002.safetensors"
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(
        CheckpointError, match=r"model-00001-of-00002.safetensors.*'model.extra.weight' is missing"
    ):
        Checkpoint.open(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(
        CheckpointError, match=r"tensor '.*' is in the shard 'model-00002-of-00002.safetensors'"
    ):
        Checkpoint.open(folder)


@pytest.mark.parametrize("weight_map", [None, {}, [], "x"])
def test_an_index_without_a_map_is_refused(tmp_path, state, weight_map):
    folder = write_checkpoint(tmp_path, state, CONFIG)
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError, match="weight_map"):
        Checkpoint.open(folder)


@pytest.mark.parametrize("dtype", [torch.int32, torch.float64, torch.float8_e4m3fn, torch.bool], ids=str)
def test_other_dtypes_are_refused_by_name(tmp_path, state, dtype):
    wrong = state | {"model.norm.weight": torch.ones(48).to(dtype)}
    opened = Checkpoint.open(write_checkpoint(tmp_path, wrong, CONFIG))
    for read in (opened.describe, opened.tensor, lambda name: list(opened.parts(name))):
        with pytest.raises(CheckpointError, match=r"model.norm.weight.*dtype.*allowed: F32, F16, BF16"):
            read("model.norm.weight")


def test_an_unknown_tensor_is_refused_by_name(tmp_path, state):
    opened = Checkpoint.open(write_checkpoint(tmp_path, state, CONFIG))
    with pytest.raises(CheckpointError, match="no tensor 'nope'"):
        opened.tensor("nope")
