"""The browser's modules and the native engine on the same tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

import workbench
from tests.runtime.models import random_ids
from workbench.runtime.sampling import SamplingOptions

from .conftest import CAPACITY

#: How far logits of two adapters are apart, over the largest: they add in other orders, which is a few ulps a layer of
#: numbers as large as the logits; of INT8, a quant on the edge between two values may fall to either side.
APART = {"f32": 2e-5, "int8": 5e-3}


def compare(
    folder: Path, play: Callable[[dict], dict], count: int, *, sampled: bool = False, activations: str = "f32"
) -> None:
    """Logits, greedy and, if asked for, sampled tokens of both. play: answers as tests/support/play.js does."""
    model = workbench.load(folder / "model", backend="wgpu", dtype=activations, max_tokens=CAPACITY)
    ids = [int(each) for each in random_ids(model.vocab_size, 15)]
    options = {"temperature": 0.8, "topK": 40, "topP": 0.9, "seed": 7} if sampled else None
    found = play({"ids": ids, "count": count, "options": options, "activations": activations})
    assert "error" not in found and found["bundle"].startswith(f"{activations}-")
    session = model.session()
    expected = session.feed(ids)
    assert np.abs(found["logits"] - expected).max() <= APART[activations] * np.abs(expected).max()
    assert found["tokens"] == session.greedy(count)
    if sampled:
        drawing = model.session()
        drawing.feed(ids[:-1])
        draws = drawing.stream(ids[-1], count, SamplingOptions(temperature=0.8, top_k=40, top_p=0.9, seed=7))
        assert found["drawn"] == [each.id for each in draws]
    assert found["position"] == len(ids) - 1 + count
