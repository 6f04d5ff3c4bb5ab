"""Mixtures of experts: how checkpoints hold them, what steps read of them, and how they are quantized."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import wgsl_kernels
from tests.models.family_cases import LENGTH, config_of, oracle_logits, randomise, write_family
from tests.runtime.models import check_parity, model_on, random_ids, reference_on
from tests.runtime.rewriting import GPU, rewritten
from wgsl_kernels import Adapter
from workbench.convert.capture import LEAST_TOKENS, SAMPLES, capture
from workbench.convert.convert import convert
from workbench.convert.decoder import Decoder
from workbench.convert.options import ConvertOptions
from workbench.errors import CheckpointError, UnsupportedModelError
from workbench.formats.spec import WeightFormat
from workbench.formats.text import parse_format
from workbench.models import checkpoint as checkpoint_module
from workbench.models.checkpoint import Checkpoint
from workbench.models.families import architecture_of
from workbench.models.source import open_source
from workbench.models.specs import described_in
from workbench.plan.count import buffer_bytes, step_cost
from workbench.plan.plan import Plan, step_sizes
from workbench.runtime.device import adapter_missing, open_device
from workbench.runtime.launch import run_kernel
from workbench.runtime.tuning.cases import planned_cases
from workbench.runtime.tuning.trial import workload_of

MIXTURES = ("llama4_text", "mixtral", "qwen3_moe")
#: A mixture in the second of three layers.
EXPERTS = "model.layers.1.feed_forward.experts"
needs_adapter = pytest.mark.skipif(adapter_missing() is not None, reason=str(adapter_missing()))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Family -> its checkpoint."""
    folder = tmp_path_factory.mktemp("mixtures")
    return {family: write_family(folder / family, family) for family in MIXTURES}


# ---- checkpoints --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_experts_of_a_checkpoint_become_rows_of_outputs(folders, dtype, tmp_path, monkeypatch):
    """Llama 4's lie as columns of one tensor, gate beside up; parts are read anywhere between."""
    copy = shutil.copytree(folders["llama4_text"], tmp_path / "copy")
    state = {name: value.to(dtype) for name, value in load_file(copy / "model.safetensors").items()}
    save_file(state, copy / "model.safetensors", metadata={"format": "pt"})
    opened = Checkpoint.open(copy)
    gate, up = state[f"{EXPERTS}.gate_up_proj"].chunk(2, dim=-1)
    down = state[f"{EXPERTS}.down_proj"]
    monkeypatch.setattr(checkpoint_module, "PART_BYTES", 4 * 64 * 37)  # 37 rows of 64, so within an expert
    for part, value in {"gate": gate, "up": up, "down": down}.items():
        name = f"{EXPERTS}.{part}_proj.weight"
        rows = value.transpose(1, 2).flatten(0, 1).float().numpy()
        assert opened.describe(name)[0] == rows.shape
        np.testing.assert_array_equal(opened.tensor(name).dequantize(), rows)
        parts = list(opened.parts(name))
        assert len(parts) > 4
        np.testing.assert_array_equal(np.concatenate([each.dequantize() for _, each in parts]), rows)
    assert f"{EXPERTS}.gate_up_proj" not in opened and not opened.unread


def test_experts_that_lie_one_by_one_are_stacked(folders):
    for family, name in (
        ("mixtral", "block_sparse_moe.experts.{}.w3"),
        ("qwen3_moe", "mlp.experts.{}.up_proj"),
    ):
        opened = open_source(folders[family])
        state = load_file(folders[family] / "model.safetensors")
        experts = name.split(".{}", 1)[0]
        rows = [
            value
            for index in range(99)
            if (value := state.get(f"model.layers.1.{name.format(index)}.weight")) is not None
        ]
        found = opened.tensor(f"model.layers.1.{experts}.up_proj.weight").dequantize()
        np.testing.assert_array_equal(found, torch.cat(rows).numpy())


