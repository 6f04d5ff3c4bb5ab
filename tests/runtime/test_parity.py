"""Logits through WGSL in f32 against transformers in f64 on the same weights, over shapes, lengths and paddings."""

from __future__ import annotations

import numpy as np
import pytest

from .models import (
    SHAPES,
    check_parity,
    model_on,
    random_ids,
    reference_on,
    transformers_logits,
    write_random,
)

LENGTH = 132
#: Lengths run in one step, so that they are padded, to 16, 64 and 256 rows.
PADDED = (5, 37, 130)


@pytest.fixture(scope="module", params=SHAPES, ids=str)
def random_checkpoint(request, tmp_path_factory):
    folder = write_random(tmp_path_factory.mktemp("random") / request.param.name, request.param)
    ids = random_ids(request.param.vocab, LENGTH)
    return folder, ids, transformers_logits(folder, ids)


def padded_logits(model, ids, after: int = 0) -> np.ndarray:
    """Logits of all but the last `after` ids in a single step, padded, and of these one by one behind it."""
    cache = model.executor.new_cache(256)
    try:
        pieces = [ids[: len(ids) - after], *ids[len(ids) - after :].reshape(after, 1)]
        return np.concatenate([model.executor.run("all", piece, cache)["logits"] for piece in pieces])
    finally:
        model.executor.free_cache(cache)


def test_random_checkpoint(random_checkpoint, open_promised, record_property):
    folder, ids, oracle = random_checkpoint
    model = model_on(folder, open_promised)
    # each shape takes one of the paddings; the shared checkpoints below take all of them, and all chunks
    length = PADDED[[shape.name for shape in SHAPES].index(folder.name) % len(PADDED)]
    error = check_parity(padded_logits(model, ids[: length + 2], after=2), oracle[: length + 2])
    record_property("error", error)


def test_references_agree_with_transformers(random_checkpoint, record_property):
    import torch

    folder, ids, oracle = random_checkpoint
    f32 = check_parity(reference_on(folder).forward(ids).logits, oracle)
    # transformers computes its norms and its softmax's input in f32 even when all else is f64
    f64 = check_parity(reference_on(folder, compute=torch.float64).forward(ids).logits, oracle, 5e-6)
    record_property("error", (f32, f64))


@pytest.mark.parametrize(
    "name, subgroups",
    [
        ("stories260K-hf", True),
        ("stories260K-hf", False),
        pytest.param("babyllama105-hf", True, marks=pytest.mark.release),
    ],
)
def test_shared_checkpoint(shared, open_promised, name, subgroups, record_property):
    folder = shared / "models" / name
    model = model_on(folder, lambda: open_promised(subgroups=subgroups))
    ids = random_ids(model.vocab_size, LENGTH, seed=1)
    oracle = transformers_logits(folder, ids)
    # every chunk and every padding; without subgroups compilation takes longest, so some of them
    chunked, padded = ((1, 5, 37, 130), PADDED) if subgroups else ((5,), (37,))
    errors = [check_parity(model.forward(ids[:count]).logits, oracle[:count]) for count in chunked]
    errors += [check_parity(padded_logits(model, ids[:count]), oracle[:count]) for count in padded]
    record_property("error", max(errors))


def test_a_missing_rotation_would_show(random_checkpoint):
    """Positions matter to these weights: a shuffled prefix changes the last logits far beyond the bound."""
    folder, ids, oracle = random_checkpoint
    shuffled = np.append(np.random.default_rng(3).permutation(ids[:-1]), ids[-1])
    other = transformers_logits(folder, shuffled)
    assert np.abs(other[-1] - oracle[-1]).max() > 1e-3 * np.abs(oracle).max()
