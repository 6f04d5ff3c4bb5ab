"""Configurations, judged by transformers itself: the same numbers, or a refusal that names the key."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import transformers

from tests.models.config_edits import BASE, LLAMA3, Judge, edits
from wgsl_kernels.attention.rope import inverse_frequencies
from workbench.errors import UnsupportedModelError
from workbench.models.families.llama import Llama
from workbench.models.pretrained_keys import PRETRAINED_KEYS

PUBLISHED = Path(__file__).with_name("published")
#: Parameters of the published checkpoints.
PARAMETERS = {
    "codellama-34b": 33_743_970_304,
    "codellama-7b": 6_738_546_688,
    "deepseek-coder-6.7b": 6_740_512_768,
    "deepseek-llm-7b": 6_910_365_696,
    "deepseek-r1-distill-llama-8b": 8_030_261_248,
    "hermes-3-llama-3.1-8b": 8_030_261_248,
    "llama-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-2-7b": 6_738_415_616,
    "llama-3-70b": 70_553_706_496,
    "llama-3-8b": 8_030_261_248,
    "llama-3.1-405b": 405_853_388_800,
    "llama-3.1-8b-instruct": 8_030_261_248,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "llama-30b": 32_528_943_616,
    "llama-65b": 65_285_660_672,
    "llama-7b": 6_738_415_616,
    "open-llama-7b": 6_738_415_616,
    "sheared-llama-1.3b": 1_345_423_360,
    "smollm-135m": 134_515_008,
    "smollm2-1.7b": 1_711_376_384,
    "smollm2-135m": 134_515_008,
    "solar-10.7b": 10_731_524_096,
    "tinyllama-1.1b": 1_100_048_384,
    "vicuna-7b-v1.5-16k": 6_738_415_616,
    "yi-6b": 6_061_035_520,
}


def theirs(config: dict) -> np.ndarray:
    """Frequencies of transformers' rotary embedding."""
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    return LlamaRotaryEmbedding(transformers.LlamaConfig(**json.loads(json.dumps(config)))).inv_freq.numpy()


def ours(config: dict) -> np.ndarray:
    parsed = Llama.parse(config)
    return inverse_frequencies(parsed.head_dim, parsed.rope_theta, parsed.rope_scaling)


# ---- published configurations --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(path.stem for path in PUBLISHED.glob("*.json")))
def test_published_configurations_are_read(name):
    config = json.loads((PUBLISHED / f"{name}.json").read_text())
    parsed = Llama.parse(config)
    assert sum(math.prod(spec.shape) for spec in parsed.tensors().values()) == PARAMETERS[name]
    np.testing.assert_allclose(ours(config), theirs(config), rtol=1e-6)
    noted = " ".join(parsed.notes)
    for key in ("max_sequence_length", "is_llama_config", "rope_interleaved"):
        assert (key in config) == (key in noted)


def test_there_are_many_published_configurations():
    assert len(list(PUBLISHED.glob("*.json"))) == len(PARAMETERS) >= 25


# ---- random edits --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    transformers.utils.logging.disable_progress_bar()
    return Judge(tmp_path_factory.mktemp("edited"))


def test_edits_give_their_logits_or_are_refused_by_name(judge):
    """2,000 and more by hand: `python -m tests.models.config_edits 2000 7`."""
    outcomes = []
    for (base, config, changed), _ in zip(edits(20), range(200), strict=False):
        outcome, what = judge(base, config, changed)
        assert outcome != "wrong", (base, {name: config.get(name, "deleted") for name in changed}, what)
        outcomes.append(outcome)
    assert outcomes.count("same") >= 50 and outcomes.count("refused") >= 50


@pytest.mark.parametrize(
    "change",
    [
        {"rope_scaling": {"rope_type": "default", "rope_theta": 5e5}},
        {"rope_scaling": {"type": "linear", "factor": 2, "rope_theta": 500}, "rope_parameters": LLAMA3},
        {"rope_parameters": {"rope_theta": 900.0}, "rope_theta": None},
        {"rope_scaling": {}, "rope_parameters": {**LLAMA3, "rope_theta": 500.0}},
        {"rope_scaling": LLAMA3, "original_max_position_embeddings": 8},
        {"rope_scaling": {k: v for k, v in LLAMA3.items() if not k.startswith("original")}},
        {"rope_scaling": {"type": "linear", "factor": 2.0}, "original_max_position_embeddings": 8},
        {"rope_parameters": {"rope_type": "default", "mscale": 2.0}, "partial_rotary_factor": 1},
        {"tie_word_embeddings": True},
        {"num_hidden_layers": 1},
        {"layer_types": ["full_attention", "attention"], "sliding_window": 64},
        {"hidden_act": "swish", "pad_token_id": -1, "eos_token_id": [2, 999], "dtype": "float32"},
        {"architectures": ["LLaMAForCausalLM"], "qk_norm": True, "final_logit_softcapping": 1.0},
    ],
)
def test_valid_spellings_give_their_logits(judge, change):
    assert judge("plain", {**BASE, **change}, set(change)) == ("same", "")