def test_what_is_wrong_with_experts_is_said(folders, tmp_path):
    copy = shutil.copytree(folders["mixtral"], tmp_path / "copy")
    state = load_file(copy / "model.safetensors")
    name = "model.layers.1.block_sparse_moe.experts.2.w2.weight"

    def refused(change, match: str) -> None:
        changed = dict(state)
        change(changed)
        save_file(changed, copy / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises((CheckpointError, UnsupportedModelError), match=match):
            open_source(copy)

    refused(lambda s: s.pop(name), rf"{name}' is missing, but config.json asks for it \(intermediate_size")
    refused(
        lambda s: s.update({name: s[name][:-1].contiguous()}), r"w2.weight has shape \[63, 96\].*\[64, 96\]"
    )
    refused(
        lambda s: s.update({name: s[name].half()}), r"one type of F32, F16, BF16, not .*F32, .*w2.weight F16"
    )
    other = name.replace("experts.2", "experts.9")
    refused(lambda s: s.update({other: s[name].clone()}), r"no Mixtral of this config.json reads it")


def test_the_text_of_a_multimodal_model(folders, tmp_path):
    """Llama4ForConditionalGeneration: the decoder is behind a prefix, its configuration inside another."""
    from transformers import AutoConfig, Llama4Config, Llama4ForConditionalGeneration

    text = AutoConfig.for_model(**config_of("llama4_text") | {"pad_token_id": 0}).to_dict()
    vision = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "image_size": 28,
        "patch_size": 14,
        **dict.fromkeys(("vision_output_dim", "projector_input_dim", "projector_output_dim"), 16),
    }
    model = Llama4ForConditionalGeneration(Llama4Config(text_config=text, vision_config=vision))
    randomise(model.language_model, "llama4_text")
    model.save_pretrained(tmp_path / "both")
    opened, alone = open_source(tmp_path / "both"), open_source(folders["llama4_text"])
    assert sorted(opened.names()) == sorted(alone.names())
    assert any(name.startswith("vision_model.") for name in opened.unread)
    assert opened.config["model_type"] == "llama4_text"
    assert any("the decoder of text alone" in note for note in opened.notes)
    ids = random_ids(259, LENGTH)
    with torch.inference_mode():
        oracle = model.language_model.double().eval()(torch.from_numpy(ids)[None]).logits[0].numpy()
    check_parity(reference_on(tmp_path / "both", max_tokens=LENGTH).forward(ids).logits, oracle)
    convert(opened, tmp_path / "stored", ConvertOptions(WeightFormat("f32")))
    check_parity(reference_on(tmp_path / "stored", max_tokens=LENGTH).forward(ids).logits, oracle)
    config = json.loads((tmp_path / "both" / "config.json").read_text())
    for key, value, match in (
        ("text_config", {**config["text_config"], "model_type": "llama"}, 'model_type is .*"llama4_text"'),
        ("tie_word_embeddings", True, "tie_word_embeddings is false; allowed: that of the whole, true"),
        ("text_config", None, "text_config is null; allowed: an object"),
        ("is_encoder_decoder", True, "is_encoder_decoder"),
    ):
        with pytest.raises(UnsupportedModelError, match=match):
            architecture_of(config | {key: value})


@pytest.mark.parametrize(
    "family, change, match",
    [
        ("mixtral", {"num_experts_per_tok": 5}, r"num_experts_per_tok is 5; allowed: an integer from 1 to 4"),
        ("mixtral", {"num_experts": 3}, "num_experts is 3; allowed: num_local_experts 4"),
        ("qwen3_moe", {"norm_topk_prob": 1}, "norm_topk_prob is 1"),
        ("mixtral", {"num_local_experts": 2**30}, "num_local_experts is 1073741824; allowed: at most 10922"),
        (
            "qwen3_moe",
            {"num_experts": 2**30},
            "num_experts is 1073741824; allowed: at most 32768, as 1 layers have",
        ),
        ("llama4_text", {"num_local_experts": 2**17}, "num_local_experts is 131072; allowed: at most 32768"),
        ("llama4_text", {"num_local_experts": 0}, "num_local_experts is 0.*layers have experts"),
        ("llama4_text", {"num_experts_per_tok": "one"}, "num_experts_per_tok is 'one'"),
    ],
)
def test_keys_of_mixtures_are_understood_or_refused(family, change, match):
    with pytest.raises(UnsupportedModelError, match=match):
        architecture_of(config_of(family) | change)


