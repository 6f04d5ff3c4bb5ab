"""The functional decoder layer against transformers, forwards and backwards; what is captured of its inputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.convert.conftest import SMALL
from tests.models.checkpoints import random_state
from workbench.convert import capture as capture_module
from workbench.convert.capture import capture, run_layer
from workbench.convert.decoder import GROUPS, Decoder, normalised
from workbench.models.llama_config import LlamaConfig

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


def reference(config: dict):
    """transformers' model with random weights, f32, and the weights of each layer by name within it."""
    from transformers import LlamaConfig as Config
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM(Config(**config)).eval()
    state = random_state(config)
    model.load_state_dict(state)
    layers = [
        {n.removeprefix(p): v for n, v in state.items() if n.startswith(p)}
        for p in (f"model.layers.{i}." for i in range(config["num_hidden_layers"]))
    ]
    return model, layers, state


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_layers_agree_with_transformers(changes):
    config = SMALL | changes
    model, layers, state = reference(config)
    ids = torch.from_numpy(np.random.default_rng(1).integers(0, 259, (3, 20)))
    with torch.no_grad():
        expected = model(ids, output_hidden_states=True, use_cache=False).hidden_states
    decoder = Decoder(LlamaConfig.parse(config), 32)
    hidden = expected[0].clone()
    for index, weights in enumerate(layers):
        hidden = run_layer(decoder, weights, hidden, "cpu", into=hidden)
        got = (
            hidden
            if index < len(layers) - 1
            else normalised(decoder.config, hidden, state["model.norm.weight"])
        )
        torch.testing.assert_close(got, expected[index + 1], rtol=1e-4, atol=1e-5)


def test_gradients_agree_with_transformers():
    model, layers, _ = reference(SMALL)
    ids = torch.from_numpy(np.random.default_rng(2).integers(0, 259, (2, 12)))
    captured = []
    layer = model.model.layers[0]
    handle = layer.register_forward_hook(lambda module, args, output: captured.append(output))
    embedded = model.model.embed_tokens(ids).detach()
    model.model(inputs_embeds=embedded, use_cache=False)
    handle.remove()
    captured[0].square().mean().backward()
    weights = {name: value.clone().requires_grad_() for name, value in layers[0].items()}
    Decoder(LlamaConfig.parse(SMALL), 12)(weights, embedded).square().mean().backward()
    for name, parameter in layer.named_parameters():
        torch.testing.assert_close(weights[name].grad, parameter.grad, rtol=1e-3, atol=1e-6)


def test_moments_are_those_of_the_inputs_of_each_linear_layer(monkeypatch):
    monkeypatch.setattr(capture_module, "BATCH_TOKENS", 40)  # two windows at a time, then one
    monkeypatch.setattr(capture_module, "SAMPLES", 50)
    model, layers, _ = reference(SMALL)
    hidden = torch.randn(5, 20, 48, generator=torch.Generator().manual_seed(3))
    seen: dict[str, torch.Tensor] = {}
    for group, linears in GROUPS.items():
        for linear in linears:

            def hook(module, args, name=f"{group}/{linear}"):
                seen[name] = args[0].reshape(-1, args[0].shape[-1]).double()

            model.model.layers[0].get_submodule(linear).register_forward_pre_hook(hook)
    with torch.no_grad():
        model.model(inputs_embeds=hidden, use_cache=False)
    found = capture(Decoder(LlamaConfig.parse(SMALL), 20), layers[0], hidden, "cpu", seed=0)
    assert set(found) == set(GROUPS)
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
