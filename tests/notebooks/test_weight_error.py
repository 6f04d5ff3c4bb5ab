"""The error of a matrix against what theory says of it, and the figures made of it."""

from __future__ import annotations

import numpy as np
import pytest

from workbench.formats.spec import WeightFormat
from workbench.studies import plots
from workbench.studies.weight_error import weight_error


@pytest.fixture(scope="module")
def weights() -> np.ndarray:
    return np.random.default_rng(3).normal(0, 0.05, (64, 500)).astype(np.float32)


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_sqnr_is_that_of_uniform_errors(weights, dtype):
    found = weight_error(weights, WeightFormat(dtype))
    assert found.sqnr_db == pytest.approx(found.predicted_db, abs=0.2)
    error = weights.astype(np.float64) - found.tensor.dequantize()
    assert found.sqnr_db == pytest.approx(10 * np.log10(np.sum(np.float64(weights) ** 2) / np.sum(error**2)))


def test_a_bit_is_worth_six_decibels(weights):
    eight, four = (weight_error(weights, WeightFormat(dtype)) for dtype in ("int8", "int4"))
    assert eight.sqnr_db - four.sqnr_db == pytest.approx(20 * np.log10(255 / 15), abs=0.3)


@pytest.mark.parametrize("granularity", ["block", "channel", "tensor"])
def test_every_restored_weight_is_a_level_of_its_block(weights, granularity):
    found = weight_error(weights, WeightFormat("int4", granularity=granularity), "grid")
    block = found.format.blocks(weights.shape[1]) - 1  # the last one, which is padded
    values, levels = found.block(7, block)
    assert len(levels) == 16 and len(values) == weights.shape[1] - block * found.format.block(500)
    restored = found.restored[7, -len(values) :]
    nearest = np.abs(restored[:, None] - levels[None, :]).min(1)
    assert nearest.max() <= 1e-6 * np.abs(levels).max()


def test_blocks_make_up_the_matrix(weights):
    found = weight_error(weights, WeightFormat("int2"))
    blocks = found.block_sqnr_db
    assert blocks.shape == (64, 2)
    signal = np.stack([np.sum(np.float64(part) ** 2, 1) for part in np.split(weights, [256], 1)], 1)
    noise = signal / 10 ** (blocks / 10)
    assert found.sqnr_db == pytest.approx(10 * np.log10(signal.sum() / noise.sum()))


def test_grid_search_is_no_worse(weights):
    rtn, grid = (weight_error(weights, WeightFormat("int2"), method) for method in ("rtn", "grid"))
    assert grid.sqnr_db > rtn.sqnr_db + 1


def test_a_block_of_zeros_has_no_ratio(weights):
    found = weight_error(np.where(np.arange(64)[:, None] == 5, 0, weights), WeightFormat("int8"))
    assert np.isnan(found.block_sqnr_db[5]).all() and np.isfinite(found.sqnr_db)


@pytest.mark.parametrize("granularity", ["block", "tensor"])
def test_pictures_are_pictures(weights, granularity, tmp_path):
    errors = [weight_error(weights, WeightFormat(d, granularity=granularity)) for d in ("int8", "int2")]
    pictures = [
        plots.levels(errors),
        plots.block_errors(errors),
        plots.explained(errors[0]),
        plots.depth({"the stream": [1, 2], "int4 against f16": [0.1, 0.2]}, "ab", {"values": [1, 2]}, "int4"),
    ]
    for index, picture in enumerate(pictures):
        data = picture.png()
        assert data.startswith(b"\x89PNG") and 5_000 < len(data) < 120_000
        picture.save(tmp_path / f"{index}.pdf")
        assert (tmp_path / f"{index}.pdf").read_bytes().startswith(b"%PDF")
