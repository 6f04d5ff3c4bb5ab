"""Tensors in memory: dequantization by the formula, bf16 rounding, and planes that do not fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.formats.models import random_zeros
from workbench.formats.bf16 import from_bf16, to_bf16
from workbench.formats.errors import FormatError
from workbench.formats.spec import WeightFormat
from workbench.formats.tensor import WeightTensor, float_tensor, quantized_tensor

FORMATS = [
    WeightFormat("int8"),
    WeightFormat("int8", symmetric=True),
    WeightFormat("int4", block_size=32, scale_dtype="f32"),
    WeightFormat("int4", zero_frac_bits=3, order="high-first"),
    WeightFormat("int2", block_size=64, zero_frac_bits=5),
    WeightFormat("int4", "channel"),
    WeightFormat("int2", "tensor", symmetric=True),
    WeightFormat("int4", block_size=32, offset=True),
    WeightFormat("int8", "channel", scale_dtype="f32", offset=True),
]


def random_parts(format: WeightFormat, rows: int, columns: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    q = rng.integers(*format.q_range, (rows, format.padded_columns(columns)), endpoint=True)
    shape = format.scale_shape(rows, columns)
    scales = rng.uniform(0.01, 2, shape).astype(np.float16)
    return q, scales, random_zeros(rng, format, shape)


@pytest.mark.parametrize("format", FORMATS, ids=str)
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (7, 200), (3, 256)])
def test_dequantize_is_the_formula(format, rows, columns):
    q, scales, zeros = random_parts(format, rows, columns)
    tensor = quantized_tensor("w", (rows, columns), format, q, scales, zeros)
    block = format.block(columns)
    expected = np.empty((rows, columns))
    for row in range(rows):
        for column in range(columns):
            at = (0, 0) if format.granularity == "tensor" else (row, column // block)
            if format.offset:
                expected[row, column] = float(scales[at]) * q[row, column] + float(zeros[at])
                continue
            zero = format.implied_zero if zeros is None else zeros[at] / 2**format.zero_frac_bits
            expected[row, column] = float(scales[at]) * (q[row, column] - zero)
    result = tensor.dequantize()
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, rtol=1e-7, atol=0)
    levels = scales.astype(float) * tensor.zero_points()
    np.testing.assert_allclose(levels, -zeros.astype(float) if format.offset else levels, rtol=1e-6)
    np.testing.assert_array_equal(tensor.quants(), q)


def test_dequantize_works_across_its_chunks_of_rows():
    format = WeightFormat("int4")
    q, scales, zeros = random_parts(format, 700, 4096)
    tensor = quantized_tensor("w", (700, 4096), format, q, scales, zeros)
    expected = np.repeat(scales.astype(np.float32), 128, 1) * (q - np.repeat(zeros, 128, 1)).astype(
        np.float32
    )
    np.testing.assert_array_equal(tensor.dequantize(), expected)


@pytest.mark.parametrize("format", FORMATS, ids=str)
def test_nbytes_is_bits_per_weight(format):
    tensor = quantized_tensor("w", (5, 300), format, *random_parts(format, 5, 300))
    assert tensor.nbytes * 8 == pytest.approx(format.bits_per_weight(5, 300) * 1500)


def test_bf16_rounds_as_torch_does():
    rng = np.random.default_rng(1)
    bits = rng.integers(0, 2**32, 200_000, np.uint32)
    # exact ties, above even and odd kept parts, and the borders of the exponent
    ties = (rng.integers(0, 2**16, 5000, np.uint32) << 16) | 0x8000
    edges = np.array(
        [0, 0x80000000, 0x7F7FFFFF, 0x7F800000, 0xFF800000, 1, 0x007FFFFF, 0x7F7F8000], np.uint32
    )
    values = np.concatenate([bits, ties, edges]).view(np.float32)
    expected = torch.from_numpy(values.copy()).to(torch.bfloat16)
    ours = to_bf16(values)
    nan = np.isnan(values)
    np.testing.assert_array_equal(ours[~nan], expected.view(torch.uint16).numpy()[~nan])
    assert np.isnan(from_bf16(ours)[nan]).all()
    np.testing.assert_array_equal(from_bf16(ours)[~nan], expected.float().numpy()[~nan])


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 5), (2, 3, 4)])
def test_floats_come_back(dtype, shape):
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    tensor = float_tensor("norm", values, dtype)
    again = tensor.dequantize()
    assert again.shape == shape and again.dtype == np.float32
    np.testing.assert_allclose(again, values, rtol={"f32": 0, "f16": 2**-11, "bf16": 2**-8}[dtype])
    assert tensor.nbytes == values.size * tensor.format.bits // 8


def test_bf16_bits_are_taken_as_they_are():
    bits = to_bf16(np.linspace(-3, 3, 50, dtype=np.float32))
    assert float_tensor("w", bits, "bf16").planes["values"].tolist() == bits.tolist()
    np.testing.assert_array_equal(float_tensor("w", bits, "f32").dequantize(), from_bf16(bits))


def test_an_overflow_is_named():
    values = np.ones((2, 3), np.float32)
    values[1, 2] = 1e6
    with pytest.raises(FormatError, match=r"tensor 'w'.*1000000.* at \[1, 2\] is too large for f16"):
        float_tensor("w", values, "f16")
    values[1, 2] = 3.4e38
    with pytest.raises(FormatError, match="too large for bf16"):
        float_tensor("w", values, "bf16")


def test_wrong_planes_are_refused():
    format = WeightFormat("int4")
    good = quantized_tensor("w", (4, 256), format, *random_parts(format, 4, 256))
    for name, plane in {
        "quants": good.planes["quants"][:, 1:],
        "scales": good.planes["scales"].astype(np.float32),
        "zeros": good.planes["zeros"].astype(np.uint8),
    }.items():
        with pytest.raises(FormatError) as error:
            WeightTensor("w", (4, 256), format, {**good.planes, name: plane})
        assert error.value.tensor == "w" and error.value.field == f"planes.{name}"
    with pytest.raises(FormatError, match=r"needs \['quants', 'scales', 'zeros'\]"):
        WeightTensor("w", (4, 256), format, {"quants": good.planes["quants"]})
    with pytest.raises(FormatError, match=r"needs \['quants', 'scales'\]"):
        WeightTensor("w", (4, 256), WeightFormat("int4", symmetric=True), good.planes)


def test_unsuitable_arguments_are_refused():
    format = WeightFormat("int4")
    q, scales, zeros = random_parts(format, 4, 256)
    with pytest.raises(FormatError, match=r"\[rows, columns\]"):
        quantized_tensor("w", (4, 2, 128), format, q, scales, zeros)
    with pytest.raises(FormatError, match="field 'q'"):
        quantized_tensor("w", (4, 250), format, q[:, :250], scales, zeros)
    with pytest.raises(FormatError, match=r"field 'scales'.*cannot represent"):
        quantized_tensor("w", (4, 256), format, q, np.full((4, 2), 0.1, np.float64), zeros)
    with pytest.raises(FormatError, match=r"field 'zeros'.*cannot represent"):
        quantized_tensor("w", (4, 256), format, q, scales, zeros + 0.5)
    with pytest.raises(FormatError, match="not a quantized format"):
        quantized_tensor("w", (4, 256), WeightFormat("f16"), q, scales, zeros)
    with pytest.raises(FormatError, match="not a float format"):
        float_tensor("w", np.ones(3, np.float32), "int4")
    with pytest.raises(FormatError, match="int64"):
        float_tensor("w", np.ones(3, np.int64), "f32")
