"""AWQ's folding: a layer keeps its function, and the moments become those of its new inputs."""

from __future__ import annotations

import pytest
import torch

from tests.convert.conftest import SMALL
from tests.models.checkpoints import random_state
from workbench.convert.capture import capture
from workbench.convert.decoder import GROUPS, Decoder
from workbench.convert.fold import fold_layer
from workbench.formats.spec import WeightFormat
from workbench.models.llama_config import LlamaConfig

INT4 = WeightFormat("int4", block_size=32)


def layer(**changes):
    config = SMALL | changes
    prefix = "model.layers.0."
    weights = {n.removeprefix(prefix): v for n, v in random_state(config).items() if n.startswith(prefix)}
    formats = {name: INT4 if value.ndim == 2 else WeightFormat("f32") for name, value in weights.items()}
    return LlamaConfig.parse(config), weights, formats


def search(matrices, kind, moments):
    """Other scales for every group, between 0.2 and 3.2."""
    columns = matrices[0].shape[1]
    return torch.rand(columns, generator=torch.Generator().manual_seed(columns + len(matrices))) * 3 + 0.2


@pytest.mark.parametrize("kv_heads", [2, 6])
def test_the_function_stays(kv_heads):
    config, weights, formats = layer(num_key_value_heads=kv_heads, attention_bias=True, mlp_bias=True)
    decoder = Decoder(config, 16)
    hidden = torch.randn(2, 16, 48, generator=torch.Generator().manual_seed(0))
    moments = capture(decoder, weights, hidden, "cpu", 0)
    folded, moved, left = fold_layer(config, weights, formats, moments, search)
    torch.testing.assert_close(decoder(folded, hidden), decoder(weights, hidden), rtol=1e-4, atol=1e-4)
    again = capture(decoder, folded, hidden, "cpu", 0)
    for group, linears in GROUPS.items():
        torch.testing.assert_close(again[group].hessian, moved[group].hessian, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(again[group].samples, moved[group].samples, rtol=1e-3, atol=1e-5)
        changed = not torch.equal(folded[f"{linears[0]}.weight"], weights[f"{linears[0]}.weight"])
        assert changed == (group not in left)
    assert set(left) == ({"attn.context"} if kv_heads == 2 else set())


def test_groups_of_several_formats_are_left_alone():
    config, weights, formats = layer()
    formats |= {"self_attn.q_proj.weight": WeightFormat("f16"), "mlp.up_proj.weight": WeightFormat("int8")}
    moments = capture(Decoder(config, 8), weights, torch.randn(1, 8, 48), "cpu", 0)
    folded, _, left = fold_layer(config, weights, formats, moments, search)
    assert set(left) == {"attn.input", "attn.context", "mlp.input"}
    assert torch.equal(folded["input_layernorm.weight"], weights["input_layernorm.weight"])
    assert torch.equal(folded["mlp.gate_proj.weight"], weights["mlp.gate_proj.weight"])
    assert not torch.equal(folded["mlp.down_proj.weight"], weights["mlp.down_proj.weight"])
