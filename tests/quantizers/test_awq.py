"""AWQ: scales and clipped ranges against searches written from the formulas, and what they promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.quantizers.layers import (
    correlated_inputs,
    heavy_tailed,
    hessian_of,
    padding_of,
    restored,
    row_errors,
)
from tests.quantizers.test_rtn import FORMATS
from workbench.formats.spec import WeightFormat
from workbench.quantizers import QUANTIZERS, awq, gptq, rtn

COARSE = WeightFormat("int2", block_size=64)


def output_error(weights, format, inputs, scale) -> float:
    """|| X (W - Q(W t) / t)^T ||^2 with round to nearest, float64."""
    scaled = weights * scale
    d = weights - restored(weights.shape, format, rtn.quantize(scaled, format)) / scale
    return float(((inputs.astype(np.float64) @ d.T) ** 2).sum())


@pytest.mark.parametrize("tokens", [40, 400])  # fewer and more than columns: two ways to sum the error
@pytest.mark.parametrize(
    "format",
    [WeightFormat("int4", block_size=32), COARSE, FORMATS[5], WeightFormat("int8", "tensor")],
    ids=str,
)
def test_the_scale_is_that_of_a_slow_search(format, tokens):
    group = [heavy_tailed(12, 150), heavy_tailed(5, 150, seed=1)]
    inputs = correlated_inputs(tokens, 150)
    mean = np.abs(inputs).mean(0, dtype=np.float64)
    tried = []
    for alpha in np.arange(20) / 20:
        t = mean**alpha
        t = (t / np.sqrt(t.max() * t.min())).astype(np.float32)
        tried.append((sum(output_error(each, format, inputs, t) for each in group), t))
    errors = [error for error, _ in tried]
    found = awq.search_scale(group, format, inputs=inputs)
    assert found.dtype == np.float32 and (found > 0).all()
    np.testing.assert_allclose(found, tried[int(np.argmin(errors))][1], rtol=1e-5)
    assert min(errors) < 0.9 * errors[0]  # or there was nothing to find


@pytest.mark.parametrize("format", FORMATS, ids=str)
@settings(max_examples=8, deadline=None)
@given(
    rows=st.integers(1, 4), columns=st.integers(1, 140), tokens=st.integers(1, 150), seed=st.integers(0, 99)
)
def test_scales_are_positive_and_never_worse_than_none(format, rows, columns, tokens, seed):
    weights, inputs = heavy_tailed(rows, columns, seed=seed), correlated_inputs(tokens, columns, seed)
    inputs[:, :: seed % 3 + 2] = 0
    scale = awq.search_scale([weights], format, inputs=inputs, grid=5)
    assert scale.shape == (columns,) and scale.dtype == np.float32
    assert np.isfinite(scale).all() and (scale > 0).all()
    ours, none = (output_error(weights, format, inputs, t) for t in (scale, np.ones(columns, np.float32)))
    assert ours <= none * (1 + 1e-4) + 1e-10 * float(((inputs @ weights.T).astype(np.float64) ** 2).sum())
    # What is folded away on one side comes back on the other.
    x = inputs[:1]
    np.testing.assert_allclose(
        (x / scale) @ (weights * scale).T, x @ weights.T, rtol=1e-4, atol=1e-5 * np.abs(x).sum()
    )


def test_channels_of_one_size_need_no_scale():
    weights, signs = heavy_tailed(8, 96), np.sign(correlated_inputs(50, 96)).astype(np.float32)
    np.testing.assert_array_equal(awq.search_scale([weights], COARSE, inputs=3 * signs), 1)
    np.testing.assert_array_equal(awq.search_scale([weights], COARSE, inputs=0 * signs), 1)


def test_the_mean_may_come_from_more_tokens():
    weights, inputs = heavy_tailed(8, 96), correlated_inputs(500, 96)
    many = np.abs(inputs).mean(0)
    ours = awq.search_scale([weights], COARSE, inputs=inputs[:200], mean_abs=many)
    ratio = np.log(ours[1:] / ours[0]) / np.log(many[1:] / many[0])
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-3)  # a power of this mean, not of the sample's


def clip_error(weights, format, inputs, lo, hi) -> np.ndarray:
    """|| X_b (W_b - Q(W_b))^T ||^2 of each row and block, float64; `format.scale_shape` for tensors, too."""
    from workbench.quantizers.blocks import quantize_with

    d = weights - restored(
        weights.shape, format, quantize_with(weights, format, *rtn.parameters(lo, hi, format))
    )
    size, columns = format.block(weights.shape[1]), weights.shape[1]
    each = [
        ((inputs[:, at : at + size].astype(np.float64) @ d[:, at : at + size].T) ** 2).sum(0)
        for at in range(0, columns, size)
    ]
    errors = np.stack(each, 1)
    return errors.sum(keepdims=True) if format.granularity == "tensor" else errors


@pytest.mark.parametrize("format", FORMATS, ids=str)
@settings(max_examples=8, deadline=None)
@given(
    rows=st.integers(1, 4), columns=st.integers(1, 140), tokens=st.integers(1, 60), seed=st.integers(0, 99)
)
def test_every_block_is_clipped_as_by_a_slow_search(format, rows, columns, tokens, seed):
    weights, inputs = heavy_tailed(rows, columns, seed=seed), correlated_inputs(tokens, columns, seed)
    lo, hi = rtn.ranges(weights, format)
    tried = [clip_error(weights, format, inputs, p * lo, p * hi) for p in awq.CLIP.astype(np.float32)]
    found = clip_error(weights, format, inputs, *awq.search_clip(weights, format, inputs=inputs))
    slack = 1e-6 * float(((inputs @ weights.T).astype(np.float64) ** 2).sum())
    assert (found <= tried[0] * (1 + 1e-4) + slack).all()
    np.testing.assert_allclose(found, np.min(tried, 0), rtol=1e-2, atol=slack)


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_quantize_clips_and_rounds(format):
    weights, inputs = heavy_tailed(7, 200), correlated_inputs(100, 200)
    ours = QUANTIZERS["awq"].quantize(weights, format, inputs=inputs)
    scales, _ = rtn.parameters(*awq.search_clip(weights, format, inputs=inputs), format)
    np.testing.assert_array_equal(ours.scales, scales)
    assert (ours.q[:, 200:] == padding_of(format, ours)).all()
    low, high = format.q_range
    assert ours.q.min() >= low and ours.q.max() <= high
    if format.dtype == "int2":
        hessian = hessian_of(inputs)
        plain = row_errors(weights, format, rtn.quantize(weights, format), hessian).sum()
        assert row_errors(weights, format, ours, hessian).sum() < 0.8 * plain


def test_chunks_change_nothing(monkeypatch):
    weights, inputs = heavy_tailed(40, 150), correlated_inputs(100, 150)
    for format in (COARSE, WeightFormat("int2", "tensor"), WeightFormat("int4", "channel")):
        whole = awq.search_clip(weights, format, inputs=inputs)
        scale = awq.search_scale([weights], format, inputs=inputs)
        with monkeypatch.context() as patch:
            patch.setattr(awq, "_CHUNK", 150 * 7)
            for ours, theirs in zip(awq.search_clip(weights, format, inputs=inputs), whole, strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=1e-6)
            np.testing.assert_array_equal(awq.search_scale([weights], format, inputs=inputs), scale)


def test_scales_then_gptq_beats_either():
    """Measured: 0.30 of clipping with scales, 0.67 of GPTQ."""
    weights, inputs = heavy_tailed(48, 384), correlated_inputs(1500, 384)
    format, hessian = WeightFormat("int4"), hessian_of(inputs)
    scale = awq.search_scale([weights], format, inputs=inputs)

    def error(quantized, scale=scale):
        folded = hessian / scale[:, None] / scale
        return row_errors(weights * scale, format, quantized, folded).sum()

    both = error(gptq.quantize(weights * scale, format, hessian=hessian / scale[:, None] / scale))
    assert both < 0.6 * error(awq.quantize(weights * scale, format, inputs=inputs / scale))
    assert both < 0.9 * error(gptq.quantize(weights, format, hessian=hessian), np.ones(384))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("format", [COARSE, WeightFormat("int4", "tensor")], ids=str)
def test_a_cuda_device_gives_the_same(format):
    weights, inputs = heavy_tailed(24, 200), correlated_inputs(500, 200)
    scales = [awq.search_scale([weights], format, inputs=inputs, device=each) for each in ("cuda", "cpu")]
    np.testing.assert_allclose(*scales, rtol=1e-5)
    ours, theirs = (awq.quantize(weights, format, inputs=inputs, device=each) for each in ("cuda", "cpu"))
    assert (ours.q == theirs.q).mean() > 0.99


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"inputs": np.ones((4, 63))}, r"inputs are \[4, 63\].*\[at least 1, 64\]"),
        ({"inputs": np.ones((0, 64))}, r"inputs are \[0, 64\]"),
        ({"inputs": np.full((4, 64), np.inf)}, r"inputs\[0, 0\] is inf"),
    ],
)
def test_unsuitable_inputs_are_refused(given, complaint):
    weights, format = np.ones((2, 64), np.float32), WeightFormat("int4")
    with pytest.raises(ValueError, match=complaint):
        awq.quantize(weights, format, **given)
    with pytest.raises(ValueError, match=complaint):
        awq.search_scale([weights], format, **given)


def test_unsuitable_groups_are_refused():
    weights, inputs, format = np.ones((2, 64), np.float32), np.ones((4, 64)), WeightFormat("int4")
    with pytest.raises(ValueError, match=r"\[2, 64\], \[2, 32\].*same number of columns"):
        awq.search_scale([weights, weights[:, :32]], format, inputs=inputs)
    with pytest.raises(ValueError, match="at least one"):
        awq.search_scale([], format, inputs=inputs)
    for mean in (np.ones(63), -np.ones(64)):
        with pytest.raises(ValueError, match="mean_abs must be 64 finite numbers"):
            awq.search_scale([weights], format, inputs=inputs, mean_abs=mean)
