"""What of a folder is the model's: stray tensors, heads of their own, two checkpoints in one folder, NaN."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import workbench
from tests.models.checkpoints import CONFIG, STRAYS, random_state, write_checkpoint
from workbench.errors import CheckpointError, UnsupportedModelError
from workbench.models import checkpoint as checkpoint_module
from workbench.models import finite
from workbench.models.checkpoint import Checkpoint
from workbench.models.hub import INDEX

IDS = [1, 5, 9, 40, 22, 17, 3, 60]
EMBEDDING, LM_HEAD = "model.embed_tokens.weight", "lm_head.weight"
LAYER = "model.layers.0."
TIED = CONFIG | {"tie_word_embeddings": True}


def logits(folder) -> np.ndarray:
    return workbench.load(folder, backend="torch").forward(IDS).logits


def theirs(folder) -> np.ndarray:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False)
    with torch.no_grad():
        return model.double()(torch.tensor([IDS])).logits[0].numpy()


@pytest.fixture(scope="module")
def state():
    return random_state(CONFIG)


@pytest.fixture(scope="module")
def plain(state, tmp_path_factory):
    return logits(write_checkpoint(tmp_path_factory.mktemp("plain") / "model", state, CONFIG))


# ---- tensors that no plan reads ------------------------------------------------------------------------------------

#: Name -> what says that the file is of another family, and how it is called.
FOREIGN = {
    LAYER + "self_attn.q_proj.bias": (torch.ones(48), "a bias, which attention_bias does not declare"),
    LAYER + "self_attn.o_proj.bias": (torch.zeros(48), "a bias, which attention_bias does not declare"),
    "model.layers.1.mlp.down_proj.bias": (torch.ones(48), "a bias, which mlp_bias does not declare"),
    LAYER + "input_layernorm.bias": (torch.ones(48), "a bias, which Llama has not there"),
    "lm_head.bias": (torch.ones(97), "a bias, which Llama has not there"),
    LAYER + "self_attn.q_norm.weight": (torch.ones(8), "a norm that Llama has not"),
    LAYER + "self_attn.k_norm.weight": (torch.ones(8), "a norm that Llama has not"),
    LAYER + "pre_feedforward_layernorm.weight": (torch.ones(48), "a norm that Llama has not"),
    LAYER + "mlp.experts.3.up_proj.weight": (torch.ones(8, 48), "a mixture of experts"),
    LAYER + "mlp.experts.gate_up_proj": (torch.ones(2, 8, 48), "a mixture of experts"),
    LAYER + "mlp.gate.weight": (torch.ones(8, 48), "a mixture of experts"),
    LAYER + "self_attn.qkv_proj.weight": (torch.ones(80, 48), "a part that Llama has not"),
    LAYER + "self_attn.sinks": (torch.ones(6), "a part that Llama has not"),
    "model.embed_positions.weight": (torch.ones(64, 48), "a part that Llama has not"),
}


def test_what_means_nothing_is_listed_once_and_not_shown(state, plain, tmp_path):
    folder = write_checkpoint(tmp_path, state | STRAYS, CONFIG)
    opened = Checkpoint.open(folder)
    assert set(opened.names()) == set(state)
    assert set(opened.unread) == set(STRAYS)
    assert not set(STRAYS) & {name for name in STRAYS if name in opened}
    with pytest.raises(CheckpointError, match="no tensor 'steps'"):
        opened.describe("steps")
    np.testing.assert_array_equal(logits(folder), plain)
    choices = workbench.load(folder, backend="torch").choices
    told = [chosen for what, chosen, _ in choices if what == "note"]
    assert all(note.startswith("not read: ") for note in told)
    assert any("(layers beyond those of a model that has 2" in note for note in told)


def test_an_adapter_beside_the_weights_is_noted(state, plain, tmp_path):
    folder = write_checkpoint(tmp_path, state, CONFIG)
    (folder / "adapter_config.json").write_text("{}")
    assert Checkpoint.open(folder).notes[0].startswith("without the adapter of adapter_config.json")
    np.testing.assert_array_equal(logits(folder), plain)


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_of_another_family_is_refused_with_the_reason(state, tmp_path, name):
    tensor, reason = FOREIGN[name]
    folder = write_checkpoint(tmp_path, state | STRAYS | {name: tensor}, CONFIG)
    with pytest.raises(UnsupportedModelError, match=f"{name}: no Llama .* reads it: {reason}"):
        workbench.load(folder, backend="torch")


def test_a_declared_bias_is_read(tmp_path):
    config = CONFIG | {"attention_bias": True}
    folder = write_checkpoint(tmp_path, random_state(config), config)
    expected = theirs(folder)
    assert np.abs(logits(folder) - expected).max() < 1e-5 * np.abs(expected).max()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(UnsupportedModelError, match=r"and 4 more: no Llama .* which attention_bias does not"):
        Checkpoint.open(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attention_bias": True}, r"q_proj.bias' is missing.*\(attention_bias"),
        ({"num_hidden_layers": 3}, "model.layers.2.*is missing.*num_hidden_layers"),
        ({"vocab_size": 96}, r"embed_tokens.weight has shape \[97, 48\].* asks for \[96, 48\] \(vocab_size"),
        ({"num_key_value_heads": 6}, "k_proj.weight has shape.*num_key_value_heads"),
        ({"intermediate_size": 171}, "gate_proj.weight has shape.*intermediate_size"),
    ],
)
def test_what_is_missing_or_misshapen_names_the_keys_that_ask_for_it(state, tmp_path, change, message):
    with pytest.raises((CheckpointError, UnsupportedModelError), match=message):
        Checkpoint.open(write_checkpoint(tmp_path, state, CONFIG | change))


def test_a_missing_head_names_the_key(state, tmp_path):
    del (left := dict(state))[LM_HEAD]
    with pytest.raises(CheckpointError, match=r"'lm_head.weight' is missing.*tie_word_embeddings"):
        Checkpoint.open(write_checkpoint(tmp_path, left, CONFIG))


# ---- tied or not ---------------------------------------------------------------------------------------------------


def test_a_head_of_its_own_is_used_though_the_configuration_ties(state, tmp_path):
    folder = write_checkpoint(tmp_path, state, TIED)
    opened = Checkpoint.open(folder)
    assert LM_HEAD in opened.names() and opened.config["tie_word_embeddings"] is False
    assert "not tied, though tie_word_embeddings is true" in opened.notes[0]
    expected = theirs(folder)
    assert np.abs(logits(folder) - expected).max() < 1e-5 * np.abs(expected).max()


def test_one_weight_of_difference_unties(state, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint_module, "PART_BYTES", 10 * 48 * 4)
    head = state[EMBEDDING].clone()
    same = write_checkpoint(tmp_path / "same", state | {LM_HEAD: head}, TIED)
    assert Checkpoint.open(same).unread == {LM_HEAD: f"tied to {EMBEDDING}"}
    head[96, 47] += 1
    assert Checkpoint.open(write_checkpoint(tmp_path / "other", state | {LM_HEAD: head}, TIED)).unread == {}


def test_a_head_of_another_shape_is_refused(state, tmp_path):
    folder = write_checkpoint(tmp_path, state | {LM_HEAD: torch.ones(96, 48)}, TIED)
    with pytest.raises(UnsupportedModelError, match=r"lm_head.weight has shape \[96, 48\].*vocab_size"):
        Checkpoint.open(folder)


# ---- an index beside a single file ---------------------------------------------------------------------------------


@pytest.fixture
def both(state, tmp_path):
    """A folder with the model in shards and, equal to them, in one file."""
    write_checkpoint(tmp_path, state, CONFIG, shards=2)
    return write_checkpoint(tmp_path, state, CONFIG)


def test_equal_copies_are_one_model(both, plain):
    assert Checkpoint.open(both).notes == ()
    np.testing.assert_array_equal(logits(both), plain)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model.norm.weight": torch.full((48,), 2.0)}, "the values of 'model.norm.weight' differ"),
        (
            {"model.norm.weight": torch.full((48,), 2.0).half()},
            "shape or dtype of 'model.norm.weight' differ",
        ),
        ({"model.more.weight": torch.ones(3)}, "only the single file has 'model.more.weight'"),
    ],
)
def test_copies_that_differ_are_refused(both, state, change, message):
    write_checkpoint(both, state | change, CONFIG)
    with pytest.raises(CheckpointError, match=f"two different checkpoints .*{message}.* Remove the one"):
        Checkpoint.open(both)


def test_an_index_without_its_shards_is_a_leftover(both, plain):
    (both / "model-00002-of-00002.safetensors").unlink()
    opened = Checkpoint.open(both)
    assert (
        "the index beside it names model-00002-of-00002.safetensors, which are not there" in opened.notes[0]
    )
    np.testing.assert_array_equal(logits(both), plain)


def test_an_index_of_the_single_file_is_no_second_copy(both, state, plain):
    (both / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(state, "model.safetensors")}))
    np.testing.assert_array_equal(logits(both), plain)


# ---- not finite ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_model_that_is_run_names_the_tensor_that_is_not_finite(tmp_path, state, dtype, bad, monkeypatch):
    monkeypatch.setattr(finite, "_CHUNK", 1000)
    state = {name: value.to(dtype, copy=True) for name, value in state.items()}
    state["model.layers.1.mlp.up_proj.weight"][171, 47] = bad
    folder = write_checkpoint(tmp_path, state, CONFIG)
    with pytest.raises(
        CheckpointError, match=r"'model.layers.1.mlp.up_proj.weight' is not finite: .* at \[171, 47\]"
    ):
        logits(folder)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.uint16], ids=str)
def test_the_largest_finite_weights_are_finite(dtype):
    largest = np.array([0x7F7F], np.uint16) if dtype is np.uint16 else np.array([np.finfo(dtype).max], dtype)
    finite.require_finite("here", "w", 0, largest)
    tiny = np.array([1, 0x8000], np.uint16) if dtype is np.uint16 else np.array([5e-8, -0.0], dtype)
    finite.require_finite("here", "w", 0, tiny)
