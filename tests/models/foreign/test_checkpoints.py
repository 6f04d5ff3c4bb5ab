"""Quantized checkpoints of others: what they hold comes out bit for bit, as integers wherever a format has them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import workbench
from tests.models.checkpoints import random_state, write_checkpoint
from tests.models.family_cases import config_of, write_family
from tests.runtime.models import random_ids, reference_on
from tests.support.foreign import LAYOUTS, SIZES, write_quantized
from workbench.convert.imported import import_model
from workbench.errors import CheckpointError, UnsupportedModelError
from workbench.formats.reader import StoredModel
from workbench.models.families import architecture_of
from workbench.models.foreign.integers import Grid, fitting, floats, to_tensor
from workbench.models.orders import InPlace
from workbench.models.source import open_source
from workbench.runtime.device import adapter_missing


def in_place(source):
    """With the columns of every matrix as the layout has them."""
    return InPlace(source, architecture_of(source.config).orders)


MATRIX = "model.layers.1.mlp.down_proj.weight"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_are_those_of_the_layout_bit_for_bit(tmp_path, layout):
    expected = write_quantized(tmp_path / layout, layout)
    source = open_source(tmp_path / layout)
    plain = in_place(source)
    assert set(plain.names()) == set(expected) and not source.unread
    wanted = LAYOUTS[layout]["format"] or "f32"
    for name, weights in expected.items():
        fmt = source.describe(name)[1]
        assert str(fmt) == (wanted if name.endswith("_proj.weight") else "f16"), name
        tensor = source.tensor(name)
        assert tensor.format == fmt
        np.testing.assert_array_equal(plain.tensor(name).dequantize(), weights, name)
    rows = np.concatenate([part.dequantize() for _, part in plain.parts(MATRIX)])
    np.testing.assert_array_equal(rows, expected[MATRIX])
    said = " ".join(source.notes)
    if wanted == "f32":
        why = {
            "gptq-16": "no multiple of 32",
            "bnb": "no even grid",
            "hqq-4-axis": "(axis 0)",
            "hqq-1": "other rows",
            "hqq-4-f32": "times their scales are no f32",
        }
        assert "dequantized to f32" in said
        assert next(text for name, text in why.items() if layout.startswith(name)) in said
    else:
        kind = f"{source._parts[MATRIX].packed.kind}, as {wanted}"
        more = ", columns by groups" if "act-order" in layout else ""
        assert f"14 matrices keep their integers ({kind}{more})" in said


def test_offsets_that_signed_integers_would_round_stay_floats():
    """Eight bits are stored less 128, and the offset plus 128 scales: exactly, or not at all."""
    rng = np.random.default_rng(0)
    q = rng.integers(0, 256, (4, 64), np.uint8)
    scales = rng.integers(256, 512, (4, 2)).astype(np.float32) / 256
    for offsets, kept in ((-8 * scales[::-1], True), (scales / np.float32(1000), False)):
        grid = Grid(8, 64, 32, scales, 0, offsets=offsets)
        fmt, why = fitting(grid)
        assert (fmt is not None) == kept, why
        tensor = to_tensor("w", grid, q, fmt) if fmt is not None else floats("w", grid, q)
        of = np.arange(64) // 32
        expected = scales[:, of] * q.astype(np.float32) + offsets[:, of]
        np.testing.assert_array_equal(tensor.dequantize(), expected)
    assert "not f32 where integers are signed" in why


@pytest.mark.parametrize("layout", ["gptq-4", "awq", "packed-8-rows", "gptq-act-order"])
def test_an_imported_model_holds_the_same_and_says_where_from(tmp_path, layout):
    expected = write_quantized(tmp_path / "source", layout)
    summary = import_model(tmp_path / "source", tmp_path / "out")
    assert any("integers" in note or "dequantized" in note for note in summary.notes)
    stored = StoredModel.open(tmp_path / "out")
    for name, weights in expected.items():
        np.testing.assert_array_equal(in_place(stored).tensor(name).dequantize(), weights, name)
    assert "quantization_config" not in stored.config
    origin = stored.manifest["provenance"]["source"]
    assert origin["quantization_config"] == LAYOUTS[layout]["config"]
    assert "model.safetensors" in origin["sha256"]


@pytest.mark.skipif(adapter_missing(), reason="no WebGPU adapter")
def test_kernels_give_what_the_dequantized_weights_give(tmp_path):
    """Four layouts in one model: matrices of a file may differ."""
    expected = write_quantized(tmp_path / "gptq", "gptq-4")
    mixed = load_file(tmp_path / "gptq" / "model.safetensors")
    for layer, bits in (
        ("model.layers.0.self_attn.q_proj", "gptq-v2-8"),
        ("model.layers.1.mlp.up_proj", "gptq-2"),
    ):
        other = write_quantized(tmp_path / bits, bits)
        stored = load_file(tmp_path / bits / "model.safetensors")
        for part in ("qweight", "qzeros", "scales", "g_idx"):
            mixed[f"{layer}.{part}"] = stored[f"{layer}.{part}"]
        if bits == "gptq-v2-8":  # the file's version is the first
            mixed[f"{layer}.qzeros"] -= 0x01010101
        expected[f"{layer}.weight"] = other[f"{layer}.weight"]
    save_file(mixed, tmp_path / "gptq" / "model.safetensors")
    floats = {name: torch.from_numpy(weights) for name, weights in expected.items()}
    write_checkpoint(tmp_path / "floats", floats, SIZES)
    ids = np.arange(3, 40)
    ours = workbench.load(tmp_path / "gptq", backend="wgpu").score(ids).nll
    plain = workbench.load(tmp_path / "floats", backend="torch").score(ids).nll
    assert abs(ours.mean() - plain.mean()) < 1e-6


def test_stacked_matrices_are_taken_apart(tmp_path):
    """Phi-3 has q, k and v in one matrix."""
    config = SIZES | {"model_type": "phi3", "architectures": ["Phi3ForCausalLM"], "pad_token_id": 0}
    del config["head_dim"]
    state = random_state(SIZES)
    for layer in range(2):
        before = f"model.layers.{layer}."
        for stack, parts in (("self_attn.qkv_proj", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
                             ("mlp.gate_up_proj", ("mlp.gate_proj", "mlp.up_proj"))):  # fmt: skip
            state[f"{before}{stack}.weight"] = torch.cat([state.pop(f"{before}{p}.weight") for p in parts])
    expected = write_quantized(tmp_path, "gptq-4", state, config)
    source = open_source(tmp_path)
    k = source.tensor("model.layers.1.self_attn.k_proj.weight")
    assert str(k.format) == "int4/32"
    whole = expected["model.layers.1.self_attn.qkv_proj.weight"]
    np.testing.assert_array_equal(k.dequantize(), whole[64 : 64 + k.shape[0]])


def test_biases_of_zeros_are_listed_and_others_refused(tmp_path):
    write_quantized(tmp_path, "gptq-4")
    file, bias = tmp_path / "model.safetensors", "model.layers.0.mlp.up_proj.bias"
    state = load_file(file)
    save_file(state | {bias: torch.zeros(96)}, file)
    assert list(open_source(tmp_path).unread) == [bias]
    save_file(state | {bias: torch.ones(96)}, file)
    with pytest.raises(UnsupportedModelError, match="a bias, which mlp_bias does not declare"):
        open_source(tmp_path)


def test_scales_that_f16_cannot_hold_stay_f32(tmp_path):
    write_quantized(tmp_path, "packed-4")
    file, name = tmp_path / "model.safetensors", "model.layers.0.mlp.up_proj"
    state = load_file(file)
    scales = state[f"{name}.weight_scale"].to(torch.bfloat16)
    state[f"{name}.weight_scale"] = scales * 2.0**-20
    save_file(state, file)
    tensor = open_source(tmp_path).tensor(f"{name}.weight")
    assert str(tensor.format) == "int4/32/sym/f32"
    np.testing.assert_array_equal(tensor.planes["scales"], scales.float().numpy() * 2.0**-20)


def test_a_file_beside_config_json_says_it_too(tmp_path):
    """As AutoGPTQ wrote it, before config.json had a key for it."""
    expected = write_quantized(tmp_path, "gptq-4")
    config = json.loads((tmp_path / "config.json").read_text())
    told = config.pop("quantization_config")
    del told["quant_method"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "quantize_config.json").write_text(json.dumps(told))
    source = open_source(tmp_path)
    np.testing.assert_array_equal(source.tensor(MATRIX).dequantize(), expected[MATRIX])
    assert "quantize_config.json" in source.source_hashes()


def edited(folder, **changes):
    file = folder / "config.json"
    config = json.loads(file.read_text())
    config["quantization_config"] |= changes
    file.write_text(json.dumps(config))


@pytest.mark.parametrize(
    "layout, changes, message",
    [
        ("gptq-4", {"quant_method": "quip"}, "quant_method is 'quip'; allowed: gptq, awq, auto-round"),
        ("gptq-4", {"checkpoint_format": "marlin"}, "checkpoint_format is 'marlin'; allowed: gptq or gptq_v2"),
        ("gptq-3-rows", {"format": "gptq_p"}, "format is 'gptq_p'; allowed: gptq or gptq_v2"),
        ("auto-round-gptq", {"rotation_config": {"block_size": 32}}, "rotation_config is .* activations are not rot"),
        ("auto-round-awq", {"spinquant_config": {"r1": True}}, "spinquant_config is .*; allowed: null"),
        ("gptq-4", {"rotation": "hadamard"}, "rotation is 'hadamard'; allowed: null"),
        ("awq", {"version": "gemv"}, "version is 'gemv'; allowed: gemm"),
        ("auto-round-gptq", {"packing_format": "auto_round:fp8"}, "packing_format is 'auto_round:fp8'; allowed"),
        ("packed-4", {"transform_config": {"R1": {}}}, "transform_config is .*; allowed: null"),
        ("packed-4", {"format": "float-quantized"}, "format of group_0 is 'float-quantized'; allowed"),
        ("bnb-nf4", {"bnb_4bit_quant_type": "af4"}, "bnb_4bit_quant_type is 'af4'; allowed: nf4 or fp4"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused_by_its_key(tmp_path, layout, changes, message):
    write_quantized(tmp_path, layout)
    edited(tmp_path, **changes)
    with pytest.raises(UnsupportedModelError, match=message):
        open_source(tmp_path)


@pytest.mark.parametrize(
    "part, change, message",
    [
        ("qzeros", lambda t: t[:, :2], "has 2 words for 96 rows"),
        ("scales", lambda t: t[:, :-1], r"scales' has shape \[2, 95\]; allowed: \[2, 96\]"),
        ("scales", lambda t: t * torch.inf, "scales of 'model.layers.0.mlp.up_proj.weight' are not finite"),
        ("g_idx", lambda t: t + 1, "names groups 1 to 2; allowed: 0 to 1"),
        ("qweight", lambda t: t.float(), "has dtype F32; allowed: I32"),
    ],
    ids=["words", "scales", "infinite", "groups", "dtype"],
)
def test_damaged_tensors_are_refused_by_name(tmp_path, part, change, message):
    write_quantized(tmp_path, "gptq-4")
    file, name = tmp_path / "model.safetensors", f"model.layers.0.mlp.up_proj.{part}"
    state = load_file(file)
    save_file(state | {name: change(state[name]).contiguous()}, file)
    with pytest.raises(CheckpointError, match=message):
        open_source(tmp_path)


@pytest.mark.parametrize(
    "family, layout",
    [
        ("mixtral", "gptq-4"),
        ("qwen3_moe", "awq"),
        ("qwen3_moe", "packed-4-zeros"),
        ("mixtral", "mlx-4"),
        ("qwen3_moe", "gptq-act-order"),
        ("llama4_text", "packed-4"),
        ("llama4_text", "packed-8-rows"),
    ],
)
def test_experts_that_are_packed_one_by_one_are_one_matrix(tmp_path, family, layout):
    """Also those of Llama 4, whose own checkpoints stack them, and whose quantized ones do not."""
    case = 4 if family == "llama4_text" else 0
    write_family(tmp_path / "floats", family, case)
    state = split_stacks(load_file(tmp_path / "floats" / "model.safetensors"))
    expected = write_quantized(tmp_path / "in", layout, state, config_of(family, case))
    source = open_source(tmp_path / "in")
    # experts that have an order each would need an input each
    stored = "f32" if "act-order" in layout else LAYOUTS[layout]["format"]
    model, seen = architecture_of(source.config), set()
    for name, pieces in model.one_by_one().items():
        weights = np.concatenate([expected[piece.tensor] for piece in pieces])
        np.testing.assert_array_equal(source.tensor(name).dequantize(), weights, name)
        rows = np.concatenate([part.dequantize() for _, part in source.parts(name)])
        np.testing.assert_array_equal(rows, weights)
        seen.add(str(source.describe(name)[1]))
    # Rows of one group are channels, which have no order.
    assert seen <= {stored, stored.replace("int4/32", "int4/channel").replace("f32", "int4/channel")} and seen
    assert not source.unread
    ids = random_ids(259, 12)
    assert np.isfinite(reference_on(source, max_tokens=16).forward(ids).logits).all()


def split_stacks(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Stacks of Llama 4's experts, [experts, in, out], as the matrices of each, [out, in]."""
    found = {}
    for name, value in state.items():
        stem, part = name.rsplit(".", 1)
        if part not in ("gate_up_proj", "down_proj"):
            found[name] = value
            continue
        for expert, matrix in enumerate(value):
            parts = dict(zip(("gate_proj", "up_proj"), matrix.chunk(2, 1), strict=True))
            for own, each in (parts if part == "gate_up_proj" else {part: matrix}).items():
                found[f"{stem}.{expert}.{own}.weight"] = each.T.contiguous()
    return found


