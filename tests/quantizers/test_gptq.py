"""GPTQ: against optimal brain quantization written with explicit inverses, and what it promises."""

from __future__ import annotations

import warnings
from functools import partial

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
from workbench.quantizers import QUANTIZERS, gptq, grid
from workbench.quantizers.blocks import Quantized, quantize_with

COARSE = WeightFormat("int2", block_size=64)


def plain_rounding(weights, format, importance) -> Quantized:
    return quantize_with(weights, format, *grid.parameters(weights, format, importance))


def quantize_slowly(weights, format, hessian, order, damping=0.01):
    """w_hat [N, K]: column after column, with the inverse of what is left of H, in float64."""
    columns = weights.shape[1]
    damped = damping * np.diagonal(hessian).mean()
    importance = np.diagonal(hessian) + damped
    scales, zeros = grid.parameters(weights, format, importance)
    blocks = np.arange(columns) // format.block(columns)
    s, z = (np.broadcast_to(each, (len(weights), blocks[-1] + 1))[:, blocks] for each in (scales, zeros))
    low, high = format.q_range
    w, left = weights.astype(np.float64), hessian + damped * np.eye(columns)
    inverse, w_hat = np.linalg.inv(left), np.empty(weights.shape)
    for j in order:
        level = np.float32(w[:, j]) / s[:, j]
        q = np.rint(level + z[:, j]) if format.zero_frac_bits else np.rint(level) + z[:, j]
        w_hat[:, j] = s[:, j] * (np.clip(q, low, high) - z[:, j])
        w -= np.outer((w[:, j] - w_hat[:, j]) / inverse[j, j], inverse[j])
        inverse -= np.outer(inverse[:, j], inverse[j]) / inverse[j, j]
    # The rows that plain rounding leaves nearer are those of plain rounding.
    plain = restored(weights.shape, format, quantize_with(weights, format, scales, zeros))
    error = lambda each: np.einsum("nk,kl,nl->n", each - weights, hessian, each - weights)  # noqa: E731
    worse = error(w_hat) > error(plain)
    w_hat[worse] = plain[worse]
    return w_hat


@pytest.mark.parametrize("act_order", [True, False])
@pytest.mark.parametrize(
    "format",
    [
        WeightFormat("int4", block_size=64),
        COARSE,
        WeightFormat("int4", block_size=96, zero_frac_bits=3),
        WeightFormat("int4", "channel", symmetric=True),
        WeightFormat("int2", "tensor"),
        WeightFormat("int8", block_size=32, scale_dtype="f32"),
    ],
    ids=str,
)
def test_every_weight_is_that_of_a_slow_loop(format, act_order):
    """300 columns: two batches and a part of a third, and no multiple of a block."""
    weights, hessian = heavy_tailed(9, 300), hessian_of(correlated_inputs(500, 300))
    found = restored(
        weights.shape, format, gptq.quantize(weights, format, hessian=hessian, act_order=act_order)
    )
    order = np.argsort(-np.diagonal(hessian)) if act_order else range(300)
    expected = quantize_slowly(weights, format, hessian, order)
    # float32 against float64: a weight half-way between two levels may fall either way, and its row follows.
    same = np.isclose(found, expected, rtol=1e-3, atol=1e-6).all(1)
    assert same.sum() >= 8
    assert (row_errors_of(found, weights, hessian) <= 1.02 * row_errors_of(expected, weights, hessian)).all()


def row_errors_of(w_hat, weights, hessian):
    return np.einsum("nk,kl,nl->n", w_hat - weights, hessian, w_hat - weights)


@pytest.mark.parametrize("format", FORMATS, ids=str)
@pytest.mark.parametrize("columns", [200, 256])
def test_the_identity_makes_it_plain_rounding(format, columns):
    weights = heavy_tailed(7, columns)
    expected = grid.quantize(weights, format, np.ones(columns))
    for ours, theirs in zip(gptq.quantize(weights, format, hessian=np.eye(columns)), expected, strict=True):
        assert (ours is None and theirs is None) or ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("format", FORMATS, ids=str)
