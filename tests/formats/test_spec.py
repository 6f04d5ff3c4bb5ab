"""The arithmetic of formats, and what a format refuses to be."""

from __future__ import annotations

import pytest

from workbench.formats.errors import FormatError
from workbench.formats.spec import DEFAULT_BLOCK, WeightFormat


@pytest.mark.parametrize(
    ("format", "columns", "block", "padded", "blocks"),
    [
        (WeightFormat("int4"), 4096, 128, 4096, 32),
        (WeightFormat("int4", block_size=128), 576, 128, 640, 5),
        (WeightFormat("int8"), 1, 128, 128, 1),
        (WeightFormat("int2", block_size=256), 896, 256, 1024, 4),
        (WeightFormat("int4", block_size=96), 96, 96, 96, 1),
        (WeightFormat("int8", "channel"), 100, 128, 128, 1),
        (WeightFormat("int2", "tensor"), 960, 960, 960, 1),
    ],
)
def test_blocks_and_padding(format, columns, block, padded, blocks):
    assert (format.block(columns), format.padded_columns(columns), format.blocks(columns)) == (
        block,
        padded,
        blocks,
    )


@pytest.mark.parametrize(
    ("format", "bits"),
    [
        (WeightFormat("int4"), 4.1875),
        (WeightFormat("int2"), 2.09375),
        (WeightFormat("int8"), 8.1875),
        (WeightFormat("int8", symmetric=True), 8.125),
        (WeightFormat("int4", block_size=32, scale_dtype="f32"), 5.25),
        (WeightFormat("int4", block_size=32, offset=True), 5),
        (WeightFormat("int8", block_size=64, scale_dtype="f32", offset=True), 9),
        (WeightFormat("int4", "channel"), 4 + 24 / 4096),
        (WeightFormat("int4", "tensor"), 4 + 24 / (4096 * 256)),
        (WeightFormat("bf16"), 16),
        (WeightFormat("f32"), 32),
    ],
)
def test_bits_per_weight(format, bits):
    assert format.bits_per_weight(256, 4096) == pytest.approx(bits, rel=1e-12)


def test_padding_counts_as_stored():
    assert WeightFormat("int4", block_size=128).bits_per_weight(1, 64) == (128 * 4 + 24) / 64


@pytest.mark.parametrize(
    ("dtype", "columns", "block"),
    [
        ("int4", 4096, 128),
        ("int4", 576, 96),  # 128 would pad to 640
        ("int8", 64, 64),
        ("int2", 128, 128),
        ("int2", 576, 192),
        ("int2", 896, 224),
        ("int4", 96, 96),
        ("int4", 160, 32),
        ("int8", 172, 128),  # no multiple of 32 divides it
        ("int4", 1504, 128),  # only blocks of 32 divide it, whose scales would take more than the padding
        ("int8", 544, 32),
        ("int8", 1, 128),
    ],
)
def test_a_default_block_is_fitted_to_the_rows(dtype, columns, block):
    asked = WeightFormat(dtype)
    fitted = asked.fitted(columns)
    assert fitted.block_size == block == asked.block(columns) and not fitted.default_block
    assert fitted.fitted(columns + 32) is fitted
    default = WeightFormat(dtype, block_size=DEFAULT_BLOCK[dtype])
    assert asked.bits_per_weight(7, columns) == fitted.bits_per_weight(7, columns)
    assert fitted.bits_per_weight(7, columns) <= default.bits_per_weight(7, columns)
    assert asked.padded_columns(columns) == fitted.padded_columns(columns)
    assert asked.scale_shape(7, columns) == fitted.scale_shape(7, columns)


def test_fitted_keeps_what_was_asked_for():
    for kept in (
        WeightFormat("f16"),
        WeightFormat("int4", block_size=128),
        WeightFormat("int2", "channel"),
        WeightFormat("int8", "tensor"),
    ):
        assert not kept.default_block and kept.fitted(576) is kept
    fine = WeightFormat("int4", zero_frac_bits=3, scale_dtype="f32", order="high-first").fitted(576)
    assert str(fine) == "int4/96/z3/f32/high-first"