# ---- refusals and notes --------------------------------------------------------------------------------------------

DEEP: list = []
for _ in range(500):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mistral"}, "model_type is 'mistral'; allowed: \"llama\""),
        ({"architectures": "LlamaForCausalLM"}, "architectures is 'LlamaForCausalLM'"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; allowed: \"silu\""),
        ({"num_attention_heads": 5}, "num_attention_heads is 5; allowed: a divisor of hidden_size 32"),
        ({"num_key_value_heads": 3}, "num_key_value_heads is 3; allowed: a divisor of num_attention_heads 4"),
        ({"head_dim": 20}, "head_dim is 20; allowed: a multiple of 8"),
        ({"hidden_size": 48}, r"head_dim \(hidden_size / num_attention_heads = 48/4\) is 12"),
        ({"head_dim": "24"}, "head_dim is '24'"),
        ({"vocab_size": None}, "vocab_size is null"),
        ({"vocab_size": 10**5000}, "vocab_size is a value of type int"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"num_hidden_layers": 10**6}, "num_hidden_layers is 1000000; allowed: an integer from 1 to 1024"),
        ({"hidden_size": True}, "hidden_size is true"),
        (
            {"rope_scaling": {"type": "yarn", "factor": 2.0}},
            "type is 'yarn'; allowed: default, linear, llama3",
        ),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling: factor is missing"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "low_freq_factor is missing"),
        ({"rope_scaling": {**LLAMA3, "high_freq_factor": 1.0}}, "more than low_freq_factor 1.0"),
        ({"rope_scaling": LLAMA3, "original_max_position_embeddings": None}, "embeddings is null, but"),
        ({"rope_scaling": [1]}, r"rope_scaling is \[1\]; allowed: an object or null"),
        ({"rope_scaling": "linear"}, "rope_scaling is 'linear'"),
        ({"rope_scaling": {"full_attention": LLAMA3}}, "full_attention is {.*one embedding for all layers"),
        ({"rope_theta": "10000"}, "rope_theta is '10000'"),
        ({"rope_theta": None}, "rope_theta is null"),
        ({"rope_theta": 10**400}, "rope_theta is a value of|rope_theta is 1000"),
        ({"rms_norm_eps": -1.0}, "rms_norm_eps is -1.0"),
        ({"rms_norm_eps": math.nan}, "rms_norm_eps is nan"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings is 'false'; allowed: true or false"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings is 1"),
        ({"is_causal": False}, "is_causal is false; allowed: true"),
        ({"sliding_window": 16}, "sliding_window is 16"),
        ({"layer_types": ["full_attention"]}, "layer_types has 1 entries; allowed: num_hidden_layers 2"),
        ({"layer_types": ["sliding_attention"] * 2}, "layer_types is"),
        ({"eos_token_id": [[2]]}, r"eos_token_id is \[\[2\]\]"),
        ({"eos_token_id": DEEP}, "eos_token_id is"),
        (
            {"quantization_config": {"quant_method": "gptq"}},
            "quantization_config is {'quant_method': 'gptq'}",
        ),
        ({"attribute_map": {"rms_norm_eps": "initializer_range"}}, "attribute_map is"),
        ({"transformers_weights": "other.safetensors"}, "transformers_weights is 'other.safetensors'"),
        ({"pad_token_id": 64}, "pad_token_id is 64"),
    ],
)
def test_configurations_that_are_refused(change, message):
    with pytest.raises(UnsupportedModelError, match=f"(?s)^config.json.*({message})"):
        Llama.parse({**BASE, **change})


def test_what_does_not_count_is_noted():
    change = {
        "rope_scaling": {**LLAMA3, "mscale": 1.0, "rope_theta": 7.0},
        "rope_parameters": {"rope_theta": 9.0},
        "sliding_window": 64,
        "qk_norm": True,
    }
    notes = "\n".join(Llama.parse({**BASE, **change}).notes)
    for part in (
        "rope_parameters does not count",
        "has mscale, which",
        "rope_theta does not count",
        "qk_norm: ignored",
    ):
        assert part in notes
    assert "sliding_window 64 cuts nothing" in notes
    assert Llama.parse(BASE).notes == ()


def test_every_attribute_of_their_class_is_known():
    """A key of one of these names changes transformers' own object: none may pass as a key that nobody reads."""
    known = {key.name for key in (*Llama.keys, *PRETRAINED_KEYS)}
    config = transformers.LlamaConfig()
    attributes = {name for name in (*dir(config), *vars(config)) if not name.startswith("__")}
    settings = set(transformers.GenerationConfig._get_default_generation_params())
    assert attributes - known == set()
    assert settings - known == set()


def test_keys_are_declared_once():
    names = [key.name for key in (*Llama.keys, *PRETRAINED_KEYS)]
    assert len(names) == len(set(names))
