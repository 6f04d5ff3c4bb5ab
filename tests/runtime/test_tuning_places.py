"""Where a plan can be lowered in two ways: both run, the faster is remembered, and lowering takes it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import wgsl_kernels
import workbench
from wgsl_kernels.pair import REGISTRY
from workbench.formats.spec import WeightFormat
from workbench.models.families import architecture_of
from workbench.models.specs import described_in
from workbench.runtime.info import describe
from workbench.runtime.native import Recorder
from workbench.runtime.tuning.cases import Case, planned_cases
from workbench.runtime.tuning.duel import Duel, measure_place
from workbench.runtime.tuning.places import CHOICES, PLANNED, REWRITTEN, SIDES, Place, Places
from workbench.runtime.tuning.race import RaceOptions, race
from workbench.runtime.tuning.report import MEASURED, REMEMBERED, SKIPPED
from workbench.runtime.tuning.store import open_store
from workbench.runtime.tuning.tune import tune

from .models import SHAPES, random_ids, write_random
from .test_tuning_store import ENTRY

SHAPE = {
    **{"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "head_dim": 16},
    **{
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 100,
        "vocab_size": 20_000,
    },
}
CAPACITY = 100


@pytest.fixture(scope="module")
def device(open_promised):
    return open_promised()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_random(tmp_path_factory.mktemp("places") / "checkpoint", SHAPES[5])


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_TUNING", str(tmp_path / "tuning"))


def places_of(
    device, cache=None, fmt=None, counts=(4, 1), activations="f32", **shape
) -> dict[tuple[str, int], Place]:
    """Of a small model with a large vocabulary, by rule and tokens; no layer is measured twice."""
    config, places = architecture_of({"model_type": "llama", **SHAPE, **shape}), Places()
    planned = planned_cases(
        config,
        described_in(config.tensors(), fmt or WeightFormat("int4", block_size=32)),
        counts,
        activations=activations,
        cache=cache,
        capacity=CAPACITY,
        adapter=device.adapter,
        binding_bytes=device.binding_bytes,
        steps=16,
        places=places,
    )
    found = {(each.case.kernel, each.case.tokens): each for each in places.found.values()}
    assert len(found) == len(places.found)
    named = {each.case.kernel for each in planned}
    for each in found.values():  # the kernels of both sides are measured
        assert {step.kernel.name for step in each.steps(device.adapter, device.binding_bytes)} <= named
    return found


class Narrow:
    """A device that binds no more than so many bytes."""

    def __init__(self, device, nbytes: int):
        self.device, self.binding_bytes = device, nbytes

    def __getattr__(self, name):
        return getattr(self.device, name)


@pytest.mark.parametrize("cache", [None, "int8"], ids=["float", "int8"])
def test_both_sides_of_every_place_agree(device, cache):
    found = places_of(device, cache)
    assert set(found) >= {("norm_argmax", 1), ("sample_in_parts", 1)}
    check_sides(device, found)


@pytest.mark.parametrize("family, rule", [("llama", ""), ("qwen2", "_bias"), ("qwen3", "_norm")])
def test_both_sides_of_stacked_products_agree(device, family, rule):
    """Of a shape whose matrices are stacked: the planned side reads parts of what the other reads whole."""
    stackable = {"hidden_size": 128, "intermediate_size": 192, "head_dim": 32, "model_type": family}
    for activations in ("f32", "int8"):
        found = places_of(device, "int8", counts=(64,), activations=activations, **stackable)
        assert {(f"stacked_qkv{rule}", 64), ("gate_up", 64)} <= set(found)
        check_sides(device, found)


def check_sides(device, found: dict[tuple[str, int], Place]) -> None:
    """Each place runs both ways, and both give the same numbers."""
    assert {name for name, _ in found} <= {*CHOICES}
    for place in found.values():
        assert Case.named(place.case.name) == place.case
        with Duel(device, place) as duel:
            assert duel.sides[0] == place.usual and duel.disagreement() == ""
            assert [len(each) for each in duel.recorders] == [
                len(place.lowered(side, device.adapter, device.binding_bytes).steps) * duel.copies
                for side in duel.sides
            ]


def test_a_matrix_in_several_bindings_is_given_part_by_part(device):
    place = places_of(device, fmt=WeightFormat("f32"))["norm_argmax", 1]
    narrow = Narrow(device, 1 << 20)
    steps = place.lowered(PLANNED, device.adapter, narrow.binding_bytes).steps
    assert sum(step.rows is not None for step in steps) > 1
    with Duel(narrow, place) as duel:
        assert duel.disagreement() == ""


def test_sides_that_differ_are_not_raced(device, monkeypatch):
    kernel = wgsl_kernels.get("argmax_reduce")
    (name, row), *_ = kernel.variants.items()
    planted = row.body().replace("min(group, GROUPS - 1u)]", "min(group, GROUPS - 1u)] + 1u")
    assert planted != row.body()
    monkeypatch.setitem(REGISTRY, kernel.name, replace(kernel, variants={name: replace(row, text=planted)}))
    outcome = measure_place(places_of(device)["norm_argmax", 1], device, options=RaceOptions(3))
    assert outcome.status == SKIPPED and "the two sides differ by 1 in" in outcome.detail


def test_a_turn_is_the_whole_sequence(device):
    with Duel(device, places_of(device)["norm_argmax", 1]) as duel:
        once = duel.recorders[0]
        five = Recorder(once._keep * 5)
        one, longer = race(device, [once, five], turns=duel.copies, options=RaceOptions(3)).heats
        assert min(longer) > 3 * min(one)


def test_what_was_measured_is_lowered(checkpoint, cache, device):
    """On a software adapter attention of one token is left whole unmeasured; here its parts have won."""
    ids, size = random_ids(SHAPES[5].vocab, 9), {"backend": "wgpu", "max_tokens": 64}
    before = workbench.load(checkpoint, **size)
    expected = before.session().feed(ids)
    report = tune(checkpoint, kernels=["split_attention"], tokens=[1], max_tokens=64, rounds=3)
    (outcome,) = report.outcomes
    assert outcome.status == MEASURED and outcome.entry.variant in SIDES and "split_attention" in str(report)
    assert outcome.entry.default_variant == (PLANNED if device.adapter.is_cpu else REWRITTEN)
    again = tune(checkpoint, kernels=["split_attention"], tokens=[1], max_tokens=64, rounds=3)
    assert [each.status for each in again.outcomes] == [REMEMBERED]

    def ops(side: str, **changes) -> set[str]:
        won = replace(outcome.entry, variant=side, faster=0.5, spread=0.1, created=ENTRY.created, **changes)
        open_store(before.executor.device).add([won])
        model = workbench.load(checkpoint, **size)
        session = model.session()
        session.feed(ids)
        found = session.feed(ids[:1])
        session = before.session()
        session.feed(ids)
        assert np.abs(found - session.feed(ids[:1])).max() <= 1e-5 * np.abs(expected).max()
        steps = model.executor._ready["last", 1, 64, 1, ()].plan.steps
        used = {each["variant"] for each in model.describe_provenance()["tuned"]}
        assert used == ({side} if side in SIDES and not changes else set())
        return {step.kernel.op for step in steps if "attention" in step.kernel.op}

    assert ops(REWRITTEN) == {"attention_split", "attention_reduce"}
    told = describe(checkpoint, **size).variants
    assert [side for rule, _, side in told if rule == "split_attention"] == [REWRITTEN]
    assert ops(PLANNED) == {"attention"}
    usual = ops("neither")
    assert usual == ({"attention"} if device.adapter.is_cpu else {"attention_split", "attention_reduce"})
