"""From what is asked for to what is stored: default blocks fitted to rows, f32 for what f16 cannot hold, and notes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import workbench
from tests.convert.conftest import SMALL, small_checkpoint
from tests.models.checkpoints import CONFIG, random_state, write_checkpoint
from workbench.cli import main
from workbench.convert.convert import convert
from workbench.convert.layer import suited_again
from workbench.convert.options import ConvertOptions
from workbench.errors import CheckpointError
from workbench.formats.reader import StoredModel
from workbench.formats.spec import WeightFormat
from workbench.formats.text import parse_format
from workbench.models.families.dense import EMBEDDING, LM_HEAD
from workbench.models.source import open_source
from workbench.precision.memory import fit_memory
from workbench.quantizers import rtn
from workbench.quantizers.blocks import in_blocks
from workbench.runtime.device import adapter_missing

WIDE = CONFIG | {"hidden_size": 96, "head_dim": 16, "intermediate_size": 160}
LAYER = "model.layers.0."
QKV = [f"{LAYER}self_attn.{part}_proj.weight" for part in "qkv"]
MLP = {part: f"{LAYER}mlp.{part}_proj.weight" for part in ("gate", "up", "down")}
IDS = [1, 5, 9, 40, 22, 17, 3, 60, 33, 2]


def small_down(state):
    """SwiGLU is linear in up: the same function."""
    state[MLP["up"]] *= 1e4
    state[MLP["down"]] /= 1e4


def one_small_row(state):
    """One channel of many; its neighbours have the size of other models' weights."""
    state[MLP["up"]][3] /= 1e5
    state[MLP["down"]][:, 3] *= 1e5


def small_columns(state):
    """The norm makes up for it."""
    state[f"{LAYER}input_layernorm.weight"] *= 1e5
    for name in QKV:
        state[name] /= 1e5


def small_embedding(state):
    state[EMBEDDING] /= 1e4


def zero_rows(state):
    """Nothing is lost of a pruned row, nor of the padding of a vocabulary."""
    state[MLP["up"]][5] = 0
    state[EMBEDDING][7] = 0


def large_head(state):
    state[LM_HEAD] *= 1e7


def nearest_error(weights: np.ndarray, restored: np.ndarray, fmt: WeightFormat) -> float:
    """The largest error of a weight, in steps of its block's whole range."""
    lo, hi = rtn.ranges(weights, fmt)
    steps = np.maximum(rtn.wanted_scale(lo, hi, fmt), np.finfo(np.float32).tiny)
    return float((np.abs(in_blocks(weights - restored, fmt)) / steps[..., None]).max())


