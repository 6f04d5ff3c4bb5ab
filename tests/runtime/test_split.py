"""A device runs the first layers and the references the others: what the model gives, whatever is asked of it."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest

import workbench
from workbench.errors import OutOfMemoryError, WorkbenchError
from workbench.runtime import fits
from workbench.runtime.sampling import SamplingOptions

from .models import SHAPES, random_ids, write_random
from .test_ring import off

SHAPE = SHAPES[-1]
IDS = random_ids(SHAPE.vocab, 16, seed=3)

pytestmark = pytest.mark.usefixtures("few_steps")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_random(tmp_path_factory.mktemp("split") / "model", SHAPE)


@pytest.fixture(scope="module")
def split(checkpoint, open_promised):
    return workbench.load(checkpoint, backend="wgpu", max_tokens=64, device_layers=1)


@pytest.fixture(scope="module")
def references(checkpoint):
    return workbench.load(checkpoint, backend="torch", max_tokens=64)


def test_logits_scores_and_activations_of_both_halves(split, references):
    assert split.backend == "split" and "(1 layers)" in split.device_name
    assert ("layers", "1 of 3 on the device", "asked for: the references run the others") in split.choices
    keep = ("layers.0.mlp.out", "layers.0.out", "layers.2.attn.out")
    found, expected = split.forward(IDS, keep), references.forward(IDS, keep)
    assert off(found.logits, expected.logits) < 1e-5
    for name in keep:
        assert off(found.kept[name], expected.kept[name]) < 1e-5
    np.testing.assert_allclose(split.score(IDS).nll, references.score(IDS).nll, atol=1e-4)
    held = {b.name for b in split.executor._front.plan("all").of_kind("cache")}
    assert held == {"layers.0.kv"} and "layers.1.attn.q_proj" not in split.executor._front.plan("all").buffers


def test_edits_of_both_halves(split, references):
    edit = {
        name: lambda x, position: 0.5 * x
        for name in ("layers.0.attn.out", "layers.0.out", "layers.2.mlp.out")
    }
    assert off(split.forward(IDS, edit=edit).logits, references.forward(IDS, edit=edit).logits) < 1e-5


def test_texts_are_those_of_the_model(split, references):
    for options in (SamplingOptions(), SamplingOptions(0.9, top_k=20, seed=5)):
        expected = list(references.generate_ids(IDS, 12, options))
        assert list(split.generate_ids(IDS, 12, options)) == expected
    with closing(split.session()) as session, closing(references.session()) as other:
        for each in (session, other):
            each.feed(IDS)
        streams = [each.stream(5, 6, told=True) for each in (session, other)]
        for one, two in zip(*streams, strict=True):
            assert one.id == two.id and one.log_p == pytest.approx(two.log_p, abs=1e-4)
        session.back(3)
        other.back(3)
        assert off(session.feed([7]), other.feed([7])) < 1e-5


def test_batches_and_copies_between_sequences(split, references):
    with closing(split.batch(2)) as batch, closing(references.batch(2)) as other:
        for each in (batch, other):
            each.feed({0: IDS, 1: IDS[:4]})
            each.copy(0, 1, 10)
        found, expected = batch.feed({0: [3], 1: [3]}), other.feed({0: [3], 1: [3]})
        for n in range(2):
            assert off(found[n], expected[n]) < 1e-5
        assert batch.greedy_after({0: 4, 1: 5}, 3) == other.greedy_after({0: 4, 1: 5}, 3)


def test_a_window_bounds_the_caches_of_both_halves(split, references):
    ids = random_ids(SHAPE.vocab, 330, seed=4)
    models = [each.with_window(8, 2, max_tokens=400) for each in (split, references)]
    with closing(models[0].session()) as session, closing(models[1].session()) as other:
        assert off(session.feed(ids), other.feed(ids)) < 1e-5
        assert session._cache.longest == other._cache.longest
        assert [session._cache.holds(n) for n in (20, 325)] == [False, True]


@pytest.mark.parametrize("layers", [0, 3, True, 1.0])
def test_layers_that_leave_nothing_to_a_half(checkpoint, layers, adapter):
    with pytest.raises(WorkbenchError, match=r"device_layers is .*; allowed: 1 to 2 of the 3 layers"):
        workbench.load(checkpoint, backend="wgpu", device_layers=layers)


def test_what_device_layers_do_not_go_together_with(checkpoint):
    with pytest.raises(WorkbenchError, match="backend torch runs no layer on a device"):
        workbench.load(checkpoint, backend="torch", device_layers=1)


def test_a_model_that_is_too_large_is_refused_with_what_would_fit(checkpoint, adapter, monkeypatch):
    """Each of the remedies is taken, and helps."""

    def load(**options):
        return workbench.load(checkpoint, backend="wgpu", **{"max_tokens": 2048, **options})

    plan = workbench.load(checkpoint, backend="torch").plan("last")
    weights, cache = fits.needed_bytes(plan, 2048)
    monkeypatch.setattr(fits, "free_bytes", lambda device: weights + cache - 1)
    with pytest.raises(OutOfMemoryError) as caught:
        load()
    said = str(caught.value)
    assert f"{weights / 1e6:,.1f} MB" in said and "a cache of 2048 positions" in said
    assert "max_tokens=2047" in said and "cache='int8'" in said and "weights in int2" in said
    assert "device_layers=2 of 3" in said
    load(max_tokens=2047)
    load(cache="int8")
    load(device_layers=2)
    monkeypatch.setattr(fits, "free_bytes", lambda device: 1000)
    with pytest.raises(OutOfMemoryError, match="what would fit: nothing of this model"):
        load()
    monkeypatch.setattr(fits, "free_bytes", lambda device: None)  # where nothing says how much there is
    load()


def test_the_host_says_what_a_software_adapter_has_left(open_promised):
    device = open_promised()
    if not device.adapter.is_cpu or not fits._MEMORY.exists():
        pytest.skip("a software adapter under Linux is asked")
    assert 1 << 26 < (fits.free_bytes(device) or 0) < 1 << 50
