"""Conversion: what is stored is what was read, quantized as asked; complete or absent; in bounded memory."""

from __future__ import annotations

import hashlib
import json
import tracemalloc

import numpy as np
import pytest
import torch

from tests.models.checkpoints import CONFIG, random_state, write_checkpoint
from workbench.convert.convert import convert
from workbench.convert.options import ConvertOptions
from workbench.errors import CheckpointError, UnsupportedModelError, WorkbenchError
from workbench.formats.reader import StoredModel
from workbench.formats.spec import WeightFormat
from workbench.models import checkpoint as checkpoint_module
from workbench.models.checkpoint import Checkpoint
from workbench.models.families.dense import EMBEDDING, LM_HEAD
from workbench.models.source import open_source
from workbench.quantizers import QUANTIZERS

TIED = CONFIG | {"tie_word_embeddings": True}
FORMATS = [
    WeightFormat("f32"),
    WeightFormat("f16"),
    WeightFormat("bf16"),
    WeightFormat("int8"),
    WeightFormat("int8", "channel", symmetric=True),
    WeightFormat("int4", block_size=32),
    WeightFormat("int4", "tensor", scale_dtype="f32"),
    WeightFormat("int4", order="high-first", block_size=64),
    WeightFormat("int2", zero_frac_bits=5),
]


def rounded(values: np.ndarray, fmt: WeightFormat, quantizer: str = "rtn") -> np.ndarray:
    """What a weight should read as: by torch for floats, and for the rest by the formula on unpacked q."""
    if not fmt.is_quantized:
        dtype = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[fmt.dtype]
        return torch.from_numpy(values).to(dtype).float().numpy()
    q, scales, zeros = QUANTIZERS[quantizer].quantize(values, fmt)
    zeros = np.full(scales.shape, fmt.implied_zero) if zeros is None else zeros / 2**fmt.zero_frac_bits
    blocks = q.reshape(len(q), fmt.blocks(values.shape[1]), -1).astype(np.float64)
    exact = scales[..., None].astype(np.float64) * (blocks - zeros[..., None])
    return exact.reshape(len(q), -1)[:, : values.shape[1]].astype(np.float32)


def check_stored(output, state: dict[str, torch.Tensor], fmt: WeightFormat, quantizer: str = "rtn") -> None:
    stored = StoredModel.open(output)
    assert set(stored.names()) == set(state)
    for name, value in state.items():
        tensor = stored.tensor(name)
        expected = (
            rounded(value.float().numpy(), fmt, quantizer) if value.ndim == 2 else value.float().numpy()
        )
        assert tensor.shape == tuple(value.shape)
        assert tensor.format.dtype == (fmt.dtype if value.ndim == 2 else "f32")
        np.testing.assert_allclose(tensor.dequantize(), expected, rtol=3e-7, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
@pytest.mark.parametrize(
    ("config", "dtype", "shards"),
    [(CONFIG, torch.float32, 1), (TIED, torch.bfloat16, 3), (CONFIG, torch.float16, 2)],
)
def test_random_checkpoints_survive(tmp_path, fmt, config, dtype, shards):
    state = random_state(config, dtype)
    source = write_checkpoint(tmp_path / "source", state, config, shards)
    summary = convert(source, tmp_path / "out", ConvertOptions(fmt))
    check_stored(tmp_path / "out", state, fmt)
    assert summary.weights == sum(v.numel() for v in state.values())
    assert summary.bits_per_weight == pytest.approx(8 * summary.nbytes / summary.weights)
    assert StoredModel.open(tmp_path / "out").config == config


@pytest.mark.parametrize("fmt", [FORMATS[2], FORMATS[4], FORMATS[6], FORMATS[7]], ids=str)
def test_ranges_of_rows_change_nothing(tmp_path, fmt, monkeypatch):
    monkeypatch.setattr(checkpoint_module, "PART_BYTES", 7 * 48 * 4)
    state = random_state(CONFIG)
    convert(write_checkpoint(tmp_path / "source", state, CONFIG), tmp_path / "out", ConvertOptions(fmt))
    check_stored(tmp_path / "out", state, fmt)


@pytest.mark.parametrize("name", ["stories260K-hf", "babyllama105-hf"])
@pytest.mark.parametrize("quantizer", ["rtn", "grid"])
def test_shared_checkpoints_survive(shared, tmp_path, name, quantizer):
    source = Checkpoint.open(shared / "models" / name)
    fmt = WeightFormat("int4", block_size=32)
    convert(source, tmp_path / "out", ConvertOptions(fmt, quantizer=quantizer, layout="interleaved"))
    state = {n: torch.from_numpy(source.tensor(n).dequantize()) for n in source.names()}
    check_stored(tmp_path / "out", state, fmt, quantizer)
    stored = open_source(tmp_path / "out")
    assert isinstance(stored, StoredModel)
    for file in ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "tokenizer.model"):
        assert (stored.tokenizer_path / file).read_bytes() == (source.path / file).read_bytes()