def test_which_layers_have_experts():
    def mixed(family: str, **change) -> tuple[bool, ...]:
        return architecture_of(config_of(family) | change).mixed

    assert mixed("llama4_text") == (False, True, False)
    assert mixed("llama4_text", moe_layers=[0, 2, 7]) == (True, False, True)
    assert mixed("llama4_text", interleave_moe_layer_step=0) == (False,) * 3
    assert mixed("qwen3_moe", decoder_sparse_step=1, mlp_only_layers=[2]) == (True, True, False)
    dense = architecture_of(config_of("llama4_text") | {"moe_layers": [], "num_local_experts": None})
    assert "experts" not in dense.facts()
    assert (
        "1 of 4 of width 96 a token, in 1 of 3 layers"
        in architecture_of(config_of("llama4_text")).facts()["experts"]
    )


# ---- plans --------------------------------------------------------------------------------------------------------


def plan_of(family: str, activations: str = "f32", fmt: str = "int4", **change) -> Plan:
    model = architecture_of(config_of(family) | change)
    return model.build(described_in(model.tensors(), WeightFormat(fmt)), activations=activations)


@pytest.mark.parametrize(
    "family, activations, expected",
    [
        ("llama4_text", "f32", ["expert_gate_up", "expert_down"]),
        ("llama4_text", "int8", ["expert_gate_up", "expert_down"]),
        ("mixtral", "f32", ["expert_gate_up", "expert_down"]),
        (
            "mixtral",
            "int8",
            ["expert_gate_up", "expert_linear", "expert_sum"],
        ),  # nine buffers would be needed
    ],
)
def test_a_mixture_is_few_dispatches(family, activations, expected):
    plan = rewritten(plan_of(family, activations, intermediate_size=128))  # whole bindings can be stacked
    calls = [call for call in plan.calls if call.op.startswith("expert") and "layers.1." in str(call)]
    assert [call.op for call in calls] == expected
    (last,) = calls[-1:]
    assert "residual" in last.inputs and list(last.outputs.values()) == ["layers.1.out"]


@pytest.mark.parametrize("activations, op", [("f32", "norm_gate_up"), ("int8", "norm_gate_up_a8")])
def test_a_shared_expert_computes_the_norm_that_the_others_read(activations, op):
    plan = rewritten(plan_of("llama4_text", activations, intermediate_size=512))
    of_layer = [call for call in plan.calls if any("layers.1.mlp" in name for name in call.outputs.values())]
    assert [call.op for call in of_layer].count(op) == 1 and "silu_mul" not in [call.op for call in of_layer]
    (norm,) = [call for call in of_layer if call.op == "rms_norm"]
    assert any(norm.outputs["y"] in call.inputs.values() for call in of_layer)  # router or experts
    plan = rewritten(plan_of("llama4_text", activations, intermediate_size=512), ["layers.1.mlp.input"])
    of_layer = [call for call in plan.calls if any("layers.1.mlp" in name for name in call.outputs.values())]
    assert op not in [call.op for call in of_layer]  # an edit of the norm would not reach them


@needs_adapter
def test_a_token_of_a_mixture_as_a_gpu_takes_it(folders, tmp_path, monkeypatch):
    """INT8 activations that products make themselves, the shared expert's norm among them."""
    device, ids = open_device(), random_ids(259, 3)
    if device.adapter.offset_alignment > 32:
        pytest.skip(
            "this adapter's bindings begin at multiples of more than 32 bytes: nothing so small is stacked"
        )
    convert(folders["llama4_text"], tmp_path / "out", ConvertOptions(parse_format("int4/32")))
    monkeypatch.setattr(device, "adapter", dataclasses.replace(device.adapter, is_cpu=False))
    model = model_on(tmp_path / "out", lambda: device, max_tokens=64, dtype="int8")
    session = model.session()
    found = np.stack([session.feed([int(token)]) for token in ids])
    steps = model.executor.device_plan("last", 1, session._cache, ()).steps
    session.close()
    assert "norm_gate_up_a8" in {step.kernel.op for step in steps}
    expected = reference_on(tmp_path / "out", max_tokens=64, dtype="int8").forward(ids).logits
    off = np.sqrt(np.mean((found - expected) ** 2)) / np.sqrt(np.mean(expected**2))
    assert off < 6e-2