@pytest.mark.parametrize("form", ["int8", "int4/32", "int2/32", "int8/channel/sym"])
@pytest.mark.parametrize(
    ("change", "f32"),
    [
        (small_down, {MLP["down"]}),
        (one_small_row, {MLP["gate"], MLP["up"]}),
        (small_columns, set(QKV)),
        (small_embedding, {EMBEDDING}),
        (large_head, {LM_HEAD}),
        (zero_rows, set()),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_f16_scales_cannot_hold_has_f32_ones(tmp_path, form, change, f32, dtype):
    state = random_state(WIDE)
    change(state)
    state = {name: value.to(dtype) for name, value in state.items()}
    source = write_checkpoint(tmp_path / "source", state, WIDE)
    summary = convert(source, tmp_path / "out", ConvertOptions(parse_format(form)))
    stored = StoredModel.open(tmp_path / "out")
    said = [note for note in summary.notes if "scales in f32" in note]
    if change is large_head and form.startswith("int8"):
        f32 = set()  # more levels span the same range
    assert stored_f32(stored) == f32 and bool(said) == bool(f32)
    assert all(name in said[0] for name in f32)
    precision = json.loads((tmp_path / "out" / "manifest.json").read_text())["precision"]
    for name, value in state.items():
        if value.ndim == 2:
            tensor = stored.tensor(name)
            error = nearest_error(value.float().numpy(), tensor.dequantize(), tensor.format)
            assert (
                error < 1.2
            )  # half a step, what rounding the zero-point clips, and the rounding of the scale
            assert ("scales in f32: " in precision[name]["reason"]) == (name in f32)


def stored_f32(stored: StoredModel) -> set[str]:
    """Quantized matrices with f32 scales."""
    return {
        name
        for name in stored.names()
        if (fmt := stored.describe(name)[1]).is_quantized and fmt.scale_dtype == "f32"
    }


@pytest.mark.parametrize("quantizer", ["grid", "hqq", "gptq", "awq", "trained"])
def test_every_quantizer_takes_them(tmp_path, calibration, quantizer):
    plain = small_checkpoint(tmp_path / "plain")
    state = random_state(SMALL)
    small_down(state)
    small = write_checkpoint(small_checkpoint(tmp_path / "small"), state, SMALL)
    options = {"quantizer": quantizer, "steps": 2 if quantizer == "trained" else None}
    if quantizer not in ("grid", "hqq"):
        options["calibration"] = calibration
    logits = []
    for source in (plain, small):
        convert(source, tmp_path / "out", ConvertOptions(WeightFormat("int8"), overwrite=True, **options))
        logits.append(
            [workbench.load(each, backend="torch").forward(IDS).logits for each in (source, tmp_path / "out")]
        )
    assert stored_f32(StoredModel.open(tmp_path / "out")) == {MLP["down"]}
    lost = [float(np.abs(made - exact).max()) for exact, made in logits]
    assert lost[1] < 2 * lost[0]  # with f16 scales it is hundreds of times as much


def test_scaling_that_makes_weights_small_is_followed(tmp_path, calibration):
    state = random_state(SMALL)
    fmt = WeightFormat("int8", block_size=32)
    least = torch.from_numpy(rtn.wanted_scale(*rtn.ranges(state[MLP["up"]].numpy(), fmt), fmt).min(1))
    shrink = 1.01 * 2**-14 / least  # f16 will just do for each row, before it is divided by AWQ's scale
    state[MLP["up"]] *= shrink[:, None]
    state[MLP["down"]] /= shrink
    source = write_checkpoint(small_checkpoint(tmp_path / "small"), state, SMALL)
    options = ConvertOptions(fmt, quantizer="awq", calibration=calibration)
    summary = convert(source, tmp_path / "out", options)
    stored = StoredModel.open(tmp_path / "out")
    assert stored_f32(stored) == {MLP["up"], MLP["gate"]}  # they are read together
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["precision"][MLP["up"]]["format"] == "int8/32/f32"
    assert "for the weights that scaling made" in manifest["precision"][MLP["up"]]["reason"]
    assert any("2 matrices" in note and MLP["gate"] in note for note in summary.notes)
    workbench.load(tmp_path / "out", backend="torch").forward(IDS)  # the plan knows


def test_a_layer_is_suited_group_by_group():
    state = {
        name.removeprefix(LAYER): value
        for name, value in random_state(SMALL).items()
        if name.startswith(LAYER)
    }
    formats = {
        name: WeightFormat("int8") if value.ndim == 2 else WeightFormat("f32")
        for name, value in state.items()
    }
    together = [[name for name in state if part in name] for part in ("self_attn", "gate", "down")]
    together[1].append("mlp.up_proj.weight")
    state["mlp.up_proj.weight"] = state["mlp.up_proj.weight"] / 1e5
    again = suited_again(together, state, formats)
    assert {n for n, fmt in again.items() if str(fmt).endswith("/f32")} == {
        "mlp.gate_proj.weight",
        "mlp.up_proj.weight",
    }
    formats["mlp.gate_proj.weight"] = WeightFormat("f16")  # not read together any more
    assert suited_again(together, state, formats)["mlp.gate_proj.weight"] == WeightFormat("f16")


@pytest.mark.parametrize("factor", [1e7, 1e-6])
def test_what_f16_cannot_hold_is_f32(tmp_path, factor):
    state = random_state(CONFIG)
    state[MLP["up"]] *= factor
    source = write_checkpoint(tmp_path / "source", state, CONFIG)
    summary = convert(source, tmp_path / "out", ConvertOptions(WeightFormat("f16")))
    stored = StoredModel.open(tmp_path / "out")
    formats = {name: stored.describe(name)[1].dtype for name in stored.names()}
    assert formats[MLP["up"]] == formats[MLP["gate"]] == "f32" and formats[MLP["down"]] == "f16"
    assert np.array_equal(stored.tensor(MLP["up"]).dequantize(), state[MLP["up"]].numpy())
    assert any("weights in f32" in note and MLP["up"] in note for note in summary.notes)


@pytest.mark.skipif(adapter_missing() is not None, reason="no adapter")
@pytest.mark.parametrize("dtype", ["f32", "int8"])
def test_scales_of_both_types_in_what_is_read_together_run_apart(tmp_path, dtype):
    source = write_checkpoint(tmp_path / "source", random_state(WIDE), WIDE)
    mixed = {"*.q_proj.weight": parse_format("int8/32/f32"), "*.up_proj.weight": parse_format("int8/32/f32")}
    convert(source, tmp_path / "mixed", ConvertOptions(parse_format("int8/32"), overrides=mixed))
    stored = StoredModel.open(tmp_path / "mixed")
    assert stored.describe(QKV[0])[1].scale_dtype == "f32" != stored.describe(QKV[1])[1].scale_dtype
    logits = [
        workbench.load(tmp_path / "mixed", backend=backend, dtype=dtype).forward(IDS).logits
        for backend in ("torch", "wgpu")
    ]
    np.testing.assert_allclose(
        logits[1], logits[0], rtol=0, atol=(1e-5 if dtype == "f32" else 2e-2) * np.abs(logits[0]).max()
    )


def test_blocks_are_fitted_and_what_padding_costs_is_said(tmp_path):
    source = write_checkpoint(tmp_path / "source", random_state(WIDE), WIDE)
    summary = convert(source, tmp_path / "out", ConvertOptions(WeightFormat("int4")))
    stored = StoredModel.open(tmp_path / "out")
    formats = {name: str(stored.describe(name)[1]) for name in (EMBEDDING, MLP["up"], MLP["down"])}
    assert formats == {EMBEDDING: "int4/96", MLP["up"]: "int4/96", MLP["down"]: "int4/32"}
    assert summary.notes == (
        "blocks of 96, which divide rows of 96, in place of 128: 4.250 bits a weight in place of 5.583 (14 matrices)",
        "blocks of 32, which divide rows of 160, in place of 128: 4.750 bits a weight in place of 6.700 (2 matrices)",
    )
    kept = convert(source, tmp_path / "kept", ConvertOptions(parse_format("int2/256")))
    assert {str(stored.describe(n)[1]) for n in stored.names()} == {"int4/96", "int4/32", "f32"}
    padded = "rows of 96 are padded to 256 for blocks of 256: 5.583 bits a weight"
    assert kept.notes[0] == f"{padded}; blocks of 96 would take 2.250 (14 matrices)"
    assert kept.bits_per_weight > 5 > summary.bits_per_weight


def test_the_command_says_so(tmp_path, capsys):
    source = write_checkpoint(tmp_path / "source", random_state(WIDE), WIDE)
    arguments = ["quantize", "--model", str(source), "--output", str(tmp_path / "out")]
    assert main([*arguments, "--format", "int2"]) == 0
    assert "note: blocks of 96, which divide rows of 96, in place of 256" in capsys.readouterr().err
    deep = WIDE | {"num_hidden_layers": 8}  # whose weights outweigh what formats change of the activations
    arguments[2] = str(write_checkpoint(tmp_path / "deep", random_state(deep), deep))
    [(_, f16)] = fit_memory(open_source(arguments[2]), 1 << 40).tiers
    assert main([*arguments, "--fit-memory", str(f16 - 1), "--overwrite"]) == 0
    said = capsys.readouterr()
    assert "note: blocks of 32" in said.err and "50 int8/96, 17 f32, 8 int8/32" in said.out
    assert main([*arguments, "--format", "int8", "--block-size", "128", "--overwrite"]) == 0
    assert "note: rows of 96 are padded to 128" in capsys.readouterr().err


def test_a_stored_model_is_written_anew_in_what_it_has(tmp_path):
    state = random_state(WIDE)
    small_down(state)
    source = write_checkpoint(tmp_path / "source", state, WIDE)
    convert(source, tmp_path / "first", ConvertOptions(WeightFormat("int8")))
    again = ConvertOptions(WeightFormat("int8"), layout="interleaved")
    assert convert(tmp_path / "first", tmp_path / "second", again).notes == ()
    one, other = StoredModel.open(tmp_path / "first"), StoredModel.open(tmp_path / "second")
    for name in one.names():
        assert np.array_equal(one.tensor(name).dequantize(), other.tensor(name).dequantize())
        assert one.describe(name) == other.describe(name)
    for form in ("int4", "int8/sym", "int8/32"):
        with pytest.raises(CheckpointError, match="is quantized already"):
            convert(tmp_path / "first", tmp_path / "third", ConvertOptions(parse_format(form)))


def test_allocations_count_what_is_stored(tmp_path):
    from eval.texts import Tokens
    from workbench.precision.sensitivity import sensitivity

    state = random_state(WIDE)
    small_down(state)
    source = open_source(write_checkpoint(tmp_path / "source", state, WIDE))
    tokens = Tokens(np.random.default_rng(4).integers(0, WIDE["vocab_size"], 32))
    formats = [parse_format(form) for form in ("f16", "int8", "int4")]
    table = sensitivity(source, tokens, "disjoint-16", formats=formats)
    assert [str(fmt) for fmt in table.formats] == ["f16", "int8", "int4"]
    [at] = [g for g, group in enumerate(table.groups) if group.name == "layers.0.mlp.down_proj"]
    assert [str(fmt) for fmt in table.stored[at]] == ["f32", "int8/32/f32", "int4/32/f32"]
    assert [str(fmt) for fmt in table.stored[0]] == ["f16", "int8/96", "int4/96"]
    assert table.kl[at, 1] < 1e-3
    front = table.pareto()
    chosen = front.uniform(parse_format("int8"))
    summary = convert(source, tmp_path / "out", chosen.options())
    stored = StoredModel.open(tmp_path / "out")
    assert {name: stored.describe(name)[1] for name in chosen.formats} == chosen.formats
    assert summary.nbytes == chosen.nbytes