def test_switches_and_overrides_reach_the_files(tmp_path):
    source = write_checkpoint(tmp_path / "source", random_state(CONFIG), CONFIG)
    options = ConvertOptions(
        WeightFormat("int4"),
        embedding=WeightFormat("f16"),
        lm_head=WeightFormat("bf16"),
        overrides={"*.layers.1.mlp.*": WeightFormat("int8", "channel")},
    )
    convert(source, tmp_path / "out", options)
    stored = StoredModel.open(tmp_path / "out")
    form = {name: str(stored.describe(name)[1]) for name in stored.names()}
    assert form[EMBEDDING] == "f16" and form[LM_HEAD] == "bf16"
    assert form["model.layers.1.mlp.gate_proj.weight"] == "int8/channel"
    assert (
        form["model.layers.0.mlp.gate_proj.weight"]
        == form["model.layers.1.self_attn.o_proj.weight"]
        == "int4/128"
    )
    precision = stored.manifest["precision"]
    assert {name: entry["format"] for name, entry in precision.items()} == form
    assert "override" in precision["model.layers.1.mlp.gate_proj.weight"]["reason"]


def test_provenance_tells_where_it_came_from(tmp_path):
    source = write_checkpoint(tmp_path / "source", random_state(TIED), TIED, shards=2)
    convert(source, tmp_path / "out", ConvertOptions(WeightFormat("int2"), quantizer="grid"))
    provenance = StoredModel.open(tmp_path / "out").manifest["provenance"]
    assert provenance["quantizer"] == "grid"
    assert WeightFormat.from_json(provenance["options"]["format"]) == WeightFormat("int2")
    assert provenance["versions"]["numpy"] == np.__version__
    assert provenance["created"].endswith("+00:00")
    assert provenance["source"]["sha256"] == {
        p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in source.iterdir()
    }


def test_tied_and_derived_tensors_are_left_out(tmp_path):
    state = random_state(TIED)
    extra = state | {
        LM_HEAD: state[EMBEDDING].clone(),
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
    }
    summary = convert(
        write_checkpoint(tmp_path / "source", extra, TIED),
        tmp_path / "out",
        ConvertOptions(WeightFormat("f32")),
    )
    assert set(StoredModel.open(tmp_path / "out").names()) == set(state)
    assert set(summary.skipped) == set(extra) - set(state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("fmt", ["f32", "bf16", "int4"])
def test_weights_that_are_not_finite_are_named_and_leave_nothing(tmp_path, dtype, bad, fmt, monkeypatch):
    monkeypatch.setattr(checkpoint_module, "PART_BYTES", 50 * 48 * 4)
    state = random_state(CONFIG, dtype)
    state["model.layers.1.mlp.up_proj.weight"][101, 17] = bad
    source = write_checkpoint(tmp_path / "source", state, CONFIG)
    with pytest.raises(
        CheckpointError, match=r"'model.layers.1.mlp.up_proj.weight' is not finite: .* at \[101, 17\]"
    ):
        convert(source, tmp_path / "out", ConvertOptions(WeightFormat(fmt)))
    assert [p.name for p in tmp_path.iterdir()] == ["source"]


def test_weights_beyond_the_format_are_named(tmp_path):
    state = random_state(CONFIG)
    state[LM_HEAD][3, 4] = 1e6
    source = write_checkpoint(tmp_path / "source", state, CONFIG)
    state[LM_HEAD][3, 4:6] = torch.tensor([3e38, -3e38])  # a range beyond f32
    source = write_checkpoint(tmp_path / "larger", state, CONFIG)
    with pytest.raises(CheckpointError, match=r"lm_head.weight.*scale beyond 3.40282e\+38, which f32"):
        convert(source, tmp_path / "out", ConvertOptions(WeightFormat("int2")))
    assert not (tmp_path / "out").exists()


def test_an_existing_output_is_kept_unless_asked(tmp_path):
    source = write_checkpoint(tmp_path / "source", random_state(CONFIG), CONFIG)
    convert(source, tmp_path / "out", ConvertOptions(WeightFormat("int4")))
    before = (tmp_path / "out" / "manifest.json").read_bytes()
    with pytest.raises(WorkbenchError, match="exists"):
        convert(source, tmp_path / "out", ConvertOptions(WeightFormat("int8")))
    assert (tmp_path / "out" / "manifest.json").read_bytes() == before
    convert(source, tmp_path / "out", ConvertOptions(WeightFormat("int8"), overwrite=True))
    assert StoredModel.open(tmp_path / "out").describe(LM_HEAD)[1].dtype == "int8"
    with pytest.raises(WorkbenchError, match="same folder"):
        convert(source, source, ConvertOptions(WeightFormat("int8"), overwrite=True))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model_type": "mpt"}, "model_type is 'mpt'"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "architectures"),
        ({"quantization_config": {"quant_method": "quanto"}}, "quanto"),
    ],
)
def test_other_models_are_refused_before_anything_is_written(tmp_path, change, named):
    source = write_checkpoint(tmp_path / "source", random_state(CONFIG), CONFIG | change)
    with pytest.raises(UnsupportedModelError, match=named):
        convert(source, tmp_path / "out", ConvertOptions(WeightFormat("int4")))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("missing", [EMBEDDING, LM_HEAD])
