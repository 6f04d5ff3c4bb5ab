"""LoRA beside a model and merged into it, against transformers on weights that were merged by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import workbench
from tests.models.family_cases import oracle_of, write_family
from tests.models.lora_cases import merge, square_root_scale, write_adapter
from tests.runtime.models import check_parity, random_ids
from workbench.cli import main
from workbench.convert.convert import convert
from workbench.convert.options import ConvertOptions
from workbench.errors import WorkbenchError
from workbench.formats.text import parse_format
from workbench.models.adapted import merged
from workbench.runtime.device import adapter_missing
from workbench.runtime.provenance import provenance

IDS = random_ids(259, 64)
LAYER = "model.layers.1"
ATTENTION = {f"{LAYER}.self_attn.{part}_proj": 4 for part in "qkvo"}
MLP = {f"{LAYER}.mlp.{part}_proj": 8 for part in ("gate", "up", "down")}
BACKENDS = [
    "torch",
    pytest.param("wgpu", marks=pytest.mark.skipif(bool(adapter_missing()), reason="no adapter")),
]
#: Family -> what its adapter is on, what its configuration says, and scales that are not lora_alpha / r.
CASES = {
    "qwen2": (  # biases of q, k and v
        {**ATTENTION, **MLP},
        {
            "alpha_pattern": {"down_proj": 24, r"^model\.layers\.1\.self_attn\.o_proj": 2},
            "rank_pattern": {"mlp.*": 8},
        },
        {f"{LAYER}.mlp.down_proj": 3.0, f"{LAYER}.self_attn.o_proj": 0.5},
    ),
    "phi3": (  # stacked tensors, each with one A
        {f"{LAYER}.self_attn.qkv_proj": 4, f"{LAYER}.mlp.gate_up_proj": 4},
        {"use_rslora": True},
        {
            f"{LAYER}.{module}": square_root_scale(10, 4)
            for module in ("self_attn.qkv_proj", "mlp.gate_up_proj")
        },
    ),
    "gemma3_text": ({**ATTENTION, **MLP}, {"rank_pattern": {"mlp.*": 8}}, {}),  # norms behind
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """`made(family)`: a checkpoint, an adapter, and logits of transformers in f64 with and without it."""
    known = {}

    def make(family: str):
        if family not in known:
            root = tmp_path_factory.mktemp(family)
            modules, config, scales = CASES[family]
            base = write_family(root / "base", family)
            adapter = write_adapter(root / "adapter", base, modules, **config)
            whole = merge(root / "whole", base, adapter, scales)
            with torch.no_grad():
                ids = torch.from_numpy(np.array([IDS]))
                logits = [oracle_of(each)(ids).logits[0].numpy() for each in (whole, base)]
            known[family] = base, adapter, *logits
        return known[family]

    return make


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("family", CASES)
def test_logits_are_those_of_merged_weights(made, family, backend):
    base, adapter, whole, without = made(family)
    assert np.abs(whole - without).max() > 0.1 * np.abs(without).max()
    model = workbench.load(base, backend=backend, lora=adapter)
    check_parity(model.forward(IDS).logits, whole, 2e-5)
    assert provenance(model)["lora"]["files"].keys() == {"adapter_config.json", "adapter_model.safetensors"}
    assert any("LoRA of rank" in chosen for _, chosen, _ in model.choices)


@pytest.mark.parametrize("backend", BACKENDS)
def test_int4_factors_on_an_int8_base(made, tmp_path, backend):
    """As close to the whole as their rounding lets them be, and the same on both backends."""
    base, adapter, whole, without = made("qwen2")
    convert(base, tmp_path / "int8", ConvertOptions(parse_format("int8/32")))
    model = workbench.load(tmp_path / "int8", backend=backend, lora=adapter, lora_format="int4")
    name = "layers.1.attn.q_proj+k_proj+v_proj.lora_A"
    [down] = {str(b.format) for b in model.plan().weights.values() if b.name == name}
    assert down.startswith("int4")
    found = model.forward(IDS).logits
    reference = workbench.load(tmp_path / "int8", backend="torch", lora=adapter, lora_format="int4")
    check_parity(found, reference.forward(IDS).logits, 1e-5)
    assert np.abs(found - whole).mean() < 0.5 * np.abs(without - whole).mean()


@pytest.mark.skipif(bool(adapter_missing()), reason="no adapter")
def test_activations_of_adapters_have_the_models_type(made, tmp_path):
    """Factors in INT4 read INT8 activations."""
    base = made("qwen2")[0]
    adapter = write_adapter(tmp_path / "adapter", base, {f"{LAYER}.self_attn.o_proj": 4})
    how = {"lora": adapter, "lora_format": "int4", "dtype": "int8"}
    models = [workbench.load(base, backend=backend, **how) for backend in ("wgpu", "torch")]
    plan = models[0].plan()
    (inner,) = [call for call in plan.calls if "layers.1.attn.out.lora" in call.outputs.values()]
    assert plan.buffers[inner.inputs["x"]].dtype == "a8"
    found, expected = (model.forward(IDS[:1]).logits for model in models)
    assert np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2)) < 6e-2


def test_what_is_quantized_is_the_sum(made, tmp_path):
    base, adapter, whole, _ = made("phi3")
    convert(merged(base, adapter), tmp_path / "f32", ConvertOptions(parse_format("f32")))
    model = workbench.load(tmp_path / "f32", backend="torch")
    check_parity(model.forward(IDS).logits, whole, 2e-5)
    source = model.source.manifest["provenance"]["source"]
    assert source["lora"]["name"] == "adapter" and len(source["lora"]["files"]) == 2
    convert(base, tmp_path / "int4", ConvertOptions(parse_format("int4/32")))
    with pytest.raises(WorkbenchError, match="is int4/32, and an adapter is merged into floats alone"):
        merged(tmp_path / "int4", adapter)


def test_commands_take_an_adapter(made, tmp_path, capsys):
    base, adapter, *_ = made("phi3")
    out, text = str(tmp_path / "out"), tmp_path / "text"
    given = ["--model", str(base), "--lora", str(adapter)]
    assert main(["quantize", *given, "--format", "f32", "--output", out, "--quiet"]) == 0
    text.write_text("Once upon a time there was a fox who was told of a vixen. " * 3)
    how = ["--text", str(text), "--protocol", "disjoint-64", "--backend", "torch", "--json", "--quiet"]
    figures = []
    for model in (["--model", out], given, given[:2]):
        capsys.readouterr()
        assert main(["perplexity", *model, *how]) == 0
        figures.append(json.loads(capsys.readouterr().out))
    whole, beside, without = (each["ppl"] for each in figures)
    assert beside == pytest.approx(whole, rel=1e-5) != pytest.approx(without, rel=1e-2)
    assert figures[1]["provenance"]["lora"]["name"] == "adapter"


def edit(adapter, **config):
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))


def replaced(adapter, change):
    path = adapter / "adapter_model.safetensors"
    factors = load_file(path)
    change(factors)
    save_file(factors, path)


def renamed(factors):
    for name in list(factors):
        factors[name.replace("q_proj", "w")] = factors.pop(name)


Q = f"base_model.model.{LAYER}.self_attn.q_proj.lora_"
A, B = f"{Q}A.weight", f"{Q}B.weight"


@pytest.mark.parametrize(
    "damage, says",
    [
        (lambda a: edit(a, use_dora=True), r"use_dora is true; .*DoRA scales the rows"),
        (lambda a: edit(a, bias="all"), r'bias is .all.; allowed: "none"'),
        (lambda a: edit(a, init_lora_weights="pissa"), "init_lora_weights is .pissa.; .*weights of the model itself"),
        (lambda a: edit(a, peft_type="IA3"), r'peft_type is .IA3.; allowed: "LORA"'),
        (lambda a: edit(a, modules_to_save=["lm_head"]), "modules_to_save"),
        (lambda a: edit(a, some_new_key={"a": 1}), "some_new_key .*not a key of LoRA that is known"),
        (lambda a: edit(a, alpha_pattern={"(a+)+b": 3}), "alpha_pattern .*without groups"),
        (lambda a: edit(a, alpha_pattern={"[a": 3}), "alpha_pattern"),
        (lambda a: edit(a, alpha_pattern={"[[a]": 3}), "alpha_pattern"),  # Python warns of it
        (lambda a: edit(a, rank_pattern={".*" * 20 + "x": 3}), "rank_pattern .*at most 3 repetitions"),
        (lambda a: edit(a, rank_pattern={f"a{at}": 3 for at in range(4097)}), "rank_pattern .*at most 4,096"),
        (lambda a: edit(a, r=16), "has rank 4, but adapter_config.json says 16"),
        (lambda a: (a / "adapter_model.safetensors").rename(a / "adapter_model.bin"), "never its pickle"),
        (lambda a: (a / "adapter_config.json").unlink(), "adapter_config.json: the file is missing; an adapter"),
        (lambda a: replaced(a, lambda f: f.pop(B)), "q_proj there is lora_A alone"),
        (lambda a: replaced(a, lambda f: f.update({B: f[B][:-1].clone()})), r"has factors \[4, 64\] and \[63, 4\]"),
        (lambda a: replaced(a, lambda f: f.update({A: f[A].half().long()})), "dtype I64; allowed: F32, F16, BF16"),
        (lambda a: replaced(a, lambda f: f.update({A: f[A].flatten()})), "allowed: a matrix"),
        (lambda a: replaced(a, lambda f: f.update({A: f[A] * float("nan")})), "lora_A.weight.*not finite|nan"),
        (lambda a: replaced(a, lambda f: f.update({"x.lora_magnitude_vector": f[A].clone()})), "is no factor of LoRA"),
        (lambda a: replaced(a, lambda f: f.update({"y" * 5000: f[A].clone()})), "tensor 'y+….*…y+' is no factor"),
        (lambda a: replaced(a, renamed), "w, which is no linear layer"),
        (lambda a: replaced(a, lambda f: f.clear()), "has no tensors"),
    ],
)  # fmt: skip
def test_adapters_that_would_change_other_numbers_are_refused(made, tmp_path, damage, says):
    base = made("qwen2")[0]
    adapter = write_adapter(tmp_path / "adapter", base, {f"{LAYER}.self_attn.q_proj": 4})
    damage(adapter)
    with pytest.raises(WorkbenchError, match=says):
        workbench.load(base, backend="torch", lora=adapter).forward(IDS[:2])


def test_embeddings_and_experts_have_none(made, tmp_path):
    base = made("qwen2")[0]
    adapter = write_adapter(tmp_path / "embedding", base, {"model.embed_tokens": 4})
    with pytest.raises(
        WorkbenchError, match=r"model.embed_tokens, which is no linear layer .*allowed: model.layers.0"
    ):
        workbench.load(base, backend="torch", lora=adapter)
    with pytest.raises(WorkbenchError, match="lora_format 'int4' is of an adapter, and there is no lora"):
        workbench.load(base, backend="torch", lora_format="int4")
