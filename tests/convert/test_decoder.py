"""The functional decoder layer against transformers, forwards and backwards; what is captured of its inputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.convert.conftest import SMALL
from tests.models.checkpoints import random_state
from workbench.convert import capture as capture_module
from workbench.convert.capture import capture, run_layer
from workbench.convert.decoder import Decoder
from workbench.formats.spec import WeightFormat
from workbench.models.families import architecture_of
from workbench.models.specs import described_in

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
CASES = {
    "grouped queries": {},
    "a head each": {"num_key_value_heads": 6},
    "biases and scaled angles": {"attention_bias": True, "mlp_bias": True, "rope_scaling": LLAMA3},
}


#: What linear layers of a layer read -> those layers.
READS = {
    "attn.input": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attn.context": ("self_attn.o_proj",),
    "mlp.input": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.hidden": ("mlp.down_proj",),
}


def decoder_of(config: dict, length: int) -> Decoder:
    model = architecture_of(config)
    return Decoder(model, described_in(model.tensors(), WeightFormat("f32")), length)


def reference(config: dict):
    """transformers' model with random weights, f32, and its state."""
    from transformers import LlamaConfig as Config
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM(Config(**config)).eval()
    state = random_state(config)
    model.load_state_dict(state)
    return model, state


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_layers_agree_with_transformers(changes):
    config = SMALL | changes
    model, state = reference(config)
    ids = torch.from_numpy(np.random.default_rng(1).integers(0, 259, (3, 20)))
    with torch.no_grad():
        expected = model(ids, output_hidden_states=True, use_cache=False).hidden_states
    decoder = decoder_of(config, 32)
    hidden = decoder.embedded(state, expected[0].clone())
    for index, layer in enumerate(decoder.layers):
        assert set(layer.tensors) == {n for n in state if n.startswith(f"model.layers.{index}.")}
        hidden = run_layer(decoder, index, state, hidden, "cpu", into=hidden)
        got = hidden if index < len(decoder.layers) - 1 else decoder.final(state, hidden)
        torch.testing.assert_close(got, expected[index + 1], rtol=1e-4, atol=1e-5)


def test_gradients_agree_with_transformers():
    model, state = reference(SMALL)
    ids = torch.from_numpy(np.random.default_rng(2).integers(0, 259, (2, 12)))
    captured = []
    layer = model.model.layers[0]
    handle = layer.register_forward_hook(lambda module, args, output: captured.append(output))
    embedded = model.model.embed_tokens(ids).detach()
    model.model(inputs_embeds=embedded, use_cache=False)
    handle.remove()
    captured[0].square().mean().backward()
    weights = {name: value.clone().requires_grad_() for name, value in state.items()}
    decoder_of(SMALL, 12).layer(0, weights, embedded).square().mean().backward()
    for name, parameter in layer.named_parameters():
        torch.testing.assert_close(
            weights[f"model.layers.0.{name}"].grad, parameter.grad, rtol=1e-3, atol=1e-6
        )


def test_moments_are_those_of_the_inputs_of_each_linear_layer(monkeypatch):
    monkeypatch.setattr(capture_module, "BATCH_TOKENS", 40)  # two windows at a time, then one
    monkeypatch.setattr(capture_module, "SAMPLES", 50)
    model, state = reference(SMALL)
    hidden = torch.randn(5, 20, 48, generator=torch.Generator().manual_seed(3))
    seen: dict[str, torch.Tensor] = {}
    for read, linears in READS.items():
        for linear in linears:

            def hook(module, args, name=f"layers.0.{read}/{linear}"):
                seen[name] = args[0].reshape(-1, args[0].shape[-1]).double()

            model.model.layers[0].get_submodule(linear).register_forward_pre_hook(hook)
    with torch.no_grad():
        model.model(inputs_embeds=hidden, use_cache=False)
    found = capture(decoder_of(SMALL, 20), 0, state, hidden, "cpu", seed=0)
    assert set(found) == {f"layers.0.{read}" for read in READS}
    for name, x in seen.items():
        moments = found[name.split("/")[0]]
        hessian = (x.T @ x / len(x)).float()
        torch.testing.assert_close(moments.hessian, hessian, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(moments.mean_abs, x.abs().mean(0).float(), rtol=1e-4, atol=1e-6)
        assert moments.samples.shape == (50, x.shape[1])
        nearest = torch.cdist(moments.samples.double(), x).min(1)
        assert (
            nearest.values.max() < 1e-4 and nearest.indices.diff().min() > 0
        )  # rows of x, in order, none twice


def test_a_tied_matrix_has_the_moments_of_both_uses():
    x = torch.randn(300, 12, generator=torch.Generator().manual_seed(4)).double()
    moments = capture_module.Moments((x.T @ x / 300).float(), x.abs().mean(0).float(), x.float())
    both = moments.with_lookup()
    assert both.hessian.trace() == pytest.approx(2 * float(moments.hessian.trace()), rel=1e-5)
    torch.testing.assert_close(both.samples.T @ both.samples / 300, both.hessian, rtol=1e-4, atol=1e-5)