def test_missing_ends_are_named(tmp_path, missing):
    state = random_state(CONFIG)
    del state[missing]
    with pytest.raises(CheckpointError, match=f"{missing}' is missing"):
        convert(
            write_checkpoint(tmp_path / "source", state, CONFIG),
            tmp_path / "o",
            ConvertOptions(WeightFormat("f16")),
        )


def test_a_stored_model_is_repacked_or_widened_but_not_quantized_twice(tmp_path):
    source = write_checkpoint(tmp_path / "source", random_state(CONFIG), CONFIG)
    first = tmp_path / "first"
    convert(source, first, ConvertOptions(WeightFormat("int4")))
    high = WeightFormat("int4", order="high-first")
    convert(first, tmp_path / "again", ConvertOptions(high, layout="interleaved"))
    convert(first, tmp_path / "wide", ConvertOptions(WeightFormat("f32")))
    one, again, wide = (StoredModel.open(tmp_path / n) for n in ("first", "again", "wide"))
    for name in one.names():
        for plane, values in one.tensor(name).planes.items():
            np.testing.assert_array_equal(again.tensor(name).planes[plane], values)
        np.testing.assert_array_equal(wide.tensor(name).dequantize(), one.tensor(name).dequantize())
    assert again.manifest["provenance"]["source"]["provenance"] == one.manifest["provenance"]
    with pytest.raises(CheckpointError, match="quantized already"):
        convert(first, tmp_path / "twice", ConvertOptions(WeightFormat("int2")))


def test_memory_is_bounded_by_the_largest_tensor(tmp_path):
    """A model of more than 12 times its largest tensor needs memory for a few of them, not for all."""
    config = CONFIG | {
        "vocab_size": 3000,
        "hidden_size": 256,
        "intermediate_size": 2000,
        "num_hidden_layers": 6,
    }
    config |= {"num_attention_heads": 8, "head_dim": 32}
    state = random_state(config)
    source = write_checkpoint(tmp_path / "source", state, config)
    largest = max(4 * v.numel() for v in state.values())
    assert sum(4 * v.numel() for v in state.values()) > 12 * largest
    del state
    for fmt in (WeightFormat("int4"), WeightFormat("f16")):
        convert(source, tmp_path / "warm-up", ConvertOptions(fmt, overwrite=True))
        tracemalloc.start()
        convert(source, tmp_path / "out", ConvertOptions(fmt, overwrite=True))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        # The range as read and as float32 (here one tensor), its result, and the work arrays of a chunk.
        assert peak < 5 * largest, f"{fmt}: {peak / largest:.1f} times the largest tensor"


def test_a_manifest_is_plain_json(tmp_path):
    source = write_checkpoint(tmp_path / "source", random_state(CONFIG), CONFIG)
    convert(source, tmp_path / "out", ConvertOptions(WeightFormat("int4")))
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["config"] == CONFIG
