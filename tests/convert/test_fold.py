"""AWQ's folding: a layer keeps its function, and the moments become those of its new inputs."""

from __future__ import annotations

import pytest
import torch

from tests.convert.conftest import SMALL
from tests.convert.test_decoder import READS, decoder_of
from tests.models.checkpoints import random_state
from workbench.convert.capture import capture
from workbench.convert.fold import fold_layer
from workbench.formats.spec import WeightFormat

INT4 = WeightFormat("int4", block_size=32)
LAYER = "model.layers.0."


def layer(**changes):
    config = SMALL | changes
    weights = {n: v for n, v in random_state(config).items() if n.startswith(LAYER)}
    formats = {name: INT4 if value.ndim == 2 else WeightFormat("f32") for name, value in weights.items()}
    return decoder_of(config, 16), weights, formats


def search(matrices, kind, moments):
    """Other scales for every group, between 0.2 and 3.2."""
    columns = matrices[0].shape[1]
    return torch.rand(columns, generator=torch.Generator().manual_seed(columns + len(matrices))) * 3 + 0.2


@pytest.mark.parametrize("kv_heads", [2, 6])
def test_the_function_stays(kv_heads):
    decoder, weights, formats = layer(num_key_value_heads=kv_heads, attention_bias=True, mlp_bias=True)
    hidden = torch.randn(2, 16, 48, generator=torch.Generator().manual_seed(0))
    moments = capture(decoder, 0, weights, hidden, "cpu", 0)
    folded, moved, left = fold_layer(decoder.plan, weights, formats, moments, search)
    torch.testing.assert_close(
        decoder.layer(0, folded, hidden), decoder.layer(0, weights, hidden), rtol=1e-4, atol=1e-4
    )
    again = capture(decoder, 0, folded, hidden, "cpu", 0)
    for name, linears in READS.items():
        read, matrix = f"layers.0.{name}", f"{LAYER}{linears[0]}.weight"
        torch.testing.assert_close(again[read].hessian, moved[read].hessian, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(again[read].samples, moved[read].samples, rtol=1e-3, atol=1e-5)
        changed = not torch.equal(folded[matrix], weights[matrix])
        assert changed == (read not in left)
    assert set(left) == ({"layers.0.attn.context"} if kv_heads == 2 else set())


def test_groups_of_several_formats_are_left_alone():
    decoder, weights, formats = layer()
    formats |= {
        f"{LAYER}self_attn.q_proj.weight": WeightFormat("f16"),
        f"{LAYER}mlp.up_proj.weight": WeightFormat("int8"),
    }
    moments = capture(decoder, 0, weights, torch.randn(1, 8, 48), "cpu", 0)
    folded, _, left = fold_layer(decoder.plan, weights, formats, moments, search)
    assert set(left) == {f"layers.0.{read}" for read in ("attn.input", "attn.context", "mlp.input")}
    assert torch.equal(folded[f"{LAYER}input_layernorm.weight"], weights[f"{LAYER}input_layernorm.weight"])
    assert torch.equal(folded[f"{LAYER}mlp.gate_proj.weight"], weights[f"{LAYER}mlp.gate_proj.weight"])
    assert not torch.equal(folded[f"{LAYER}mlp.down_proj.weight"], weights[f"{LAYER}mlp.down_proj.weight"])
