"""Grid search: against a slow search written from the formulas, and never worse than round to nearest."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.quantizers.test_rtn import FORMATS
from workbench.formats.spec import WeightFormat
from workbench.formats.tensor import quantized_tensor
from workbench.quantizers import QUANTIZERS, grid, rtn


def squared_error(weights, format, quantized, importance=None) -> float:
    result = quantized_tensor("w", weights.shape, format, *quantized).dequantize().astype(np.float64)
    squared = (result - weights) ** 2
    return float((squared if importance is None else squared * importance).sum())


@st.composite
def cases(draw):
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 140)))
    elements = draw(st.sampled_from([st.floats(-8, 8, width=32), st.floats(0.5, 1, width=32), st.just(0.25)]))
    weights = draw(hnp.arrays(np.float32, shape, elements=elements))
    if draw(st.booleans()):
        return weights, None
    return weights, draw(hnp.arrays(np.float64, shape[1:], elements=st.floats(0, 1e6)))


@pytest.mark.parametrize("format", FORMATS, ids=str)
@settings(max_examples=15, deadline=None)
@given(case=cases())
def test_never_worse_than_round_to_nearest(format, case):
    weights, importance = case
    ours = squared_error(weights, format, grid.quantize(weights, format, importance), importance)
    theirs = squared_error(weights, format, rtn.quantize(weights, format), importance)
    # w / s is rounded to float32: an error of 1e-7 of a weight is not seen by the search.
    unseen = ((1e-6 * weights.astype(np.float64)) ** 2 * (1 if importance is None else importance)).sum()
    assert ours <= theirs * (1 + 1e-5) + unseen


def search_slowly(w, h, format):
    """The search of one block in float64, for integer zero-points, as the head of the module says it."""
    low, high = format.q_range
    rounded = lambda s: max(float(np.float16(s)), 2.0**-14)  # noqa: E731

    def error(s, z):
        q = np.clip(np.rint(w / s) + z, low, high)
        return float((h * (s * (q - z) - w) ** 2).sum()), q

    lo, hi = min(0.0, w.min()), max(0.0, w.max())
    best = None
    for p in np.arange(100, 20, -1) / 100:
        if format.symmetric:
            z = format.implied_zero
            s = rounded(p * max(hi / (high - z), -lo / (z - low)))
            tries = [(s, z)]
        else:
            s = rounded(p * (hi - lo) / (high - low))
            tries = [(s, min(max(end(low - p * lo / s), low), high)) for end in (np.floor, np.ceil)]
        for s, z in tries:
            if best is None or error(s, z)[0] < best[0]:
                best = (error(s, z)[0], s, z)
    for _ in range(4):
        _, q = error(*best[1:])
        start = best[2]
        for delta in (0,) if format.symmetric else (0, -1, 1):
            c = q - (start + delta)
            if (h * c * c).sum() == 0 or (h * w * c).sum() <= 0:
                continue
            s, z = rounded((h * w * c).sum() / (h * c * c).sum()), min(max(start + delta, low), high)
            if error(s, z)[0] < best[0]:
                best = (error(s, z)[0], s, z)
    return best


@pytest.mark.parametrize(
    "format",
    [
        WeightFormat("int4", block_size=64),
        WeightFormat("int2", block_size=64),
        WeightFormat("int8", block_size=32),
        WeightFormat("int4", block_size=32, symmetric=True),
        WeightFormat("int4", "channel"),
        WeightFormat("int2", "tensor"),
    ],
    ids=str,
)
@pytest.mark.parametrize("weighted", [False, True])
def test_the_search_finds_what_a_slow_one_finds(format, weighted):
    rng = np.random.default_rng(3)
    weights = (rng.standard_t(4, (5, 150)) / 7).astype(np.float32)
    importance = rng.uniform(0, 2, 150) if weighted else None
    quantized = grid.quantize(weights, format, importance)
    block, h = format.block(150), np.ones(150) if importance is None else importance
    if format.granularity == "tensor":
        groups = [(weights.ravel(), np.tile(h, 5))]
    else:
        groups = [
            (row[at : at + block], h[at : at + block]) for row in weights for at in range(0, 150, block)
        ]
    expected = sum(search_slowly(w.astype(np.float64), each, format)[0] for w, each in groups)
    # The paths may part where two candidates are equal to float32's precision; the result may not.
    assert squared_error(weights, format, quantized, importance) == pytest.approx(expected, rel=2e-3)


def test_errors_of_the_published_order():
    """Heavy tails at INT2: the search removes 40% of the error, a fractional zero-point more."""
    weights = np.random.default_rng(0).standard_t(4, (64, 1024)).astype(np.float32)
    plain = squared_error(weights, WeightFormat("int2"), rtn.quantize(weights, WeightFormat("int2")))
    searched = squared_error(weights, WeightFormat("int2"), grid.quantize(weights, WeightFormat("int2")))
    fine = WeightFormat("int2", zero_frac_bits=5)
    fractional = squared_error(weights, fine, grid.quantize(weights, fine))
    assert fractional < 0.98 * searched < 0.98 * 0.6 * plain


def test_importance_moves_the_error_to_where_it_matters_less():
    rng = np.random.default_rng(1)
    weights, importance = rng.standard_normal((32, 512)).astype(np.float32), rng.uniform(0, 1, 512) ** 4
    format = WeightFormat("int2", block_size=128)
    blind, seeing = grid.quantize(weights, format), grid.quantize(weights, format, importance)
    least, other = (squared_error(weights, format, each, importance) for each in (seeing, blind))
    assert least < 0.97 * other
    assert squared_error(weights, format, seeing) > squared_error(weights, format, blind)
    scaled = grid.quantize(weights, format, importance * 1e30)
    np.testing.assert_array_equal(scaled.q, seeing.q)  # only the ratios count


@pytest.mark.parametrize("format", [WeightFormat("int4"), WeightFormat("int2", zero_frac_bits=5)], ids=str)
def test_padding_does_not_matter(format):
    weights = np.random.default_rng(2).standard_normal((9, 200)).astype(np.float32)
    q, scales, zeros = grid.quantize(weights, format)
    low, high = format.q_range
    expected = np.clip(np.rint(zeros[:, -1:] / 2**format.zero_frac_bits), low, high)
    assert (q[:, 200:] == expected).all()
    # Padding counts nothing: an importance of 1, which it does not get, makes no difference.
    for ours, counted in zip((q, scales, zeros), grid.quantize(weights, format, np.ones(200)), strict=True):
        np.testing.assert_array_equal(ours, counted)
    # The last block of 200 columns is that of its own columns alone.
    start = 200 // format.block(200) * format.block(200)
    alone = grid.quantize(weights[:, start:], format)
    np.testing.assert_array_equal(scales[:, -1:], alone.scales)
    np.testing.assert_array_equal(zeros[:, -1:], alone.zeros)


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_blocks_of_zeros_and_of_no_importance(format):
    weights = np.zeros((3, 100), np.float32)
    tensor = quantized_tensor("w", weights.shape, format, *grid.quantize(weights, format))
    np.testing.assert_array_equal(tensor.dequantize(), 0)
    weights = np.random.default_rng(0).standard_normal((3, 600)).astype(np.float32)
    dead = np.ones(600)
    dead[:300] = 0
    result = quantized_tensor("w", weights.shape, format, *grid.quantize(weights, format, dead)).dequantize()
    assert np.isfinite(result).all()
    plain = rtn.quantize(weights, format)
    np.testing.assert_array_equal(grid.quantize(weights, format, dead * 0).q.shape, plain.q.shape)


def test_a_large_matrix_is_the_same_as_its_rows():
    """Chunks and threads change nothing."""
    weights = np.random.default_rng(5).standard_normal((300, 1000)).astype(np.float32)
    format = WeightFormat("int2", block_size=32)
    whole = grid.quantize(weights, format)
    for row in (0, 64, 65, 131, 299):
        alone = grid.quantize(weights[row : row + 1], format)
        np.testing.assert_array_equal(whole.q[row], alone.q[0])
        np.testing.assert_array_equal(whole.scales[row], alone.scales[0])


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_blocks_that_are_dropped_could_not_improve(monkeypatch, format):
    weights = np.concatenate(
        [np.random.default_rng(6).standard_t(4, (12, 300)), np.random.default_rng(7).uniform(-1, 2, (4, 300))]
    ).astype(np.float32)
    for importance in (None, np.random.default_rng(8).uniform(0, 1, 300) ** 4):
        monkeypatch.setattr(grid, "LOOK", 1)
        looking = grid.quantize(weights, format, importance)
        monkeypatch.setattr(grid, "LOOK", 1000)
        for ours, theirs in zip(looking, grid.quantize(weights, format, importance), strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("device", ["cpu:0", "cuda"])  # by its index, the CPU is torch's
@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_torch_finds_what_numpy_finds(device, format):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    weights = (np.random.default_rng(9).standard_t(4, (12, 300)) / 7).astype(np.float32)
    for importance in (None, np.random.default_rng(8).uniform(0, 1, 300)):
        ours, theirs = (grid.quantize(weights, format, importance, device=each) for each in (device, "cpu"))
        error, other = (squared_error(weights, format, each, importance) for each in (ours, theirs))
        # Sums that differ in the last place may choose another of two candidates that are as good.
        assert error == pytest.approx(other, rel=1e-4)
        assert (ours.q == theirs.q).mean() > 0.99


def test_the_weighted_grid_needs_its_importance():
    weights, importance = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32), np.arange(64)
    format = WeightFormat("int2", block_size=32)
    ours = QUANTIZERS["grid-importance"].quantize(weights, format, importance)
    np.testing.assert_array_equal(ours.q, grid.quantize(weights, format, importance).q)
    with pytest.raises(ValueError, match="needs the importance"):
        QUANTIZERS["grid-importance"].quantize(weights, format, None)


@pytest.mark.parametrize(
    ("importance", "complaint"),
    [
        (np.ones(63), r"shape \[63\].*64 columns"),
        (np.full(64, -1.0), r"importance\[0\] is -1"),
        (np.r_[np.ones(63), np.nan], r"importance\[63\] is nan"),
    ],
)
def test_unsuitable_importance_is_refused(importance, complaint):
    with pytest.raises(ValueError, match=complaint):
        grid.quantize(np.ones((2, 64), np.float32), WeightFormat("int4"), importance)
