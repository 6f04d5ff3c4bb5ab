"""NaN and infinities in a model: an error that names the activation where they begin, whatever way in was taken."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from workbench.errors import NonFiniteError
from workbench.runtime import finite
from workbench.runtime.sampling import SamplingOptions

from .models import SHAPES, model_on, random_ids, reference_on, write_random

SHAPE = SHAPES[0]  # an LM head of its own: the embedding's NaN comes in by its token alone
TIED = SHAPES[5]
POISONED = 77  # a token whose embedding holds NaN
FIRST = "embedded"


class Edited:
    """A source whose tensors pass through a function: what is stored is finite, what is computed is not."""

    def __init__(self, source, name: str, change):
        self._source, self._name, self._change = source, name, change

    def __getattr__(self, attribute):
        return getattr(self._source, attribute)

    def _changed(self, tensor):
        for values in tensor.planes.values():
            self._change(values)
        return tensor

    def parts(self, name):
        for first, part in self._source.parts(name):
            yield first, self._changed(copied(part)) if name == self._name else part

    def tensor(self, name):
        found = self._source.tensor(name)
        return self._changed(copied(found)) if name == self._name else found


def give(model, source) -> None:
    """Another source of the weights that are read from now on."""
    model.executor.source = model.source = source
    if model.backend == "wgpu":
        model.executor.player.weights.source = source


def copied(tensor):
    import dataclasses

    planes = {name: np.array(values) for name, values in tensor.planes.items()}
    return dataclasses.replace(tensor, planes=planes)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_random(tmp_path_factory.mktemp("finite") / "model", SHAPE)


@pytest.fixture(scope="module")
def checkpoints(checkpoint, tmp_path_factory):
    """Of one file each: a layer whose output overflows f32, as a bad conversion leaves it."""
    folder = write_random(tmp_path_factory.mktemp("finite") / "overflow", SHAPE)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.down_proj.weight"] *= 1e37
    tensors["model.layers.1.post_attention_layernorm.weight"] *= 1e3
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def opened(path, backend, open_promised, **options):
    make = reference_on if backend == "torch" else lambda p, **o: model_on(p, open_promised, **o)
    return make(path, **options)


@pytest.fixture(scope="module", params=["wgpu", "torch"])
def overflowing(request, checkpoints, open_promised):
    return opened(checkpoints, request.param, open_promised)


@pytest.fixture(scope="module", params=["wgpu", "torch"])
def poisoned(request, checkpoint, open_promised):
    """A model that is well until it meets one token."""
    model = opened(checkpoint, request.param, open_promised, max_tokens=320)

    def change(values):
        values.reshape(SHAPE.vocab, -1)[POISONED] = np.nan

    give(model, Edited(model.source, "model.embed_tokens.weight", change))
    return model


@pytest.mark.parametrize("way", ["forward", "score", "session", "all", "greedily", "sampled"])
def test_the_first_activation_is_named(overflowing, way):
    ids = random_ids(SHAPE.vocab, 5)
    session = overflowing.session()
    sampled = SamplingOptions(temperature=1.0, top_k=5)
    run = {
        "forward": lambda: overflowing.forward(ids),
        "score": lambda: overflowing.score(ids),
        "session": lambda: session.feed(ids),
        "all": lambda: list(session.feed_all(ids)),
        "greedily": lambda: list(overflowing.generate_ids(ids, 3)),
        "sampled": lambda: list(overflowing.generate_ids(ids, 3, sampled)),
    }[way]
    with pytest.raises(
        NonFiniteError, match=r"first activation that is not is layers\.1\.mlp\.out: (nan|-?inf) at token"
    ):
        run()
    assert session.position == 0  # nothing was fed
    session.close()


def test_it_may_be_looked_at_all_the_same(overflowing):
    found = overflowing.forward([1, 2, 3], keep=["layers.0.mlp.out"], finite=False)
    assert not np.isfinite(found.logits).all() and np.isfinite(found.kept["layers.0.mlp.out"]).all()


def test_a_token_in_the_middle_of_a_prompt_is_named(poisoned):
    ids = random_ids(POISONED, 300)
    ids[271] = POISONED
    assert np.isfinite(poisoned.forward(ids[:271]).logits).all()
    with pytest.raises(NonFiniteError, match=f"{FIRST}: nan at token 271, column 0"):
        poisoned.score(np.append(ids, 1))
    assert np.isfinite(poisoned.forward(ids[:9]).logits).all()  # and the model goes on


@pytest.mark.parametrize("after", [0, 3])
def test_what_begins_while_writing_is_an_error_too(poisoned, after):
    """Greedy tokens come back without logits; that they ended in NaN shows in the tokens."""
    session = poisoned.session()
    session.feed([1, 2])
    token = 5
    if after:
        token = session.greedy_after(token, after)[-1]
    position = session.position
    with pytest.raises(NonFiniteError, match=f"{FIRST}: nan at token {position}, column 0"):
        session.greedy_after(POISONED, 20)
    assert session.position == position
    with pytest.raises(NonFiniteError, match=f"{FIRST}: nan at token {position}"):
        list(session.stream(POISONED, 2, SamplingOptions(temperature=1.0)))
    assert session.position == position and session.greedy_after(token, 2)
    session.close()


def test_what_begins_in_a_batch_is_an_error_too(poisoned):
    """Of one sequence beside another, which goes on."""
    with contextlib.closing(poisoned.batch(2)) as batch:
        batch.feed({0: [1, 2], 1: [3]})
        with pytest.raises(NonFiniteError, match="sequences 1 are not finite"):
            batch.greedy_after({0: 5, 1: POISONED}, 4)
        assert [batch.length(0), batch.length(1)] == [2, 1]
        with pytest.raises(NonFiniteError, match="sequences 1 are not finite"):
            batch.feed({1: [POISONED]})
        assert len(batch.greedy_after({0: 5}, 4)[0]) == 4


def test_a_model_that_likes_the_token_of_nan_still_writes_it(tmp_path, open_promised):
    """Token 0 is what an argmax makes of NaN, and a word like any other."""
    checkpoint = write_random(tmp_path / "tied", TIED)
    for model in (model_on(checkpoint, open_promised), reference_on(checkpoint)):

        def change(values):
            values[:] = 0  # all logits are equal, and the first one wins

        give(model, Edited(model.source, "model.embed_tokens.weight", change))
        assert list(model.generate_ids([1, 2], 12)) == [finite.TOKEN_OF_NAN] * 12


def test_f16_that_ends_is_told_apart(checkpoints, tmp_path, open_promised):
    tensors = load_file(checkpoints / "model.safetensors")
    tensors["model.layers.1.mlp.down_proj.weight"] /= 1e37
    folder = write_random(tmp_path / "wide", SHAPE)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    model = reference_on(folder, dtype="f16")
    with pytest.raises(NonFiniteError, match=r"layers\.1\.mlp\.\w+: -?inf at .*f16 ends at 65504"):
        model.forward([1, 2, 3])


def test_activations_are_looked_at_in_groups(overflowing, monkeypatch):
    monkeypatch.setattr(finite, "PASS_BYTES", 4 * 3 * 200)
    with pytest.raises(NonFiniteError, match=r"layers\.1\.mlp\.out"):
        overflowing.forward([1, 2, 3])