def test_many_tokens_are_sorted_by_expert():
    """Where each expert meets several, and on a GPU alone: scores go with the pairs."""
    plan = plan_of("llama4_text", intermediate_size=128)

    def ops(tokens: int, adapter: Adapter = GPU) -> list[str]:
        return [
            call.op for call in rewritten(plan, tokens=tokens, adapter=adapter).calls if "expert" in call.op
        ]

    each = ["expert_order", "expert_linear_sorted"]
    assert ops(64) == [*each, *each, *each, "expert_sum"]
    assert ops(8) == ["expert_gate_up", "expert_down"]
    assert ops(64, Adapter(True, 8, is_cpu=True)) == ops(8)


@needs_adapter
@pytest.mark.parametrize("family, activations", [("llama4_text", "f32"), ("qwen3_moe", "int8")])
def test_tiles_of_experts_agree_with_references(folders, family, activations, tmp_path, monkeypatch):
    """A prompt as a GPU without subgroups takes it, in 64 rows of which some are padding."""
    device, ids = open_device(promised=True, subgroups=False), random_ids(259, 60)
    convert(folders[family], tmp_path / "out", ConvertOptions(parse_format("int4/32")))
    monkeypatch.setattr(device, "adapter", Adapter(f16=device.adapter.f16))
    model = model_on(tmp_path / "out", lambda: device, max_tokens=64, dtype=activations)
    found = model.forward(ids).logits
    cache = model.executor.new_cache(64)
    steps = model.executor.device_plan("all", 64, cache, ()).steps
    assert any(step.kernel.op == "expert_linear_sorted" for step in steps)
    expected = reference_on(tmp_path / "out", max_tokens=64, dtype=activations).forward(ids).logits
    off = np.sqrt(np.mean((found - expected) ** 2)) / np.sqrt(np.mean(expected**2))
    assert off < (6e-2 if activations == "int8" else 1e-5)


def test_costs_count_the_experts_that_are_read():
    plan = plan_of("qwen3_moe")
    weights = {b.name: buffer_bytes(b, {}) for b in plan.weights.values()}
    of_experts = sum(nbytes for name, nbytes in weights.items() if ".experts." in name)
    all_but_embedding = sum(buffer_bytes(b, {}) for b in plan.of_kind("weight")) - weights["embedding"]
    one, many = (step_cost(plan, step_sizes(n, 64)).weight_bytes for n in (1, 64))
    assert many == all_but_embedding
    assert one == all_but_embedding - of_experts * (1 - 3 / 8)  # 3 of 8 a token


@pytest.mark.parametrize("activations", ["f32", "int8"])
def test_calls_of_mixtures_can_be_tuned(activations):
    """Random inputs of just their sizes, whichever experts they are of."""
    found = set()
    for family in MIXTURES:
        model = architecture_of(config_of(family) | {"intermediate_size": 128})
        describe, gpu = described_in(model.tensors(), WeightFormat("int4")), Adapter(True, 32, f16=True)
        sizes = {"capacity": 64, "adapter": gpu, "binding_bytes": 128 << 20, "steps": 16}
        for planned in planned_cases(model, describe, (1, 64), activations=activations, **sizes):
            if planned.case.kernel.startswith(("expert", "route")):
                kernel = wgsl_kernels.get(planned.case.kernel)
                found.add(workload_of(kernel, planned.case).kernel.op)
    assert {"expert_gate_up", "expert_down", "route", "expert_order", "expert_linear_sorted"} <= found


@needs_adapter
@pytest.mark.parametrize("name", ["expert_linear[int4]", "expert_gate_up[int4, a8]", "expert_down[int4]"])
def test_other_experts_are_not_read(name):
    """Rows of experts that no token goes to hold no numbers: the results stay as they are, bit for bit."""
    kernel, device = wgsl_kernels.get(name), open_device(promised=True)
    rows = 96 if "gate_up" in name else 48
    arguments = kernel.inputs(seed=5, tokens=3, rows=rows, expert_rows=12, columns=64, chosen=2)
    arguments["experts"] = torch.tensor([[3, 1], [1, 3], [1, 1]], dtype=torch.int32)
    poisoned = {**arguments, "scales": arguments["scales"].clone()}
    for first in range(0, rows, 48):  # experts 0 and 2, of gate and of up
        poisoned["scales"][first : first + 12] = poisoned["scales"][first + 24 : first + 36] = float("nan")
    one, other = (run_kernel(kernel, each, device=device)["y"] for each in (arguments, poisoned))
    assert one.isfinite().all() and torch.equal(one, other)


