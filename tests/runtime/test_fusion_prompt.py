"""Steps of many tokens, and decoding of families with biases or normed heads: what is fused, and the same numbers."""

from __future__ import annotations

import numpy as np
import pytest

from workbench.formats.spec import WeightFormat
from workbench.model_bench.synthetic import RandomSource
from workbench.models.families import architecture_of
from workbench.runtime.model import Model
from workbench.runtime.wgpu_executor import WgpuExecutor

from .models import random_ids
from .rewriting import kernels, rewritten, with_gelu

LAYERS = 2
#: Every plane of every matrix is a multiple of 256 bytes in blocks of 32, so that matrices are stacked.
SHAPE = {
    **{"hidden_size": 128, "intermediate_size": 192, "num_attention_heads": 4, "head_dim": 32},
    **{"num_hidden_layers": LAYERS, "num_key_value_heads": 2, "max_position_embeddings": 128},
    **{"vocab_size": 131, "rms_norm_eps": 1e-5, "tie_word_embeddings": True},
}
MORE = {"granite": {"residual_multiplier": 0.22}}
INT4 = WeightFormat("int4", block_size=32)
QUANTIZE = "quantize_activations[a8]"


def source_of(family: str, fmt: WeightFormat = INT4) -> RandomSource:
    return RandomSource(family, {**SHAPE, "model_type": family, **MORE.get(family, {})}, fmt)


def plan_of(family: str, **types):
    source = source_of(family)
    return architecture_of(source.config).build(source.describe, head="last", **types)


def layer_of(plan) -> list[str]:
    """Names of the kernels of the first layer."""
    layers = (
        [
            name
            for name, call in zip(kernels(plan), plan.calls, strict=True)
            if any(output.startswith(f"layers.{number}.") for output in call.outputs.values())
        ]
        for number in range(LAYERS)
    )
    first, *others = layers
    assert all(other == first for other in others)
    return first


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "granite"])
@pytest.mark.parametrize("cache, append", [("f32", "rope_append"), ("int8", "rope_append[kv8]")])
def test_a_layer_of_a_prompt_is_eight_dispatches(family, cache, append):
    attention = append.replace("rope_append", "attention")
    append = f"norm_{append}" if family == "qwen3" else append
    layer = ["rms_norm", "linear[int4]", append, attention, "linear[int4]"]
    layer += ["rms_norm", "gate_up[int4]", "linear[int4]"]
    plan = plan_of(family, cache=cache)
    assert layer_of(rewritten(plan, tokens=64)) == layer
    gelu = [name.replace("gate_up", "gate_up_gelu") for name in layer]
    assert layer_of(rewritten(with_gelu(plan), tokens=64)) == gelu


def test_int8_activations_add_their_quantizations():
    product = "linear[int4, a8]"
    layer = ["rms_norm[a8]", product, "rope_append", "attention", QUANTIZE, product]
    layer += ["rms_norm[a8]", "gate_up[int4, a8]", QUANTIZE, product]
    assert layer_of(rewritten(plan_of("llama", activations="int8"), tokens=64)) == layer


@pytest.mark.parametrize("activations, op", [("f32", "norm_linear[int4]"), ("int8", "norm_linear_a8[int4]")])
@pytest.mark.parametrize("family, append", [("qwen2", "rope_append"), ("qwen3", "norm_rope_append")])
def test_one_token_norms_in_front_of_the_stack(family, append, activations, op):
    """`norm_qkv` has no biases, and no head to itself."""
    assert layer_of(rewritten(plan_of(family, activations=activations)))[:2] == [op, append]


def test_few_tokens_keep_their_batches():
    names = layer_of(rewritten(plan_of("llama"), tokens=16))
    assert "rope_append" in names and "silu_mul" in names


@pytest.mark.parametrize("name", ["layers.0.attn.q", "layers.0.attn.k_rotated", "layers.0.mlp.gate"])
def test_what_is_kept_is_computed_as_the_plan_says(name):
    fused = rewritten(plan_of("llama"), [name], tokens=64)
    op = "rope_append" if "attn" in name else "gate_up[int4]"
    assert name in fused.buffers and kernels(fused).count(op) == LAYERS - 1


class AsPlanned:
    """A choice that leaves every place as it is planned."""

    def pick(self, *call) -> None:
        return None

    def applies(self, *place, **facts) -> bool:
        return False

    def used(self) -> list:
        return []


@pytest.mark.parametrize(
    "family, fmt, types",
    [
        ("llama", WeightFormat("f16"), {}),
        ("llama", INT4, {"activations": "int8"}),
        ("llama", INT4, {"activations": "f16"}),
        ("llama", WeightFormat("int8", block_size=32), {"cache": "int8"}),
        ("qwen2", INT4, {}),
        ("qwen2", WeightFormat("int2", block_size=32), {"cache": "int8"}),
        ("qwen3", INT4, {"activations": "int8"}),
        ("qwen3", INT4, {"cache": "int8"}),
    ],
    ids=str,
)
def test_fused_and_as_planned_give_the_same_bits(open_promised, family, fmt, types):
    """Sums are added in the same order, and what is between is f32 either way."""
    device, source = open_promised(), source_of(family, fmt)
    if types.get("activations") == "f16" and not device.adapter.f16:
        pytest.skip("the adapter has no shader-f16")
    ids = random_ids(SHAPE["vocab_size"], 80)  # steps of 64 and 16: fewer put the norm into the product

    def logits(tuned=None) -> tuple[np.ndarray, int]:
        config = architecture_of(source.config)
        model = Model(
            source,
            config,
            lambda: WgpuExecutor(source, config, device, tuned=tuned, **types),
            [("backend", "wgpu", "the test's")],
            128,
        )
        session = model.session()
        found = session.feed(ids)
        steps = model.executor.device_plan("last", 64, session._cache, ()).steps
        session.close()
        return found, len(steps)

    (fused, fewer), (planned, steps) = logits(), logits(AsPlanned())
    assert fewer < steps - 4 * LAYERS
    assert np.array_equal(fused, planned)