@pytest.mark.parametrize(
    ("format", "q", "zero", "implied"),
    [
        (WeightFormat("int8"), (-128, 127), (-128, 127), 0),
        (WeightFormat("int8", symmetric=True), (-127, 127), (-127, 127), 0),
        (WeightFormat("int4"), (0, 15), (0, 15), 8),
        (WeightFormat("int2"), (0, 3), (0, 3), 2),
        (WeightFormat("int4", zero_frac_bits=3), (0, 15), (-128, 127), 8),
    ],
)
def test_ranges(format, q, zero, implied):
    assert (format.q_range, format.zero_range, format.implied_zero) == (q, zero, implied)


@pytest.mark.parametrize(
    ("format", "name"),
    [
        (WeightFormat("f16"), "f16"),
        (WeightFormat("int4"), "int4"),
        (WeightFormat("int4", block_size=128), "int4/128"),
        (WeightFormat("int8", "channel"), "int8/channel"),
        (WeightFormat("int2", zero_frac_bits=5, scale_dtype="f32"), "int2/z5/f32"),
        (WeightFormat("int4", symmetric=True, order="high-first"), "int4/sym/high-first"),
        (WeightFormat("int4", block_size=32, offset=True, scale_dtype="f32"), "int4/32/offset/f32"),
    ],
)
def test_names_and_json(format, name):
    assert str(format) == name
    assert WeightFormat.from_json(format.to_json()) == format
    assert ("offset" in format.to_json()) == format.offset  # files without are as they always were


def test_equal_formats_are_equal():
    assert WeightFormat("int4", block_size=128) == WeightFormat("int4").fitted(256)
    assert WeightFormat("int4", block_size=128) != WeightFormat("int4")  # which is another on rows of 576
    assert WeightFormat("f16", "channel", 32, True) == WeightFormat("f16")
    assert WeightFormat("int8", order="high-first") == WeightFormat("int8")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"dtype": "int3"}, "dtype"),
        ({"dtype": 4}, "dtype"),
        ({"dtype": "int4", "granularity": "row"}, "granularity"),
        ({"dtype": "int4", "block_size": 48}, "block_size"),
        ({"dtype": "int4", "block_size": 0}, "block_size"),
        ({"dtype": "int4", "block_size": 128.0}, "block_size"),
        ({"dtype": "int4", "block_size": True}, "block_size"),
        ({"dtype": "int4", "granularity": "channel", "block_size": 128}, "block_size"),
        ({"dtype": "int4", "symmetric": 1}, "symmetric"),
        ({"dtype": "int4", "scale_dtype": "bf16"}, "scale_dtype"),
        ({"dtype": "int8", "zero_frac_bits": 1}, "zero_frac_bits"),
        ({"dtype": "int4", "zero_frac_bits": 4}, "zero_frac_bits"),
        ({"dtype": "int4", "zero_frac_bits": 3, "symmetric": True}, "zero_frac_bits"),
        ({"dtype": "int4", "offset": "f16"}, "offset"),
        ({"dtype": "int4", "offset": True, "symmetric": True}, "offset"),
        ({"dtype": "int4", "offset": True, "zero_frac_bits": 3}, "zero_frac_bits"),
        ({"dtype": "int4", "order": "middle"}, "order"),
        ({"dtype": "int4", "colour": "red"}, "colour"),
        ({}, "dtype"),
    ],
)
def test_what_is_no_format(fields, field):
    with pytest.raises(FormatError) as error:
        WeightFormat.from_json(fields)
    assert error.value.field == field
    assert field in str(error.value)


def test_floats_have_no_blocks():
    with pytest.raises(FormatError, match="not quantized"):
        WeightFormat("f16").block(128)