@settings(max_examples=8, deadline=None)
@given(
    rows=st.integers(1, 5), columns=st.integers(1, 170), tokens=st.integers(1, 200), seed=st.integers(0, 99)
)
def test_no_row_is_worse_than_plain_rounding(format, rows, columns, tokens, seed):
    """Fewer tokens than columns make the Hessian singular; the default damping copes."""
    weights, inputs = heavy_tailed(rows, columns, seed=seed), correlated_inputs(tokens, columns, seed)
    hessian = hessian_of(inputs)
    importance = np.diagonal(hessian) + 0.01 * np.diagonal(hessian).mean()
    ours = gptq.quantize(weights, format, hessian=hessian)
    theirs = plain_rounding(weights, format, importance)
    np.testing.assert_array_equal(ours.scales, theirs.scales)
    error, other = (row_errors(weights, format, each, hessian) for each in (ours, theirs))
    unseen = 1e-5 * np.einsum("nk,kl,nl->n", np.abs(weights), np.abs(hessian), np.abs(weights))
    assert (error <= other * (1 + 1e-3) + unseen * 1e-2).all()
    assert (ours.q[:, columns:] == padding_of(format, ours)).all()


def test_errors_of_the_published_order():
    """Measured: 0.37 and 0.51 of the error of the importance-weighted grid; 0.59 and 0.67 without act-order."""
    weights, hessian = heavy_tailed(64, 512), hessian_of(correlated_inputs(2000, 512))
    for format, most in ((WeightFormat("int4"), 0.5), (WeightFormat("int2"), 0.65)):
        error = lambda each, format=format: row_errors(weights, format, each, hessian).sum()  # noqa: E731
        ours = error(gptq.quantize(weights, format, hessian=hessian))
        assert ours < most * error(grid.quantize(weights, format, np.diagonal(hessian)))
        assert ours < error(gptq.quantize(weights, format, hessian=hessian, act_order=False))


@pytest.mark.parametrize("act_order", [True, False])
def test_act_order_leaves_no_trace_in_the_order_of_the_columns(act_order):
    """Where a row has one scale, the order of the columns is arbitrary: only act-order does not see it."""
    format, rng = WeightFormat("int2", "channel"), np.random.default_rng(1)
    weights, hessian = heavy_tailed(16, 160), hessian_of(correlated_inputs(400, 160))
    shuffled = rng.permutation(160)
    ours = gptq.quantize(weights, format, hessian=hessian, act_order=act_order)
    theirs = gptq.quantize(
        weights[:, shuffled], format, hessian=hessian[shuffled][:, shuffled], act_order=act_order
    )
    agreement = (ours.q[:, shuffled] == theirs.q).mean()
    assert agreement > 0.999 if act_order else agreement < 0.95


def test_columns_without_input_are_rounded():
    weights, inputs = heavy_tailed(8, 130), correlated_inputs(300, 130)
    inputs[:, [3, 77]] = 0
    hessian = hessian_of(inputs)
    importance = np.diagonal(hessian) + 0.01 * np.diagonal(hessian).mean()
    ours, plain = gptq.quantize(weights, COARSE, hessian=hessian), plain_rounding(weights, COARSE, importance)
    np.testing.assert_array_equal(ours.q[:, [3, 77]], plain.q[:, [3, 77]])
    assert (ours.q != plain.q).any()
    nothing = gptq.quantize(weights, COARSE, hessian=hessian * 0)
    np.testing.assert_array_equal(nothing.q, grid.quantize(weights, COARSE).q)


def test_only_ratios_of_the_hessian_count():
    weights, hessian = heavy_tailed(8, 100), hessian_of(correlated_inputs(300, 100))
    ours = gptq.quantize(weights, COARSE, hessian=hessian)
    for factor in (2.0**-60, 2.0**60):
        np.testing.assert_array_equal(gptq.quantize(weights, COARSE, hessian=hessian * factor).q, ours.q)
    single = gptq.quantize(weights, COARSE, hessian=hessian.astype(np.float32))
    assert (single.q == ours.q).mean() > 0.99


