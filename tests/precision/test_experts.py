"""The cost of single experts, against transformers with one expert's matrices replaced."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from eval.statistics import divergence
from eval.texts import Tokens
from tests.models.family_cases import oracle_of, write_family
from tests.runtime.models import random_ids
from workbench.convert.tensors import convert_tensor, quantizer_on
from workbench.errors import WorkbenchError
from workbench.formats.spec import WeightFormat
from workbench.models.source import open_source
from workbench.precision.experts import ExpertSensitivity, expert_sensitivity

IDS = random_ids(259, 2 * 24, seed=2)
FORMATS = [WeightFormat("int4", block_size=32), WeightFormat("int2", block_size=32)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_family(tmp_path_factory.mktemp("experts") / "mixtral", "mixtral")


@pytest.fixture(scope="module")
def found(folder) -> ExpertSensitivity:
    return expert_sensitivity(folder, Tokens(IDS), "disjoint-24", formats=FORMATS)


def logits_of(model) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Logits [n, vocab] of each window, and router logits [layers, n, experts]."""
    logits, routers = [], []
    for ids in IDS.reshape(2, 24):
        with torch.inference_mode():
            out = model(torch.from_numpy(ids[:-1])[None], output_router_logits=True)
        logits.append(out.logits[0].numpy())
        routers.append(np.stack([each.reshape(23, -1).numpy() for each in out.router_logits]))
    return logits, routers


def test_traffic_and_kl_are_those_of_transformers(folder, found):
    model, source = oracle_of(folder), open_source(folder)
    baseline, routers = logits_of(model)
    assert found.experts == [(f"layers.{layer}", index) for layer in range(3) for index in range(4)]
    counts = [
        [np.bincount(np.argsort(-layer, 1)[:, :2].ravel(), minlength=4) for layer in window]
        for window in routers
    ]
    np.testing.assert_array_equal(found.traffic, np.array(counts).reshape(2, 12).T)
    assert found.share.reshape(3, 4).sum(1) == pytest.approx(2)

    layer, index = 1, 2
    experts = model.model.layers[layer].mlp.experts
    own = {"gate_up_proj": experts.gate_up_proj[index].clone(), "down_proj": experts.down_proj[index].clone()}
    for f, fmt in enumerate(FORMATS):
        made = {}
        for part in ("gate", "up", "down"):
            name = f"model.layers.{layer}.block_sparse_moe.experts.{part}_proj.weight"
            tensor = convert_tensor(source, name, fmt, quantizer_on("rtn", "cpu"))
            rows = tensor.shape[0] // 4
            made[part] = torch.from_numpy(tensor.dequantize()[index * rows : (index + 1) * rows])
        with torch.no_grad():
            experts.gate_up_proj[index] = torch.cat((made["gate"], made["up"]))
            experts.down_proj[index] = made["down"]
        changed, _ = logits_of(model)
        targets = [ids[1:] for ids in IDS.reshape(2, 24)]
        kl = [divergence(*each).kl.sum() for each in zip(changed, baseline, targets, strict=True)]
        np.testing.assert_allclose(found.measured.kl_sums[4 * layer + index, f], kl, rtol=1e-3)
        with torch.no_grad():
            experts.gate_up_proj[index], experts.down_proj[index] = own["gate_up_proj"], own["down_proj"]


def test_how_it_shows_itself(found, tmp_path):
    assert len(found.table().rows) == 12 and "rank correlation" in str(found)
    data = found.data()
    assert len(data) == 24 and list(data["traffic"][::2]) == found.share.tolist()
    sums, counts = found.measured.kl_sums.sum(2), found.traffic.sum(1)
    np.testing.assert_allclose(data["kl_routed"].to_numpy().reshape(12, 2), sums / counts[:, None])
    assert found.plot().png().startswith(b"\x89PNG")
    ranked = data[data["format"] == str(FORMATS[1])][["traffic", "kl"]].corr(method="spearman")
    assert found.rank_correlation(FORMATS[1]) == pytest.approx(ranked.loc["traffic", "kl"])
    found.save(tmp_path / "experts.json")
    again = ExpertSensitivity.load(tmp_path / "experts.json")
    assert str(again) == str(found)
    (tmp_path / "experts.json").write_text('{"kind": "other"}')
    with pytest.raises(WorkbenchError, match=r"not a sensitivity of experts .*kind is 'other'"):
        ExpertSensitivity.load(tmp_path / "experts.json")


def test_a_model_without_experts_is_refused(tmp_path):
    with pytest.raises(WorkbenchError, match="has no experts: its plan routes no tokens"):
        expert_sensitivity(write_family(tmp_path / "dense", "mistral"), Tokens(IDS), "disjoint-24")
