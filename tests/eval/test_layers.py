"""Differences layer by layer, on activations of real runs and on arrays by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

import workbench
from eval import layers
from eval.layers import LayerDifference, compare_layers
from workbench.plan.plan import PlanError

IDS = [1, 403, 407, 261, 378, 317, 289, 9, 12, 77]


@pytest.fixture(scope="module")
def f32(shared):
    return workbench.load(shared / "models" / "stories260K-hf", backend="torch")


@pytest.fixture(scope="module")
def f16(shared):
    return workbench.load(shared / "models" / "stories260K-hf", backend="torch", dtype="f16")


def test_figures_of_two_arrays_by_hand():
    y = np.array([[3.0, 0.0], [0.0, -4.0]])
    x = np.array([[3.0, 0.0], [1.0, -4.0]])
    found = LayerDifference.of("a", "f32", x, y)
    assert (found.max_abs, found.rms, found.relative) == (1.0, 0.5, 0.2)
    assert found.cosine == pytest.approx(25 / math.sqrt(26 * 25))
    assert (found.largest, found.headroom, found.worst) == (4.0, 16376.0, (1, 0))
    same = LayerDifference.of("a", "f32", np.zeros((1, 2)), np.zeros((1, 2)))
    assert (same.relative, same.cosine, same.headroom) == (0.0, 1.0, math.inf)
    broken = LayerDifference.of("a", "f32", np.array([[1.0, np.nan]]), np.ones((1, 2)))
    assert math.isnan(broken.relative) and math.isnan(broken.largest) and broken.worst == (0, 1)


def test_every_activation_of_both_plans_is_compared(f16, f32):
    found = compare_layers(f16, f32, IDS)
    names = [layer.name for layer in found.layers]
    assert names[0] == "embedded" and names[-1] == "logits" and "layers.4.mlp.hidden" in names
    assert len(names) == 2 + 15 * 5 + 1
    assert found["embedded"].relative == 0.0 and found["layers.0.attn.input"].dtype == "f16"
    kept = [
        model.forward(IDS, keep=["layers.2.out"]).kept["layers.2.out"].astype(float) for model in (f16, f32)
    ]
    layer = found["layers.2.out"]
    assert layer.max_abs == np.abs(kept[0] - kept[1]).max() > 0
    assert layer.relative == pytest.approx(
        np.linalg.norm(kept[0] - kept[1]) / np.linalg.norm(kept[1]), rel=1e-12
    )
    assert layer.largest == max(np.abs(kept[0]).max(), np.abs(kept[1]).max())
    first = found.first_beyond(1e-5)
    assert first.name == "layers.0.attn.input", "the first that f16 rounds"
    assert found.first_beyond(1.0) is None and found.beyond_f16() == []


def test_it_shows_itself(f16, f32):
    found = compare_layers(f16, f32, IDS, ["layers.0.attn.q", "logits"])
    assert [row["activation"] for row in found.rows()] == ["layers.0.attn.q", "logits"]
    record = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert record["layers"][1]["name"] == "logits" and record["provenance"]["model"]["activations"] == "f16"
    assert "torch f16 against torch f32, 10 tokens" in str(found) and "layers.0.attn.q" in found._repr_html_()
    axes = found.plot()
    assert len(axes.get_lines()[0].get_xdata()) == 2


def test_an_int8_cache_begins_with_attention(f32, shared):
    stored = workbench.load(shared / "models" / "stories260K-hf", backend="torch", cache="int8")
    found = compare_layers(stored, f32, IDS)
    assert found.model == "torch f32, int8 cache" and found.reference == "torch f32"
    assert (
        found.first_beyond(1e-5).name == "layers.0.attn.context"
    )  # keys and queries themselves are as they were


def test_few_activations_at_a_time_are_the_same(f16, f32, monkeypatch):
    whole = compare_layers(f16, f32, IDS)
    monkeypatch.setattr(layers, "PASS_BYTES", 4 * len(IDS) * 200)
    assert compare_layers(f16, f32, IDS).layers == whole.layers


def test_unknown_names_are_refused(f16, f32):
    with pytest.raises(PlanError, match=r"no activation 'layers.9.out'"):
        compare_layers(f16, f32, IDS, ["layers.9.out"])


def test_kernels_against_references(f32, shared, adapter):
    kernels = workbench.load(shared / "models" / "stories260K-hf", backend="wgpu")
    found = compare_layers(kernels, f32, IDS)
    assert len(found.layers) == 78
    assert found.first_beyond(2e-6) is None, str(found)
    assert found.model == "wgpu f32"