def test_llama_4_as_llm_compressor_leaves_it(tmp_path):
    """Inside a model that also sees, experts one by one and packed; floats that are one by one are read alike."""
    write_family(tmp_path / "stacked", "llama4_text", 4)
    state = split_stacks(load_file(tmp_path / "stacked" / "model.safetensors"))
    text = config_of("llama4_text", 4)
    write_checkpoint(tmp_path / "floats", state, text)
    stacked, alone = open_source(tmp_path / "stacked"), open_source(tmp_path / "floats")
    for name in stacked.names():
        np.testing.assert_array_equal(
            alone.tensor(name).dequantize(), stacked.tensor(name).dequantize(), name
        )
    expected = write_quantized(tmp_path / "in", "packed-4-zeros", state, text)
    file = tmp_path / "in" / "model.safetensors"
    save_file({f"language_model.{name}": value for name, value in load_file(file).items()}, file)
    config = json.loads((tmp_path / "in" / "config.json").read_text())
    whole = {"model_type": "llama4", "quantization_config": config.pop("quantization_config")}
    (tmp_path / "in" / "config.json").write_text(json.dumps(whole | {"text_config": config}))
    source = open_source(tmp_path / "in")
    for name, pieces in architecture_of(source.config).one_by_one().items():
        weights = np.concatenate([expected[piece.tensor] for piece in pieces])
        np.testing.assert_array_equal(source.tensor(name).dequantize(), weights, name)
        assert source.describe(name)[1].dtype == "int4"
    assert not source.unread


def test_experts_of_which_some_are_floats_are_refused(tmp_path):
    write_family(tmp_path / "floats", "qwen3_moe")
    state = load_file(tmp_path / "floats" / "model.safetensors")
    expected = write_quantized(tmp_path / "in", "awq", state, config_of("qwen3_moe"))
    file, module = tmp_path / "in" / "model.safetensors", "model.layers.1.mlp.experts.3.up_proj"
    tensors = {name: value for name, value in load_file(file).items() if not name.startswith(module)}
    save_file(tensors | {f"{module}.weight": torch.from_numpy(expected[f"{module}.weight"])}, file)
    with pytest.raises(UnsupportedModelError, match="experts of a layer have one type"):
        open_source(tmp_path / "in")
