"""Allocations: optimal by their table, what they say, what conversions make of them, what they really cost."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

import workbench
from eval import statistics
from tests.precision.conftest import FORMATS, SCHEME
from workbench.convert.convert import convert
from workbench.errors import WorkbenchError
from workbench.formats.reader import StoredModel
from workbench.formats.spec import WeightFormat
from workbench.precision.allocate import Target
from workbench.precision.allocation import Allocation
from workbench.precision.joint import measure_joint

INT4 = FORMATS[2]


@pytest.fixture(scope="module")
def front(table):
    return table.pareto()


@pytest.fixture(scope="module")
def chosen(front) -> Allocation:
    return front.at_bits(5.5)


def test_an_allocation_keeps_its_budget_and_beats_one_format(front):
    uniform = front.uniform(INT4)
    assert set(uniform.formats.values()) == {INT4}
    same_size = front.at(uniform.nbytes)
    assert same_size.nbytes <= uniform.nbytes and same_size.predicted_kl <= uniform.predicted_kl
    as_good = front.at_kl(uniform.predicted_kl)
    assert as_good.predicted_kl <= uniform.predicted_kl and as_good.nbytes <= uniform.nbytes
    assert front.at_bits(uniform.bits_per_weight + 1e-9).nbytes <= uniform.nbytes


def test_one_window_has_no_error_to_show(chosen):
    figures = {"kl": 0.5, "kl_se": math.nan, "tokens": 15, "ln_ratio": 0.1, "ln_ratio_se": math.nan}
    one = dataclasses.replace(chosen, predicted_se=math.nan).with_joint("a text", figures)
    assert "nan" not in str(one) and str(one).count("(one window has no clustered error)") == 3


def test_a_rule_is_no_better_than_the_optimum_of_its_size(front):
    rule = front.by_rule(lambda group: INT4 if ".mlp." in group else FORMATS[1], "attention first")
    assert rule.formats["model.layers.1.mlp.up_proj.weight"] == INT4
    assert rule.formats["lm_head.weight"] == FORMATS[1] and rule.target == "attention first"
    assert front.at(rule.nbytes).predicted_kl <= rule.predicted_kl
    with pytest.raises(WorkbenchError, match="f16 was not measured"):
        front.by_rule(lambda group: WeightFormat("f16"), "none")


def test_the_ends_of_the_front_are_the_extreme_formats(front):
    rows = front.to_rows(7)
    assert len(rows) == 7
    assert [rows[0]["int2/32"], rows[-1]["f32"]] == [10, 10]
    assert rows[-1]["kl"] == 0 and rows[0]["kl"] == pytest.approx(front.kl[0])
    assert np.all(np.diff([row["bytes"] for row in rows]) >= 0)


def test_what_cannot_be_kept_is_an_error(front):
    with pytest.raises(WorkbenchError, match=r"smallest allocation has [\d,]+ bytes .* budget of 1,000"):
        front.at(1000)
    with pytest.raises(WorkbenchError, match="more than -1"):
        front.at_kl(-1)
    with pytest.raises(WorkbenchError, match="int4 was not measured; allowed: f32, int8/32"):
        front.uniform(WeightFormat("int4"))


def test_a_file_comes_back_whole(chosen, tmp_path):
    measured = chosen.with_joint(
        "text", {"kl": 0.1, "kl_se": float("nan"), "ln_ratio": 0.0, "ln_ratio_se": 0.1}
    )
    for each in (chosen, measured):
        each.save(tmp_path / "a.json")
        assert repr(Allocation.load(tmp_path / "a.json")) == repr(each)
    data = json.loads((tmp_path / "a.json").read_text())
    data["assignments"][0]["format"] = "int3"
    (tmp_path / "a.json").write_text(json.dumps(data))
    with pytest.raises(WorkbenchError, match=r"a.json: not an allocation .*int3"):
        Allocation.load(tmp_path / "a.json")
    with pytest.raises(WorkbenchError, match="cannot be read"):
        Allocation.load(tmp_path / "none.json")


def test_a_conversion_follows_it_and_says_why(chosen, checkpoints, tmp_path):
    options = chosen.options(overrides={"layers.0.mlp.down_proj": WeightFormat("f16")})
    summary = convert(checkpoints["untied"], tmp_path / "out", options)
    stored = StoredModel.open(tmp_path / "out")
    precision = stored.manifest["precision"]
    pinned = "model.layers.0.mlp.down_proj.weight"
    for tensor, fmt in chosen.formats.items():
        if tensor != pinned:
            assert stored.describe(tensor)[1] == fmt
            assert precision[tensor]["reason"].startswith("allocated for at most")
            assert "alone costs KL" in precision[tensor]["reason"]
    assert precision[pinned] == {"format": "f16", "reason": "override 'layers.0.mlp.down_proj'"}
    assert len(set(chosen.formats.values())) > 1
    plain = convert(checkpoints["untied"], tmp_path / "plain", chosen.options())
    assert plain.nbytes == chosen.nbytes
    assert summary.nbytes > plain.nbytes


def test_members_of_a_group_share_a_format(chosen):
    formats = chosen.formats
    for layer in range(2):
        parts = [formats[f"model.layers.{layer}.self_attn.{p}_proj.weight"] for p in "qkv"]
        assert len(set(parts)) == 1
        assert len({formats[f"model.layers.{layer}.mlp.{p}_proj.weight"] for p in ("gate", "up")}) == 1


@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf, True, "3"])
@pytest.mark.parametrize("name", ["budget", "bits", "max_kl", "fit_memory"])
def test_a_target_that_is_no_number_above_0_is_refused_before_anything_is_measured(name, value):
    with pytest.raises(WorkbenchError, match=f"allocate: {name} = .*; allowed: a finite number above 0"):
        Target(**{name: value})


def test_another_model_is_refused(chosen, checkpoints):
    chosen.check_source(checkpoints["untied"])
    with pytest.raises(WorkbenchError, match=r"another model: the model does not have 'lm_head.weight'"):
        chosen.check_source(checkpoints["tied"])


def test_the_joint_measurement_is_that_of_the_converted_model(chosen, front, checkpoints, tokens, tmp_path):
    source = checkpoints["untied"]
    models = {"chosen": chosen, "int4": front.uniform(INT4), "float": front.at_kl(0)}
    joint = measure_joint(source, models, tokens, SCHEME)
    convert(source, tmp_path / "out", chosen.options())
    logits = [
        workbench.load(path, backend="torch").forward(tokens.ids[:16]).logits[:-1]
        for path in (tmp_path / "out", source.path)
    ]
    expected = statistics.divergence(*logits, tokens.ids[1:16])
    np.testing.assert_allclose(joint["chosen"].kl[:15], expected.kl, rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(joint["chosen"].nll[:15], expected.nll, rtol=1e-5)
    assert not joint["float"].kl.any()
    figures = joint["chosen"].figures()
    assert figures["tokens"] == 45 and figures["windows"] == 3
    difference = joint["chosen"].kl_against(joint["int4"])
    assert difference.mean == pytest.approx(joint["chosen"].kl.mean() - joint["int4"].kl.mean())
    assert joint["chosen"].nll_against(joint["float"]).mean == pytest.approx(figures["ln_ratio"])
    # Costs add up roughly, as one group's error hardly meets another's.
    assert figures["kl"] == pytest.approx(chosen.predicted_kl, rel=0.5)


def test_pictures_are_pictures(chosen, front):
    from workbench.precision.plots import pareto

    for picture in (chosen.plot(), front.plot(), pareto(front, {"chosen": (5.4, 0.01, 0.001)})):
        assert picture.png().startswith(b"\x89PNG")


def test_it_prints_what_was_asked_for_and_what_came_out(chosen):
    said = str(
        chosen.with_joint(
            "x.txt", {"kl": 0.25, "kl_se": 0.1, "ln_ratio": 0.5, "ln_ratio_se": 0.2, "tokens": 9}
        )
    )
    assert (
        said.startswith("at most ")
        and "predicted KL" in said
        and "measured KL  2.500e-01 ± 1.0e-01 on x.txt" in said
    )
