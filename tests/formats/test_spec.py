"""The arithmetic of formats, and what a format refuses to be."""

from __future__ import annotations

import pytest

from workbench.formats.errors import FormatError
from workbench.formats.spec import WeightFormat


@pytest.mark.parametrize(
    ("format", "columns", "block", "padded", "blocks"),
    [
        (WeightFormat("int4"), 4096, 128, 4096, 32),
        (WeightFormat("int4"), 576, 128, 640, 5),
        (WeightFormat("int8"), 1, 128, 128, 1),
        (WeightFormat("int2"), 896, 256, 1024, 4),
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
        (WeightFormat("int4", "channel"), 4 + 24 / 4096),
        (WeightFormat("int4", "tensor"), 4 + 24 / (4096 * 256)),
        (WeightFormat("bf16"), 16),
        (WeightFormat("f32"), 32),
    ],
)
def test_bits_per_weight(format, bits):
    assert format.bits_per_weight(256, 4096) == pytest.approx(bits, rel=1e-12)


def test_padding_counts_as_stored():
    assert WeightFormat("int4").bits_per_weight(1, 64) == (128 * 4 + 24) / 64


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
        (WeightFormat("int4"), "int4/128"),
        (WeightFormat("int8", "channel"), "int8/channel"),
        (WeightFormat("int2", zero_frac_bits=5, scale_dtype="f32"), "int2/256/z5/f32"),
        (WeightFormat("int4", symmetric=True, order="high-first"), "int4/128/sym/high-first"),
    ],
)
def test_names_and_json(format, name):
    assert str(format) == name
    assert WeightFormat.from_json(format.to_json()) == format


def test_equal_formats_are_equal():
    assert WeightFormat("int4", block_size=128) == WeightFormat("int4")
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
