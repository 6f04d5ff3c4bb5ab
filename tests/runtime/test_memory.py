"""Forecasts are what is then allocated; weights arrive whole however a file cuts them into parts."""

from __future__ import annotations

import numpy as np
import pytest

from workbench.convert.convert import convert
from workbench.convert.options import ConvertOptions
from workbench.formats import manifest as rules
from workbench.formats.spec import WeightFormat
from workbench.models import checkpoint as checkpoints
from workbench.models.source import open_source
from workbench.runtime.device import Device, find_adapter
from workbench.runtime.info import forecast
from workbench.runtime.sampling import SamplingOptions

from .models import SHAPES, model_on, random_ids, reference_on, write_random

SHAPE = SHAPES[5]
CAPACITY = 400
EVERY_STEP = 256 + 64 + 16 + 4 + 1


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_random(tmp_path_factory.mktemp("memory") / "model", SHAPE)


@pytest.fixture(scope="module", params=["float", "int4"])
def folder(request, checkpoint, tmp_path_factory):
    if request.param == "float":
        return checkpoint
    target = tmp_path_factory.mktemp("memory") / "int4"
    convert(checkpoint, target, ConvertOptions(WeightFormat("int4"), embedding=WeightFormat("f16")))
    return target


@pytest.mark.parametrize("cache", [None, "int8"])
def test_forecast_is_what_is_allocated(folder, open_promised, cache):
    open_promised()  # skips where there is no adapter
    device = Device(find_adapter(), promised=True)
    assert device.allocated == 0
    ids = random_ids(SHAPE.vocab, EVERY_STEP)
    model = model_on(folder, lambda: device, max_tokens=CAPACITY, cache=cache)
    limits = (device.adapter, device.binding_bytes)
    expected = forecast(model.source, model.config, "f32", CAPACITY, limits, cache)
    session = model.session()
    assert device.allocated == expected.cache
    session.feed(ids)
    session.greedy(5)
    session.back(1)
    for told in (False, True):
        next(session.stream(1, 1, SamplingOptions(temperature=1.0), told=told))
    assert device.allocated == expected.weights + expected.cache + expected.generation
    held = model.executor.uploaded()
    assert held["activations"] == expected.generation
    session.close()
    assert device.allocated == expected.weights + expected.generation

    scoring = model_on(folder, lambda: device, max_tokens=CAPACITY, cache=cache)
    before = device.allocated
    scoring.score(np.append(ids, 0))
    assert device.allocated - before == expected.weights + expected.cache + expected.scoring


def test_parts_of_a_checkpoint(checkpoint, open_promised, monkeypatch):
    """Matrices read in uneven parts, the last of a single row."""
    ids = random_ids(SHAPE.vocab, 3)
    whole = model_on(checkpoint, open_promised).forward(ids).logits
    monkeypatch.setattr(checkpoints, "PART_BYTES", 13 * 4 * SHAPE.hidden)
    parts = [first for first, _ in open_source(checkpoint).parts("model.embed_tokens.weight")]
    assert parts[-1] == SHAPE.vocab - 1 and len(parts) == 11
    assert np.array_equal(model_on(checkpoint, open_promised).forward(ids).logits, whole)


@pytest.mark.parametrize(
    "fmt",
    [
        WeightFormat("int2", block_size=64),  # scales and zero-points of one block a row: 2 bytes and 1 byte
        WeightFormat("int8", "tensor"),
        WeightFormat("int4", block_size=32, symmetric=True),
    ],
    ids=str,
)
def test_parts_of_a_converted_model(checkpoint, open_promised, tmp_path, monkeypatch, fmt):
    ids = random_ids(SHAPE.vocab, 3)
    convert(checkpoint, tmp_path / "whole", ConvertOptions(fmt))
    row_bytes = fmt.padded_columns(SHAPE.hidden) * fmt.bits // 8
    monkeypatch.setattr(rules, "MAX_PLANE", 13 * row_bytes)
    convert(checkpoint, tmp_path / "parts", ConvertOptions(fmt))
    assert len(list(open_source(tmp_path / "parts").parts("model.embed_tokens.weight"))) == 11
    whole = model_on(tmp_path / "whole", open_promised).forward(ids).logits
    assert np.array_equal(model_on(tmp_path / "parts", open_promised).forward(ids).logits, whole)
    assert np.array_equal(
        reference_on(tmp_path / "parts").forward(ids).logits,
        reference_on(tmp_path / "whole").forward(ids).logits,
    )
