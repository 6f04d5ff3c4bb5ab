"""The browser's modules and the native engine on the same tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

import workbench
from tests.runtime.models import random_ids
from workbench.runtime.sampling import SamplingOptions

from .conftest import CAPACITY


def compare(folder: Path, play: Callable[[dict], dict], count: int, *, sampled: bool = False) -> None:
    """Logits, greedy and, if asked for, sampled tokens of both, in f32. play: answers as tests/support/play.js does."""
    model = workbench.load(folder / "model", backend="wgpu", dtype="f32", max_tokens=CAPACITY)
    ids = [int(each) for each in random_ids(model.vocab_size, 15)]
    options = {"temperature": 0.8, "topK": 40, "topP": 0.9, "seed": 7} if sampled else None
    found = play({"ids": ids, "count": count, "options": options})
    assert "error" not in found
    session = model.session()
    expected = session.feed(ids)
    # Two adapters add in other orders: a few ulps a layer of numbers as large as the logits.
    assert np.abs(found["logits"] - expected).max() <= 2e-5 * np.abs(expected).max()
    assert found["tokens"] == session.greedy(count)
    if sampled:
        drawing = model.session()
        drawing.feed(ids[:-1])
        draws = drawing.stream(ids[-1], count, SamplingOptions(temperature=0.8, top_k=40, top_p=0.9, seed=7))
        assert found["drawn"] == [each.id for each in draws]
    assert found["position"] == len(ids) - 1 + count
