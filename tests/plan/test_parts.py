"""Plans in parts: put together they are the plan, and what does not fit is said."""

from __future__ import annotations

import pytest

from tests.runtime.models import SHAPES, write_random
from workbench.models.families import architecture_of
from workbench.models.source import open_source
from workbench.plan.parts import ending, filling, joined, outputs, part
from workbench.plan.plan import PlanError


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    source = open_source(write_random(tmp_path_factory.mktemp("parts") / "model", SHAPES[-1]))
    return architecture_of(source.config).build(source.describe, head="last")


def test_parts_put_together_are_the_plan(plan):
    assert outputs(plan) == [f"layers.{n}.out" for n in range(3)]
    parts = [part(plan, 0, 1), part(plan, 1, 2), part(plan, 2)]
    assert [call for each in parts for call in each.calls] == list(plan.calls)
    assert [each.results for each in parts] == [(), (), plan.results]
    assert parts[1].buffers["layers.0.out"].kind == parts[1].buffers["layers.1.out"].kind == "state"
    assert part(plan, 2, kind="input").buffers["layers.1.out"].kind == "input"
    assert {b.name for b in parts[1].of_kind("cache")} == {"layers.1.kv"}


def test_an_ending_and_a_filling_take_what_a_layer_hands_on(plan):
    says = joined(part(plan, 0, 1), ending(plan, 1))
    assert (
        says.results == plan.results and says.calls[-len(ending(plan, 1).calls)].inputs["x"] == "layers.0.out"
    )
    fills = filling(plan, 1)
    assert {b.name for b in fills.of_kind("cache")} == {"layers.1.kv", "layers.2.kv"}
    read = [name for call in fills.calls for name in call.inputs.values() if name.endswith(".out")]
    assert read == ["layers.0.out"] * 2 and not any(
        "mlp" in str(call) or call.op == "attention" for call in fills.calls
    )
    assert filling(plan, 3).calls == ()


@pytest.mark.parametrize("bounds", [(3, None), (-1, 2), (1, 1), (0, 4)])
def test_layers_that_there_are_not_are_refused(plan, bounds):
    with pytest.raises(PlanError, match="allowed: a part of the 3, one at least"):
        part(plan, *bounds)