@needs_adapter
def test_experts_in_several_bindings(folders, monkeypatch):
    """Bindings end within an expert's rows and between experts."""
    device, ids = open_device(promised=True), random_ids(259, 20)
    expected = model_on(folders["mixtral"], lambda: device, max_tokens=32).forward(ids).logits
    monkeypatch.setattr(
        device, "binding_bytes", 4 * 64 * 259
    )  # of 384 rows of gate and 256 of down, of 96 columns
    model = model_on(folders["mixtral"], lambda: device, max_tokens=32)
    np.testing.assert_allclose(model.forward(ids).logits, expected, atol=1e-5)
    cache = model.executor.new_cache(32)
    steps = model.executor.device_plan("all", 1, cache, ()).steps
    parts = [step.rows for step in steps if step.call.op == "expert_linear" and "layers.0" in str(step.call)]
    assert len(parts) > 4 and all(rows is not None for rows in parts)


# ---- quantizing ---------------------------------------------------------------------------------------------------


def test_routers_stay_floats_unless_asked_for(folders, tmp_path):
    router = "model.layers.1.feed_forward.router.weight"
    convert(folders["llama4_text"], tmp_path / "plain", ConvertOptions(parse_format("int4/32")))
    stored = open_source(tmp_path / "plain")
    assert stored.describe(router)[1].dtype == "f32"
    assert stored.describe(f"{EXPERTS}.up_proj.weight")[1].dtype == "int4"
    assert "router" in stored.manifest["precision"][router]["reason"]
    overrides = {
        "layers.*.mlp.router": parse_format("int8/32"),
        "layers.1.mlp.experts.*": parse_format("int2/32"),
    }
    options = ConvertOptions(parse_format("int4/32"), overrides=overrides)
    convert(folders["llama4_text"], tmp_path / "asked", options)
    stored = open_source(tmp_path / "asked")
    assert stored.describe(router)[1].dtype == "int8"
    assert stored.describe(f"{EXPERTS}.down_proj.weight")[1].dtype == "int2"


def test_moments_by_expert(folders):
    """Those of the tokens that went to each, times their scores; of one that few went to, those of all."""
    source = open_source(folders["llama4_text"])
    model = architecture_of(source.config)
    decoder = Decoder(model, source.describe, 48)
    weights = {n: torch.from_numpy(source.tensor(n).dequantize()) for n in decoder.layers[1].tensors}
    weights["model.layers.1.feed_forward.router.weight"][3] *= 0.05  # few tokens then go to it
    hidden = torch.randn(30, 48, model.hidden_size, generator=torch.Generator().manual_seed(1))
    seen: dict[str, list] = {}

    def tap(name, x, routed) -> None:
        if routed is not None:
            seen[name] = [x.flatten(0, 1), routed.chosen.flatten(), routed.scores]

    decoder.layer(1, weights, hidden, tap)
    moments = capture(decoder, 1, weights, hidden, "cpu", 0)
    for name in ("layers.1.mlp.input", "layers.1.mlp.experts.hidden"):
        x, chosen, scores = seen[name]
        x = x if scores is None else x * scores.flatten()[:, None]
        found = moments[name]
        counts = torch.bincount(chosen, minlength=4).tolist()
        assert [each.tokens for each in found.experts] == counts and found.tokens == len(chosen)
        assert {each.own for each in found.experts} == {True, False}
        for expert, each in enumerate(found.experts):
            assert each.own == (counts[expert] >= LEAST_TOKENS)
            if not each.own:
                assert each.of.hessian is found.hessian
                continue
            rows = x[chosen == expert]
            torch.testing.assert_close(each.of.hessian, rows.T @ rows / len(rows), rtol=1e-4, atol=1e-5)
            assert torch.equal(each.of.samples, rows[:SAMPLES])


def test_a_converted_mixture_is_the_checkpoint(folders, tmp_path):
    """Stored whole in f32, it gives the numbers of transformers."""
    convert(folders["qwen3_moe"], tmp_path / "out", ConvertOptions(WeightFormat("f32")))
    ids = random_ids(259, LENGTH)
    check_parity(
        reference_on(tmp_path / "out", max_tokens=LENGTH).forward(ids).logits,
        oracle_logits(folders["qwen3_moe"], ids),
    )
