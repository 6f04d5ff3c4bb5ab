"""Half-quadratic quantization: against a slow loop written from the formulas, and its invariants."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.quantizers.test_rtn import FORMATS as ALL_FORMATS
from workbench.formats.spec import WeightFormat
from workbench.formats.tensor import quantized_tensor
from workbench.quantizers import QUANTIZERS, hqq, rtn

FORMATS = [format for format in ALL_FORMATS if not format.symmetric] + [
    WeightFormat("int4", "channel", zero_frac_bits=3)
]
FRACTIONAL = [WeightFormat("int4", zero_frac_bits=3), WeightFormat("int2", zero_frac_bits=5)]


def criterion(weights, format, quantized) -> float:
    """sum |w_hat - w|^0.7 of what is stored."""
    result = quantized_tensor("w", weights.shape, format, *quantized).dequantize().astype(np.float64)
    return float((np.abs(result - weights) ** 0.7).sum())


def heavy_tailed(*shape, seed=0):
    return (np.random.default_rng(seed).standard_t(4, shape) / 7).astype(np.float32)


@st.composite
def cases(draw):
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 140)))
    elements = draw(st.sampled_from([st.floats(-8, 8, width=32), st.floats(0.5, 1, width=32), st.just(0.25)]))
    return draw(hnp.arrays(np.float32, shape, elements=elements))


@pytest.mark.parametrize("format", FORMATS, ids=str)
@settings(max_examples=15, deadline=None)
@given(weights=cases())
def test_never_worse_than_round_to_nearest_and_of_the_same_scale(format, weights):
    ours, theirs = hqq.quantize(weights, format), rtn.quantize(weights, format)
    np.testing.assert_array_equal(ours.scales, theirs.scales)
    assert ours.q.shape == theirs.q.shape and ours.q.dtype == theirs.q.dtype
    low, high = format.zero_range
    assert ours.zeros.dtype == np.int8 and (ours.zeros >= low).all() and (ours.zeros <= high).all()
    # w / s is rounded to float32: an error of 1e-7 of a weight is not seen by the search.
    unseen = ((1e-6 * np.abs(weights.astype(np.float64))) ** 0.7).sum()
    assert criterion(weights, format, ours) <= criterion(weights, format, theirs) * (1 + 1e-5) + unseen


def search_slowly(w, s, z, format, beta, kappa):
    """The stored zero-point of one block, weight by weight, as the head of the module says it.

    Elements are float32, as they are in the module: whether a residual falls on this side of half a step or
    on the other is part of the method. w, s and the zero-point z of round to nearest are float32.
    """
    f32, unit = np.float32, 2**format.zero_frac_bits
    low, high = format.q_range
    lowest, highest = (end / unit for end in format.zero_range)

    def residual(each, z, fraction):
        q = np.rint(each / s + z) if fraction else np.rint(each / s) + z
        q = f32(min(max(q, low), high))
        return each / s - (q - z), q

    def lp(z):
        return sum(float(abs(residual(each, z, unit > 1)[0])) ** 0.7 for each in w)

    best = (lp(z), z)
    integer = f32(min(max(np.rint(low - min(0, w.min()) / s), low), high))
    if unit > 1 and lp(integer) < best[0]:
        best = (lp(integer), integer)
    least = np.inf
    for _ in range(20):
        error = total = 0.0
        for each in w:
            d, q = residual(each, z, True)
            error += abs(float(d))
            shrunk = max(abs(float(d)) - abs(float(d)) ** -0.3 / beta, 0) * np.sign(float(d)) if d else 0.0
            total += float(q) - (float(each) / float(s) - shrunk)
        if not error < least - 1e-9:
            break
        least = error
        z = f32(min(max(total / len(w), lowest), highest))
        stored = f32(min(max(np.rint(z * unit), lowest * unit), highest * unit) / unit)
        if lp(stored) < best[0]:
            best = (lp(stored), stored)
        beta *= kappa
    return best


@pytest.mark.parametrize(
    "format",
    [
        WeightFormat("int8", block_size=64),
        WeightFormat("int4", block_size=64),
        WeightFormat("int4", block_size=64, zero_frac_bits=3),
        WeightFormat("int2", block_size=64, zero_frac_bits=5),
        WeightFormat("int2", "channel", scale_dtype="f32", zero_frac_bits=5),
        WeightFormat("int4", "tensor", zero_frac_bits=3),
    ],
    ids=str,
)
@pytest.mark.parametrize(("beta", "kappa"), [(hqq.BETA, hqq.KAPPA), (5.0, 1.1)])
def test_every_block_is_that_of_a_slow_loop(monkeypatch, format, beta, kappa):
    """150 columns are no multiple of a block: the padding must not take part. A beta of 5 shrinks residuals
    within the range, too, which 1 leaves alone.
    """
    monkeypatch.setattr(hqq, "BETA", beta)
    monkeypatch.setattr(hqq, "KAPPA", kappa)
    weights = heavy_tailed(5, 150, seed=3)
    found, start = hqq.quantize(weights, format), rtn.quantize(weights, format)
    unit = np.float32(2**format.zero_frac_bits)
    if format.granularity == "tensor":
        groups = {(0, 0): weights.ravel()}
    else:
        size = format.block(150)
        groups = {
            (row, at // size): weights[row, at : at + size] for row in range(5) for at in range(0, 150, size)
        }
    total = 0.0
    for at, w in groups.items():
        scale = np.float32(start.scales[at])
        value, zero = search_slowly(w, scale, np.float32(start.zeros[at]) / unit, format, beta, kappa)
        assert found.zeros[at] == zero * unit
        total += value * float(scale) ** 0.7
    assert criterion(weights, format, found) == pytest.approx(total, rel=1e-4)


def test_the_shrinkage():
    x = np.array([[-3, -0.9, -0.5, 0], [0.5, 0.9, 1.5, 40]], np.float32)
    assert not hqq.shrink(x, 0.005).any()
    for beta in (1.0, 1.2, 5.0):
        exact = x.astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            exact = np.sign(exact) * np.maximum(np.abs(exact) - np.abs(exact) ** -0.3 / beta, 0)
        np.testing.assert_allclose(hqq.shrink(x, beta), np.nan_to_num(exact), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("integer", "fraction", "nearest", "below"),
    [
        # Measured: 0.969 of round to nearest with the same fraction, 0.962 of integer zero-points.
        (WeightFormat("int4"), WeightFormat("int4", zero_frac_bits=3), 0.98, 0.97),
        # 0.81 and 0.996: a fraction moves the many weights near 0 away from a level, which is why round to
        # nearest is worse with a fraction than without.
        (WeightFormat("int2"), WeightFormat("int2", zero_frac_bits=5), 0.83, 0.998),
    ],
    ids=["int4", "int2"],
)
def test_a_fraction_is_what_pays(integer, fraction, nearest, below):
    """The l_0.7 criterion on heavy tails. Integer zero-points of long blocks do not move at all."""
    weights = heavy_tailed(64, 1024)
    whole, fine, rounded = (
        criterion(weights, format, method.quantize(weights, format))
        for method, format in ((hqq, integer), (hqq, fraction), (rtn, fraction))
    )
    np.testing.assert_array_equal(hqq.quantize(weights, integer).zeros, rtn.quantize(weights, integer).zeros)
    assert fine < nearest * rounded
    assert fine < below * whole


@pytest.mark.parametrize("format", [f for f in FORMATS if f.zero_frac_bits], ids=str)
@settings(max_examples=15, deadline=None)
@given(weights=cases())
def test_a_fraction_is_never_worse_than_round_to_nearest_without(format, weights):
    whole = replace(format, zero_frac_bits=0)
    ours = criterion(weights, format, hqq.quantize(weights, format))
    theirs = criterion(weights, whole, rtn.quantize(weights, whole))
    unseen = ((1e-6 * np.abs(weights.astype(np.float64))) ** 0.7).sum()
    assert ours <= theirs * (1 + 1e-5) + unseen


@pytest.mark.parametrize("format", FRACTIONAL, ids=str)
def test_only_ratios_count(format):
    weights = heavy_tailed(8, 512)
    ours, doubled = hqq.quantize(weights, format), hqq.quantize(weights * 64, format)
    np.testing.assert_array_equal(ours.q, doubled.q)
    np.testing.assert_array_equal(ours.zeros, doubled.zeros)


def test_a_zero_point_may_leave_the_range_of_q():
    """Nothing that is stored may leave int8: [-4, 3.97] with 5 bits."""
    weights = np.zeros((400, 32), np.float32)
    weights[:] = np.random.default_rng(1).exponential(1, weights.shape) ** 3
    weights[200:] *= -1
    format = WeightFormat("int2", block_size=32, zero_frac_bits=5)
    zeros = hqq.quantize(weights, format).zeros / 32
    assert zeros.min() < 0 and zeros.max() > 3
    rtn_zeros = rtn.quantize(weights, format).zeros / 32
    assert rtn_zeros.min() == 0 and rtn_zeros.max() == 3


@pytest.mark.parametrize("format", [WeightFormat("int4"), *FRACTIONAL], ids=str)
@pytest.mark.parametrize("columns", [1, 33, 200, 257])
def test_padding_does_not_matter(format, columns):
    weights = heavy_tailed(9, columns, seed=2)
    q, scales, zeros = hqq.quantize(weights, format)
    low, high = format.q_range
    expected = np.clip(np.rint(zeros[:, -1:] / 2**format.zero_frac_bits), low, high)
    assert (q[:, columns:] == expected).all()
    # The last block is that of its own columns alone.
    start = (columns - 1) // format.block(columns) * format.block(columns)
    alone = hqq.quantize(weights[:, start:], format)
    np.testing.assert_array_equal(scales[:, -1:], alone.scales)
    np.testing.assert_array_equal(zeros[:, -1:], alone.zeros)


@pytest.mark.parametrize("format", [f for f in FORMATS if not f.zero_frac_bits], ids=str)
@pytest.mark.parametrize("value", [0.0, 0.375, -2.0])
def test_constant_blocks_are_kept(format, value):
    weights = np.full((3, 100), value, np.float32)
    result = quantized_tensor("w", weights.shape, format, *hqq.quantize(weights, format)).dequantize()
    np.testing.assert_allclose(result, weights, rtol=2**-11, atol=0)


@pytest.mark.parametrize("format", [f for f in FORMATS if f.zero_frac_bits], ids=str)
@pytest.mark.parametrize("value", [0.0, 0.375, -2.0])
def test_constant_blocks_are_kept_by_fractions(format, value):
    """The scale is value / high rounded to f16, and a fraction can only make up for that rounding."""
    weights = np.full((3, 100), value, np.float32)
    result = quantized_tensor("w", weights.shape, format, *hqq.quantize(weights, format)).dequantize()
    np.testing.assert_allclose(result, weights, rtol=2**-11, atol=0)


@pytest.mark.parametrize(
    "format", [WeightFormat("int2", block_size=32, zero_frac_bits=5), FORMATS[-1]], ids=str
)
def test_a_large_matrix_is_the_same_as_its_rows(format):
    """Chunks, threads and the blocks that stop earlier change nothing."""
    weights = heavy_tailed(300, 1000, seed=5)
    whole = hqq.quantize(weights, format)
    for row in (0, 64, 65, 131, 299):
        alone = hqq.quantize(weights[row : row + 1], format)
        np.testing.assert_array_equal(whole.q[row], alone.q[0])
        np.testing.assert_array_equal(whole.zeros[row], alone.zeros[0])


def test_a_matrix_as_one_block_is_the_same_as_one_row():
    weights = heavy_tailed(96, 1024, seed=6)  # more than one piece
    tensor = hqq.quantize(weights, WeightFormat("int2", "tensor", zero_frac_bits=5))
    row = hqq.quantize(weights.reshape(1, -1), WeightFormat("int2", "channel", zero_frac_bits=5))
    np.testing.assert_array_equal(tensor.zeros, row.zeros)
    np.testing.assert_array_equal(tensor.q.ravel(), row.q.ravel())


def test_the_weights_are_left_as_they_are_and_any_strides_do():
    weights = heavy_tailed(40, 130)
    before = weights.copy()
    format = WeightFormat("int4", block_size=32, zero_frac_bits=3)
    ours = hqq.quantize(weights, format)
    np.testing.assert_array_equal(weights, before)
    for ours_plane, theirs in zip(ours, hqq.quantize(np.asfortranarray(weights), format), strict=True):
        np.testing.assert_array_equal(ours_plane, theirs)


@pytest.mark.parametrize("format", [f for f in ALL_FORMATS if f.symmetric], ids=str)
def test_symmetric_formats_are_refused(format):
    with pytest.raises(ValueError, match=rf"zero-point.*{format} has none; allowed: .*symmetric = False"):
        hqq.quantize(np.ones((2, 32), np.float32), format)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("granularity", ["tensor", "channel", "block"])
def test_non_finite_weights_are_named(granularity, bad):
    weights = np.ones((7, 100), np.float32)
    weights[6, 99] = bad
    with pytest.raises(ValueError, match=r"weights\[6, 99\] is (nan|inf|-inf)"):
        hqq.quantize(weights, WeightFormat("int4", granularity, zero_frac_bits=3))


def test_it_is_found_by_name():
    assert QUANTIZERS["hqq"].quantize is hqq.quantize
