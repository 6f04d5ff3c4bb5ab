"""Columns that are grouped in an order of their own (act-order): their integers stay, and activations are gathered."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import workbench
from tests.models.checkpoints import random_state, write_checkpoint
from tests.models.lora_cases import write_adapter
from tests.support import foreign
from tests.support.foreign import SIZES, Rounded, write_quantized
from workbench import cli
from workbench.convert.convert import convert
from workbench.convert.imported import import_model
from workbench.convert.options import ConvertOptions
from workbench.errors import CheckpointError, UnsupportedModelError, WorkbenchError
from workbench.formats.text import parse_format
from workbench.models.adapted import merged
from workbench.models.families import architecture_of
from workbench.models.foreign.export import export
from workbench.models.foreign.words import unpack_words
from workbench.models.orders import NAME, order_of
from workbench.models.source import open_source
from workbench.runtime.device import adapter_missing

LAYOUT = "gptq-act-order"
IDS = np.arange(3, 40)


def an_order_each(monkeypatch) -> None:
    """From here on, each matrix that is written has an order of its own."""
    rng = np.random.default_rng(3)
    monkeypatch.setattr(
        foreign, "_shuffled", lambda columns, group: rng.permutation(np.arange(columns) // group)
    )


def floats(folder, weights) -> None:
    write_checkpoint(folder, {name: torch.from_numpy(each.copy()) for name, each in weights.items()}, SIZES)


def gathers(plan) -> list[str]:
    return [call.outputs["y"] for call in plan.calls if call.op == "select_columns"]


def test_integers_scales_and_zero_points_are_those_of_the_file(tmp_path):
    state = random_state(SIZES)
    write_quantized(tmp_path / "in", LAYOUT, state)
    import_model(tmp_path / "in", tmp_path / "out")
    for source in (open_source(tmp_path / "in"), open_source(tmp_path / "out")):
        orders = architecture_of(source.config).orders
        assert len(orders) == 14 and NAME in source.config
        for name, order in orders.items():
            columns, tensor = order_of(source, order), source.tensor(name)
            groups = foreign._shuffled(len(columns), 32)
            file = Rounded(state[name].float().numpy(), 4, 32, False, groups)
            assert str(tensor.format) == "int4/32"
            np.testing.assert_array_equal(groups[columns], np.arange(len(columns)) // 32)
            np.testing.assert_array_equal(tensor.quants(), file.q[:, columns], name)
            np.testing.assert_array_equal(tensor.planes["scales"], file.scales, name)
            np.testing.assert_array_equal(tensor.planes["zeros"], file.zeros, name)


def test_matrices_of_one_input_and_order_share_a_gather(tmp_path, monkeypatch):
    write_quantized(tmp_path / "shared", LAYOUT)
    an_order_each(monkeypatch)
    write_quantized(tmp_path / "own", LAYOUT)
    for name, count in (("shared", 4), ("own", 7)):
        source = open_source(tmp_path / name)
        made = gathers(architecture_of(source.config).build(source.describe))
        assert len(made) == len(set(made)) == count * SIZES["num_hidden_layers"]


@pytest.mark.skipif(adapter_missing(), reason="no WebGPU adapter")
@pytest.mark.parametrize("own, dtype", [(True, "f32"), (False, "f16")], ids=["own-f32", "shared-f16"])
def test_kernels_give_what_the_dequantized_weights_give(tmp_path, monkeypatch, own, dtype):
    if own:
        an_order_each(monkeypatch)
    expected = write_quantized(tmp_path / "in", LAYOUT)
    floats(tmp_path / "floats", expected)
    import_model(tmp_path / "in", tmp_path / "out")
    plain = workbench.load(tmp_path / "floats", backend="torch").score(IDS).nll
    for backend in ("wgpu", "torch") if dtype == "f32" else ("wgpu",):
        ours = workbench.load(tmp_path / "out", backend=backend, dtype=dtype).score(IDS).nll
        np.testing.assert_allclose(ours, plain, atol=2e-5 if dtype == "f32" else 2e-2)


@pytest.mark.skipif(adapter_missing(), reason="no WebGPU adapter")
def test_activations_in_int8_are_rounded_in_the_order_of_the_columns(tmp_path):
    """Blocks of activations are those of columns that are side by side here, in kernels and references alike.

    A few tokens: where an activation lies between two integers, a bit of f32 decides, and all that follows differs.
    """
    write_quantized(tmp_path, LAYOUT)
    ids = np.random.default_rng(0).integers(3, SIZES["vocab_size"], 6)
    ours, theirs = (
        workbench.load(tmp_path, backend=backend, dtype="int8").score(ids).nll
        for backend in ("wgpu", "torch")
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_stacked_matrices_have_the_order_of_the_stack(tmp_path):
    """Phi-3 has q, k and v in one matrix."""
    config = SIZES | {"model_type": "phi3", "architectures": ["Phi3ForCausalLM"], "pad_token_id": 0}
    del config["head_dim"]
    state = random_state(SIZES)
    for layer in range(2):
        before = f"model.layers.{layer}."
        for stack, parts in (("self_attn.qkv_proj", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
                             ("mlp.gate_up_proj", ("mlp.gate_proj", "mlp.up_proj"))):  # fmt: skip
            state[f"{before}{stack}.weight"] = torch.cat([state.pop(f"{before}{p}.weight") for p in parts])
    expected = write_quantized(tmp_path / "in", LAYOUT, state, config)
    source = open_source(tmp_path / "in")
    name = "model.layers.1.self_attn.k_proj.weight"
    order = order_of(source, architecture_of(source.config).orders[name])
    k = source.tensor(name)
    assert str(k.format) == "int4/32"
    whole = expected["model.layers.1.self_attn.qkv_proj.weight"]
    np.testing.assert_array_equal(k.dequantize(), whole[64 : 64 + k.shape[0], order])
    assert len(gathers(architecture_of(source.config).build(source.describe))) == 8


def test_info_says_it(tmp_path, capsys):
    write_quantized(tmp_path / "in", LAYOUT)
    import_model(tmp_path / "in", tmp_path / "out")
    for name in ("in", "out"):
        assert cli.main(["info", str(tmp_path / name)]) == 0
        assert "14 matrices in orders of their own" in capsys.readouterr().out


def test_gptq_goes_out_as_it_came_in(tmp_path, monkeypatch):
    an_order_each(monkeypatch)
    expected = write_quantized(tmp_path / "in", LAYOUT)
    import_model(tmp_path / "in", tmp_path / "model")
    export(open_source(tmp_path / "model"), "gptq", tmp_path / "out")
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("in", "out"))
    assert set(before) == set(after)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["quantization_config"]["desc_act"] is True and NAME not in config
    shift = {"gptq": 0, "gptq_v2": 1}[config["quantization_config"]["checkpoint_format"]]
    for name, values in before.items():
        if name.endswith(".qzeros"):  # z - 1 in version 1, modulo 16; z in version 2
            stored, written = (
                unpack_words(each.numpy(), 4, each.shape[1] * 8) for each in (values, after[name])
            )
            np.testing.assert_array_equal(written, (stored + shift) % 16)
        else:
            torch.testing.assert_close(after[name].to(values.dtype), values, rtol=0, atol=0)
    again = open_source(tmp_path / "out")
    export(again, "hf", tmp_path / "floats")
    found = open_source(tmp_path / "floats")
    assert NAME not in found.config and set(found.names()) == set(expected)
    for name, weights in expected.items():
        np.testing.assert_array_equal(found.tensor(name).dequantize(), weights, name)


@pytest.mark.parametrize("target", ["compressed-tensors", "onnx", "gguf"])
def test_other_targets_are_refused_with_what_fits(tmp_path, target):
    write_quantized(tmp_path / "in", LAYOUT)
    with pytest.raises(
        WorkbenchError, match=r"columns of 14 matrices .*\(act-order\).*what fits: --to hf or gptq"
    ):
        export(open_source(tmp_path / "in"), target, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def ordered(tmp_path_factory):
    """A checkpoint of floats, and the same with columns of one matrix in another order, which config.json names."""
    folder, state = tmp_path_factory.mktemp("ordered"), random_state(SIZES)
    write_checkpoint(folder / "plain", state, SIZES)
    matrix = "model.layers.0.mlp.down_proj.weight"
    order = torch.randperm(96, generator=torch.Generator().manual_seed(0))
    moved = {
        matrix: state[matrix][:, order].contiguous(),
        "model.layers.0.mlp.down_proj.order": order.float(),
    }
    config = SIZES | {NAME: {"model.layers.0.mlp.down_proj.order": [matrix]}}
    write_checkpoint(folder / "moved", state | moved, config)
    return folder


def scores(source) -> np.ndarray:
    return workbench.load(source, backend="torch").score(IDS).nll


def test_floats_may_have_an_order_and_adapters_meet_their_own_columns(ordered, tmp_path):
    plain, moved = ordered / "plain", ordered / "moved"
    np.testing.assert_allclose(scores(moved), scores(plain), atol=1e-5)
    lora = write_adapter(
        tmp_path / "lora", plain, {f"model.layers.0.mlp.{part}_proj": 4 for part in ("down", "up")}
    )
    given = {}
    for name in ("plain", "moved"):
        beside = workbench.load(ordered / name, backend="torch", lora=lora).score(IDS).nll
        convert(merged(ordered / name, lora), tmp_path / name, ConvertOptions(parse_format("f32")))
        given[name] = beside, scores(tmp_path / name)
    assert np.abs(given["plain"][0] - scores(plain)).max() > 1e-3
    for found in (given["plain"][1], *given["moved"]):
        np.testing.assert_allclose(found, given["plain"][0], atol=1e-4)


def edited(folder, ordered, change, told=None):
    """The checkpoint with another order, and another entry of config.json."""
    tensors = load_file(ordered / "moved" / "model.safetensors")
    name = "model.layers.0.mlp.down_proj.order"
    tensors[name] = change(tensors[name])
    told = told or {name: ["model.layers.0.mlp.down_proj.weight"]}
    return write_checkpoint(folder, {n: t for n, t in tensors.items() if t is not None}, SIZES | {NAME: told})


def with_value(value):
    def change(order):
        order = order.clone()
        order[7] = value
        return order

    return change


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda order: with_value(float(order[8]))(order), r"is no order of columns: it has column \d+ 2 times"),
        (with_value(96.0), "it has 96 at place 7; allowed: each of 0 to 95 once"),
        (with_value(-1.0), "it has -1 at place 7"),
        (with_value(2.5), "it has 2.5 at place 7"),
        (lambda order: order[:95].clone(), r"has shape \[95\], but config.json asks for \[96\] \(column_orders\)"),
        (lambda order: None, r"down_proj.order' is missing, but config.json asks for it \(column_orders\)"),
    ],
    ids=["twice", "beyond", "negative", "fraction", "short", "missing"],
)  # fmt: skip
def test_what_is_no_order_is_refused(ordered, tmp_path, change, message):
    folder = edited(tmp_path / "in", ordered, change)
    with pytest.raises((CheckpointError, UnsupportedModelError), match=message):
        open_source(folder)


def test_a_converted_model_is_checked_as_well(ordered, tmp_path):
    """Whoever writes one: what is opened is read."""
    source = open_source(ordered / "moved")
    name = "model.layers.0.mlp.down_proj.order"
    kept = source.tensor(name).planes["values"]
    source.tensor = lambda asked, read=source.tensor: _reversed(read(asked), asked == name)
    source.parts = lambda asked: iter([(0, source.tensor(asked))])
    convert(source, tmp_path / "out", ConvertOptions(parse_format("f32")))
    with pytest.raises(
        CheckpointError, match=rf"{name}' is no order of columns: it has column {kept[0]:g} 2 times"
    ):
        open_source(tmp_path / "out")


def _reversed(tensor, change):
    """An order whose first column stands in its second place too."""
    if not change:
        return tensor
    values = tensor.planes["values"].copy()
    values[1] = values[0]
    return type(tensor)(tensor.name, tensor.shape, tensor.format, {"values": values})


@pytest.mark.parametrize(
    "told, message",
    [
        ([], "column_orders is .*; allowed: an object of a list of a string"),
        ({"a.order": ["model.norm.weight"]}, "'model.norm.weight', which is no matrix of a linear layer"),
        ({"a.order": ["model.embed_tokens.weight"]}, "which is no matrix of a linear layer"),
        ({"a.order": [], }, "a.order is of matrices with no columns; allowed: of one width"),
        ({"a.order": ["model.layers.0.mlp.down_proj.weight", "model.layers.0.mlp.up_proj.weight"]},
         "with 64 and 96 columns; allowed: of one width"),
        ({"a.order": ["model.layers.0.mlp.up_proj.weight"] * 2}, "'model.layers.0.mlp.up_proj.weight', a second time"),
        ({"model.norm.weight": ["model.layers.0.mlp.up_proj.weight"]}, "allowed: names that end in .order"),
    ],
)  # fmt: skip
def test_what_config_json_may_say(told, message):
    with pytest.raises(UnsupportedModelError, match=message):
        architecture_of(SIZES | {NAME: told})


def test_groups_of_several_lengths_are_floats(tmp_path):
    """A file says any group for any column; formats want as many columns in each."""
    write_quantized(tmp_path, LAYOUT)
    file, name = tmp_path / "model.safetensors", "model.layers.0.mlp.down_proj.g_idx"
    state = load_file(file)
    state[name][state[name].tolist().index(0)] = 1
    save_file(state, file)
    source = open_source(tmp_path)
    assert str(source.describe("model.layers.0.mlp.down_proj.weight")[1]) == "f32"
    assert "not in groups of one length" in " ".join(source.notes)
