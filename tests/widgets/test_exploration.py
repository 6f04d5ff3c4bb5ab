"""Explorations against the plain computation on the whole matrix."""

from __future__ import annotations

import numpy as np
import pytest

from workbench.assets import demo_model_path
from workbench.errors import WorkbenchError
from workbench.formats.spec import WeightFormat
from workbench.studies.exploration import explore, first_look, pooled
from workbench.studies.matrices import Matrices
from workbench.studies.weight_error import weight_error

FORMATS = [
    WeightFormat("int4"),
    WeightFormat("int2", block_size=64, symmetric=True),
    WeightFormat("int8", granularity="channel"),
    WeightFormat("int4", granularity="tensor"),
]


@pytest.fixture(scope="module")
def weights() -> np.ndarray:
    """Rows of very different sizes; 1,200 columns, no multiple of a block."""
    generator = np.random.default_rng(4)
    rows = generator.standard_normal((1500, 1200), np.float32)
    return rows * generator.uniform(0.01, 0.1, (1500, 1)).astype(np.float32)


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_all_rows_give_what_one_piece_gives(weights, format):
    found, error = explore(weights, format), weight_error(weights, format)
    assert not found.sampled and found.sqnr_se == 0
    assert found.sqnr_db == pytest.approx(error.sqnr_db, abs=1e-3)
    assert np.allclose(found.block_sqnr_db, error.block_sqnr_db, atol=1e-3)
    shape = error.block_sqnr_db.shape
    assert np.array_equal(found.scales, np.broadcast_to(error.tensor.planes["scales"], shape))
    assert np.array_equal(found.zeros, np.broadcast_to(error.tensor.zero_points(), shape))


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_a_sample_is_within_its_error(weights, format):
    whole = explore(weights, format).sqnr_db
    found = [first_look(np.roll(weights, shift, 0), format, count=1 << 16) for shift in (0, 11, 27, 40)]
    assert all(each.sampled for each in found)
    off = np.array([(each.sqnr_db - whole) / each.sqnr_se for each in found])
    assert np.abs(off).max() < 4.5
    assert 0.005 < found[0].sqnr_se < 0.5


def test_one_scale_for_all_is_the_same_in_a_sample(weights):
    format = WeightFormat("int8", granularity="tensor")
    assert first_look(weights, format).scales[0, 0] == explore(weights, format).scales[0, 0]


def test_worst_blocks_and_map(weights):
    found = explore(weights, WeightFormat("int4"))
    db = found.block_sqnr_db
    worst = found.worst(5)
    assert [each.sqnr_db for each in worst] == pytest.approx(np.sort(db, axis=None)[:5])
    assert db[worst[0].row, worst[0].block] == db.min()
    assert found.error_map(10_000, 10_000) == pytest.approx(db)
    small = found.error_map(30, 4)
    assert small.shape == (30, 4)
    power = found.signal[:50, :2].sum() / found.noise[:50, :2].sum()
    assert small[0, 0] == pytest.approx(10 * np.log10(power), abs=1e-3)


def test_pooling_keeps_the_sum():
    plane = np.arange(35, dtype=np.float64).reshape(5, 7)
    assert pooled(plane, 2, 3).sum() == plane.sum()
    assert pooled(plane, 9, 9) is plane


def test_zeros_have_no_sqnr():
    weights = np.zeros((8, 64), np.float32)
    weights[3] = 1.0
    found = explore(weights, WeightFormat("int4", block_size=32))
    assert np.isnan(found.block_sqnr_db[0]).all()
    assert found.worst(100) == [] or all(each.row == 3 for each in found.worst(100))


def test_it_ends_when_asked_to(weights):
    asked = []
    assert (
        explore(weights, WeightFormat("int4"), progress=lambda share: asked.append(share) or len(asked) < 3)
        is None
    )
    assert asked == sorted(asked) and asked[0] == 0


def test_matrices_of_a_checkpoint(int4):
    found = Matrices(demo_model_path())
    place = found.places["model.layers.3.mlp.down_proj.weight"]
    assert (place.layer, place.kind, place.shape) == (3, "down_proj", (256, 768))
    assert found.places["model.embed_tokens.weight"].layer is None
    whole = found.weights(place.name)
    part = found.glimpse(place.name, 16 * 768)
    assert part.shape == (16, 768) and all((whole == row).all(1).any() for row in part)
    with pytest.raises(WorkbenchError, match="no matrix"):
        found.weights("nothing")
    with pytest.raises(WorkbenchError, match="checkpoint that was quantized"):
        Matrices(int4)
    with pytest.raises(WorkbenchError, match="this mapping"):
        Matrices({"vector": np.zeros(3)})


@pytest.mark.parametrize("granularity", ["block", "channel", "tensor"])
def test_a_block_that_is_filled_in_part_has_the_rms_of_its_own_weights(granularity):
    """40 columns in blocks of 32, or in a row that is padded to 64: the padding is no weight."""
    weights = np.random.default_rng(6).standard_normal((16, 40), np.float32)
    weights[5, 32:] *= 0.01  # a last block with an SQNR that is worst of all
    weights[5, 35] = 0.5
    size = {"block_size": 32} if granularity == "block" else {}
    format = WeightFormat("int2", granularity=granularity, **size)
    found = explore(weights, format)
    worst = found.worst(found.signal.size)
    assert len(worst) == found.signal.size
    for block in worst:
        values = weights[block.row, 32 * block.block :][: 32 if granularity == "block" else 40].astype(
            np.float64
        )
        assert block.crest == pytest.approx(np.abs(values).max() / np.sqrt(np.mean(values**2)), rel=1e-5)
    error = weight_error(weights, format)
    steps = np.repeat(np.broadcast_to(error.tensor.planes["scales"], found.signal.shape), 64, 1)
    steps = (
        steps[:, :40] if granularity != "block" else np.repeat(error.tensor.planes["scales"], 32, 1)[:, :40]
    )
    noise = np.sum(steps.astype(np.float64) ** 2 / 12)
    assert error.predicted_db == pytest.approx(10 * np.log10(np.sum(weights.astype(np.float64) ** 2) / noise))