def test_importance_decides_the_scales_alone():
    weights, hessian = heavy_tailed(8, 100), hessian_of(correlated_inputs(300, 100))
    importance = np.random.default_rng(0).uniform(0, 1, 100) ** 4
    ours = gptq.quantize(weights, COARSE, importance, hessian=hessian)
    scales, _ = grid.parameters(weights, COARSE, importance)
    np.testing.assert_array_equal(ours.scales, scales.astype(np.float16))


def test_a_singular_hessian_gets_more_damping_and_says_so():
    weights, inputs = heavy_tailed(8, 100), correlated_inputs(20, 100)
    hessian = hessian_of(inputs)
    with pytest.warns(gptq.DampingWarning, match=r"\[100, 100\] needed a damping of .* instead of 0"):
        ours = gptq.quantize(weights, COARSE, hessian=hessian, damping=0)
    plain = plain_rounding(weights, COARSE, np.diagonal(hessian))
    error, other = (row_errors(weights, COARSE, each, hessian).sum() for each in (ours, plain))
    assert error < 0.5 * other
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gptq.quantize(weights, COARSE, hessian=hessian)


def test_damping_grows_tenfold_up_to_one():
    factor = lambda eigenvalue, damping: gptq.inverse_factor(  # noqa: E731
        torch.diag(torch.tensor([1.0, 1.0, 1.0 + eigenvalue], dtype=torch.float64)), damping
    )
    assert factor(0, 0.01)[1] == 0.01
    assert factor(-1.05, 0.01)[1] == pytest.approx(0.1)
    assert factor(-1.3, 0.01)[1] == 1.0
    assert factor(-1.05, 0)[1] == pytest.approx(0.1)
    with pytest.raises(ValueError, match="not positive semidefinite"):
        factor(-1.9, 0.01)
    hessian = torch.from_numpy(hessian_of(correlated_inputs(90, 40)))
    upper, used = gptq.inverse_factor(hessian, 0.05)
    damped = hessian + used * hessian.diagonal().mean() * torch.eye(40, dtype=torch.float64)
    torch.testing.assert_close(upper.T @ upper, torch.linalg.inv(damped))
    assert torch.equal(upper, upper.triu())


@pytest.mark.parametrize("device", ["cpu:0", "cuda"])
@pytest.mark.parametrize("format", [COARSE, WeightFormat("int4", "tensor")], ids=str)
def test_other_devices_give_the_same(device, format):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    weights, hessian = heavy_tailed(24, 200), hessian_of(correlated_inputs(500, 200))
    ours, theirs = (gptq.quantize(weights, format, hessian=hessian, device=each) for each in (device, "cpu"))
    error, other = (row_errors(weights, format, each, hessian).sum() for each in (ours, theirs))
    # A weight half-way between two levels may fall either way, and what follows in its row with it.
    assert error == pytest.approx(other, rel=0.02)
    assert (ours.q == theirs.q).mean() > 0.95


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"hessian": np.eye(63)}, r"shape \[63, 63\].*64 columns"),
        ({"hessian": np.diag(np.r_[np.ones(63), np.nan])}, r"hessian\[63, 63\] is nan"),
        ({"hessian": np.diag(np.r_[np.ones(63), -1.0])}, r"hessian\[63, 63\] is -1"),
        ({"hessian": np.eye(64), "damping": -0.1}, "damping is -0.1"),
        ({"hessian": np.eye(64), "importance": np.ones(3)}, r"importance has shape \[3\]"),
    ],
)
def test_unsuitable_arguments_are_refused(given, complaint):
    with pytest.raises(ValueError, match=complaint):
        gptq.quantize(np.ones((2, 64), np.float32), WeightFormat("int4"), **given)


def test_it_is_found_by_name_and_leaves_its_arguments_alone():
    weights, hessian = heavy_tailed(8, 100), hessian_of(correlated_inputs(300, 100))
    before = weights.copy(), hessian.copy()
    quantize = partial(QUANTIZERS["gptq"].quantize, format=COARSE, hessian=hessian)
    np.testing.assert_array_equal(quantize(np.asfortranarray(weights)).q, quantize(weights).q)
    for mine, old in zip((weights, hessian), before, strict=True):
        np.testing.assert_array_equal(mine, old)
