"""What f16 can hold of a matrix: seen from bits where that will do, and the same as seen from the scales."""

from __future__ import annotations

import numpy as np
import pytest

from workbench.formats.spec import WeightFormat
from workbench.formats.tensor import float_tensor
from workbench.quantizers.suited import Reach, suited

FORMATS = [
    WeightFormat("f16"),
    WeightFormat("int8"),
    WeightFormat("int8", symmetric=True),
    WeightFormat("int4", block_size=32),
    WeightFormat("int2", block_size=64, symmetric=True),
    WeightFormat("int2", "channel"),
]


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_what_is_seen_from_bits_is_true(dtype, fmt):
    generator = np.random.default_rng(7)
    passed = 0
    for exponent in np.linspace(-7, 4.5, 24):
        weights = np.float32(10**exponent) * generator.standard_normal((6, 100)).astype(np.float32)
        weights[2] = 0
        weights[3] *= generator.choice([1e-3, 1.0, 3.0])
        stored = float_tensor("w", np.clip(weights, -6e4, 6e4), dtype)
        exact = Reach(fmt.fitted(100))
        exact.add([stored.dequantize()])
        seen = Reach(fmt.fitted(100)).passes(stored)
        assert not (seen and exact.why)
        passed += seen
        if exact.least > 4 * 2**-14 and exact.most < 1e4:
            assert seen  # of weights of usual size nothing is left to look at
    assert passed > 3


def test_what_says_nothing_is_looked_at():
    weights = np.ones((2, 64), np.float32)
    assert not Reach(WeightFormat("int4", "tensor")).passes(float_tensor("w", weights, "f16"))
    assert not Reach(WeightFormat("int4", block_size=32)).passes(float_tensor("w", weights, "f32"))


def test_matrices_that_are_read_together_are_suited_together():
    small, usual = (np.full((2, 96), value, np.float32) for value in (1e-6, 0.1))
    fmt, why = suited(WeightFormat("int8"), [usual, small])
    assert str(fmt) == "int8/96/f32" and "2 of 4 blocks want scales below 6.1e-05" in why
    assert suited(WeightFormat("int8"), [usual]) == (WeightFormat("int8", block_size=96), None)
    assert suited(WeightFormat("int8"), [0 * usual]) == (WeightFormat("int8", block_size=96), None)
    for unchanged in ("f32", "bf16"):
        assert suited(WeightFormat(unchanged), [small]) == (WeightFormat(unchanged), None)
