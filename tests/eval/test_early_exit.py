"""Early exit: rules, and figures against runs of the model itself."""

from __future__ import annotations

import json

import numpy as np
import pytest

import workbench
from eval.early_exit import Rule, default_depths, early_exits
from eval.statistics import target_nll
from workbench.errors import ProtocolError


@pytest.fixture(scope="module")
def model(shallow):
    return workbench.load(shallow, backend="torch", max_tokens=64)


@pytest.fixture(scope="module")
def texts(model):
    found = ["Once upon a time there was a little dog who liked to run.", "Tom saw a red ball. He was very"]
    return [model.encode_prompt(each) for each in found]


def test_rules_are_sure_by_margin_and_entropy():
    logits = np.log(np.array([0.6, 0.3, 0.1]))
    assert Rule("margin", 0.29).sure(logits) and not Rule("margin", 0.31).sure(logits)
    entropy = -sum(p * np.log(p) for p in (0.6, 0.3, 0.1))
    assert Rule("entropy", entropy + 1e-6).sure(logits) and not Rule("entropy", entropy - 1e-6).sure(logits)
    assert Rule("entropy", 0.0).sure(np.array([0.0, -np.inf]))
    with pytest.raises(ProtocolError, match="a rule is one of margin, entropy, not 'depth'"):
        Rule("depth", 1)
    with pytest.raises(ProtocolError, match="threshold of margin is -1"):
        Rule("margin", -1)


def test_depths_to_look_at_lie_in_the_second_half():
    assert default_depths(2) == [1] and default_depths(8) == [4, 5, 6, 7]
    assert default_depths(30) == [15, 18, 21, 24] and default_depths(3) == [1, 2]


def test_figures_are_those_of_the_model_and_of_what_a_rule_left(model, texts):
    found = early_exits(
        model, texts, [Rule("margin", 1.5), Rule("margin", 0.0), Rule("entropy", 1.0)], [1, 2]
    )
    whole, never, always, some = found.runs
    expected = np.concatenate([model.score(ids).nll for ids in texts])
    np.testing.assert_allclose(whole.nll, expected, atol=1e-4)
    np.testing.assert_allclose(never.nll, expected, atol=1e-4)
    assert never.same.all() and (never.depth == 3).all() and never.kl.max() < 1e-6
    assert (always.depth == 1).all() and always.kl.mean() > some.kl.mean() > 0
    assert {1, 3} <= set(some.depth.tolist()) and found.layers == 3
    rows = found.rows()
    assert [row["exit"] for row in rows] == ["none", "margin ≥ 1.5", "margin ≥ 0", "entropy ≤ 1"]
    assert rows[2]["layers run"] == "33.3%" and rows[2]["left early"] == "100.0%"
    assert len(json.loads(json.dumps(found.to_json()))["runs"]) == 4 and "looks after 1, 2" in str(found)


def test_the_first_tokens_are_spared_and_caches_may_be_whole(model, texts):
    """With whole caches a depth says what the logit lens of one forward pass says, worked out here."""
    always, ids = Rule("margin", 0.0), texts[0]
    spared = early_exits(model, [ids], [always], [1, 2], spared=3).runs[1]
    assert (
        spared.depth.tolist() == [3] * 3 + [1] * (len(ids) - 4)
        and spared.kl[:3].max() < 1e-6 < spared.kl[3:].min()
    )
    found = early_exits(model, [ids], [always], [2], filled=False)
    rows = model.forward(ids[:-1], keep="layers.1.out").kept["layers.1.out"].astype(np.float64)
    normed = rows / np.sqrt((rows**2).mean(-1, keepdims=True) + model.config.norm_eps)
    normed *= model.source.tensor("model.norm.weight").dequantize()
    tied = model.config.tied_embeddings
    head = model.source.tensor("model.embed_tokens.weight" if tied else "lm_head.weight").dequantize()
    expected = target_nll(normed @ head.T.astype(np.float64), np.array(ids[1:]))
    np.testing.assert_allclose(found.runs[1].nll, expected, atol=1e-3)
    assert (found.runs[1].depth == 2).all() and "caches of all layers computed" in found.caption


@pytest.mark.parametrize("ids", [[[5]], [], [[5] * 66]])
def test_texts_that_cannot_be(model, ids):
    with pytest.raises(ProtocolError, match="allowed: 2 to 65"):
        early_exits(model, ids, [])
