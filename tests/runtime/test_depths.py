"""A model that stops after some of its layers: its parts give what the whole gives, and fill caches as they say."""

from __future__ import annotations

from contextlib import closing

import pytest

import workbench
from workbench.errors import WorkbenchError
from workbench.runtime.depths import Depths

from .models import SHAPES, model_on, random_ids, reference_on, write_random
from .test_ring import off

SHAPE = SHAPES[-1]
IDS = random_ids(SHAPE.vocab, 6, seed=2).tolist()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_random(tmp_path_factory.mktemp("depths") / "model", SHAPE)


@pytest.fixture(scope="module", params=["torch", "wgpu"])
def model(request, checkpoint, open_promised):
    if request.param == "torch":
        return reference_on(checkpoint, max_tokens=16)
    return model_on(checkpoint, open_promised, max_tokens=16)


def test_all_depths_of_a_token_are_the_model(model, checkpoint):
    expected = reference_on(checkpoint, max_tokens=16).forward(IDS).logits
    with closing(Depths(model, [1, 2], 16)) as at:
        for token, logits in zip(IDS[:3], expected, strict=False):
            at.begin(token)
            found = [at.deepen() for _ in range(3)]
            at.leave()
            assert [depth for depth, _ in found] == [1, 2, 3]
            assert off(found[-1][1], logits) < 1e-5 and off(found[0][1], logits) > 1e-2
        for token, logits in zip(IDS[3:], expected[3:], strict=True):
            assert off(at.whole(token), logits) < 1e-5


def test_who_leaves_early_says_what_a_shallower_model_says_and_fills_what_follows(model, checkpoint):
    """Against an edit of the whole model in f64: the layers that did not run are handed what the last one that did has
    come to, and nothing of what they would have added."""
    oracle = reference_on(checkpoint, max_tokens=16)
    left, rest = IDS[:4], IDS[4:]
    zero = {}
    for layer in (1, 2):
        for part in ("attn", "mlp"):

            def nothing(x, position):
                x = x.copy()
                x[: max(0, len(left) - position)] = 0
                return x

            zero[f"layers.{layer}.{part}.out"] = nothing
    expected = oracle.forward(IDS, edit=zero).logits
    with closing(Depths(model, [1, 2], 16)) as at:
        for n, token in enumerate(left):
            at.begin(token)
            depth, logits = at.deepen()
            at.leave()
            assert depth == 1 and off(logits, expected[n]) < 1e-5
        for n, token in enumerate(rest):
            assert off(at.whole(token), expected[len(left) + n]) < 1e-5
        at.reset()
        assert off(at.whole(IDS[0]), oracle.forward(IDS[:1]).logits[0]) < 1e-5


@pytest.mark.parametrize("depths", [[], [0], [3], [2, 1], [1, 1]])
def test_depths_that_are_none(model, depths):
    with pytest.raises(WorkbenchError, match="allowed: of 1 to 2 layers, in ascending order"):
        Depths(model, depths, 8)


def test_a_model_that_is_split_anyway_is_refused(checkpoint, adapter):
    model = workbench.load(checkpoint, backend="wgpu", max_tokens=16, device_layers=1)
    with pytest.raises(WorkbenchError, match="backend split cannot stop after a layer; allowed: wgpu, torch"):
        Depths(model, [1], 8)


def test_the_cache_is_given_back(model):
    at = Depths(model, [1], 8)
    at.close()
    with pytest.raises(WorkbenchError, match="given back"):
        at.whole(1)
