"""Round to nearest: against a scalar loop from the formulas, its invariants, and what it refuses."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from workbench.formats.spec import WeightFormat
from workbench.formats.tensor import quantized_tensor
from workbench.quantizers import QUANTIZERS, QUANTIZERS_OF_ONE_MATRIX, rtn

FORMATS = [
    WeightFormat("int8"),
    WeightFormat("int8", symmetric=True),
    WeightFormat("int8", "tensor", scale_dtype="f32"),
    WeightFormat("int4"),
    WeightFormat("int4", block_size=32, zero_frac_bits=3),
    WeightFormat("int4", "channel", symmetric=True),
    WeightFormat("int4", block_size=32, scale_dtype="f32"),
    WeightFormat("int2", block_size=64),
    WeightFormat("int2", symmetric=True),
    WeightFormat("int2", "tensor", zero_frac_bits=5),
]
DATA_FREE = sorted(QUANTIZERS_OF_ONE_MATRIX)
FINITE = st.floats(-1e4, 1e4, width=32, allow_subnormal=True)


@st.composite
def matrices(draw):
    shape = (draw(st.integers(1, 4)), draw(st.integers(1, 150)))
    elements = draw(
        st.sampled_from([FINITE, st.floats(-1, 1, width=32), st.floats(0.5, 1, width=32), st.just(0.0)])
    )
    return draw(hnp.arrays(np.float32, shape, elements=elements))


def one_block_slowly(w, format):
    """Scale, zero and q of one block, scalar by scalar in f32, as the formulas of the module's head say."""
    f32 = np.float32
    low, high = format.q_range
    lo, hi = f32(min(0, w.min())), f32(max(0, w.max()))
    if format.symmetric:
        z = f32(format.implied_zero)
        s = max(hi / f32(high - z), -lo / f32(z - low))
    else:
        s = f32(hi - lo) / f32(high - low)
    if format.scale_dtype == "f16":
        s = max(f32(np.float16(s)), f32(2**-14))
    else:
        s = max(f32(s), f32(2**-126))
    unit = 2**format.zero_frac_bits
    if not format.symmetric:
        z = min(max(f32(np.rint((low - lo / s) * f32(unit))) / f32(unit), f32(low)), f32(high))
    q = []
    for each in w:
        level = np.rint(each / s + z) if format.zero_frac_bits else np.rint(each / s) + z
        q.append(int(min(max(level, low), high)))
    return s, z * unit, q


@pytest.mark.parametrize("format", FORMATS, ids=str)
@settings(max_examples=15, deadline=None)
@given(weights=matrices())
def test_every_block_follows_the_formulas(format, weights):
    rows, columns = weights.shape
    q, scales, zeros = rtn.quantize(weights, format)
    padded = np.zeros((rows, format.padded_columns(columns)), np.float32)
    padded[:, :columns] = weights
    if format.granularity == "tensor":
        blocks = {(0, 0): (padded.ravel(), q.ravel())}
    else:
        size = format.block(columns)
        blocks = {
            (row, index): (
                padded[row, index * size : (index + 1) * size],
                q[row, index * size : (index + 1) * size],
            )
            for row in range(rows)
            for index in range(format.blocks(columns))
        }
    assert scales.shape == format.scale_shape(rows, columns)
    for at, (w, found) in blocks.items():
        s, z, expected = one_block_slowly(w, format)
        assert scales[at] == s
        assert zeros is None if format.symmetric else zeros[at] == z
        assert found.tolist() == expected


@pytest.mark.parametrize("format", FORMATS, ids=str)
@settings(max_examples=15, deadline=None)
@given(weights=matrices())
def test_error_is_at_most_half_a_step_where_nothing_is_clipped(format, weights):
    rows, columns = weights.shape
    quantized = rtn.quantize(weights, format)
    tensor = quantized_tensor("w", weights.shape, format, *quantized)
    low, high = format.q_range
    step = np.broadcast_to(tensor.planes["scales"].astype(np.float64), (rows, format.blocks(columns)))
    step = np.repeat(step, format.block(columns), 1)[:, :columns]
    zero = np.broadcast_to(tensor.zero_points().astype(np.float64), (rows, format.blocks(columns)))
    zero = np.repeat(zero, format.block(columns), 1)[:, :columns]
    level = weights / step + zero
    inside = (level >= low - 0.5) & (level <= high + 0.5)
    error = np.abs(tensor.dequantize().astype(np.float64) - weights)
    assert (error[inside] <= step[inside] * (0.5 + 1e-4) + 1e-30).all()
    # Rounding the zero-point and the scale moves the ends of the range by a step at the most.
    assert (error <= step * 1.13).all()


@pytest.mark.parametrize("format", FORMATS, ids=str)
@settings(max_examples=15, deadline=None)
@given(weights=matrices())
def test_padding_holds_the_zero_point_and_moves_no_scale(format, weights):
    columns = weights.shape[1]
    q, scales, zeros = rtn.quantize(weights, format)
    padding = q[:, columns:]
    zero = format.implied_zero if zeros is None else np.rint(zeros[:, -1:] / 2**format.zero_frac_bits)
    assert (padding == np.clip(zero, *format.q_range)).all()
    wider = np.zeros((len(weights), format.padded_columns(columns)), np.float32)
    wider[:, :columns] = weights
    for ours, theirs in zip((q, scales), rtn.quantize(wider, format), strict=False):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("format", [f for f in FORMATS if not f.zero_frac_bits], ids=str)
@pytest.mark.parametrize("value", [0.0, 0.375, -2.0])
def test_constant_blocks_are_kept(format, value):
    weights = np.full((3, 100), value, np.float32)
    result = quantized_tensor("w", weights.shape, format, *rtn.quantize(weights, format)).dequantize()
    np.testing.assert_allclose(result, weights, rtol=2**-11, atol=0)


def test_scales_stay_normal():
    tiny = np.full((2, 64), 1e-7, np.float32)
    assert (rtn.quantize(tiny, WeightFormat("int4")).scales == np.float16(2**-14)).all()
    assert (
        rtn.quantize(tiny * 0, WeightFormat("int4", scale_dtype="f32")).scales == np.float32(2**-126)
    ).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", DATA_FREE)
def test_non_finite_weights_are_named(name, bad):
    weights = np.ones((700, 2048), np.float32)
    weights[699, 3], weights[699, 9] = bad, np.nan
    with pytest.raises(ValueError, match=r"weights\[699, 3\] is (nan|inf|-inf)"):
        QUANTIZERS[name].quantize(weights, WeightFormat("int4"))


@pytest.mark.parametrize("name", DATA_FREE)
def test_a_scale_too_large_is_refused(name):
    weights = np.full((1, 32), 3e6, np.float32)
    with pytest.raises(ValueError, match=r"beyond 65504.*f32"):
        QUANTIZERS[name].quantize(weights, WeightFormat("int4"))
    assert np.isfinite(
        QUANTIZERS[name].quantize(weights, WeightFormat("int4", scale_dtype="f32")).scales
    ).all()


@pytest.mark.parametrize("name", DATA_FREE)
def test_unsuitable_arguments_are_refused(name):
    quantize = QUANTIZERS[name].quantize
    with pytest.raises(ValueError, match="not quantized"):
        quantize(np.ones((2, 32), np.float32), WeightFormat("f16"))
    with pytest.raises(ValueError, match=r"float32 \[32\]"):
        quantize(np.ones(32, np.float32), WeightFormat("int4"))
    with pytest.raises(ValueError, match="int64"):
        quantize(np.ones((2, 32), np.int64), WeightFormat("int4"))
    with pytest.raises(ValueError, match=r"int4/32/offset has offsets, .* allowed: formats with zero-points"):
        quantize(np.ones((2, 32), np.float32), WeightFormat("int4", block_size=32, offset=True))


def test_quantizers_by_name():
    assert QUANTIZERS["rtn"].quantize is rtn.quantize
    with pytest.raises(TypeError, match="no form for one matrix"):
        _ = QUANTIZERS["trained"].quantize


def test_every_quantizer_says_what_it_needs():
    for name, entry in QUANTIZERS.items():
        assert not QUANTIZERS[entry.lookup].needs and QUANTIZERS[entry.rounding].function
        assert entry.able(entry.needs) == (name != "trained")
        if entry.function:
            arguments = set(inspect.signature(entry.quantize).parameters)
            assert entry.needs - {"inputs"} <= arguments, name  # awq-gptq's inputs are for awq.search_scale
    assert {"inputs", "device"} <= set(inspect.signature(QUANTIZERS["awq"].quantize).parameters)
