"""Planar and interleaved, low-first and high-first: bit for bit both ways, and against a slow loop."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.formats.models import assert_same, random_tensor
from workbench.formats.errors import FormatError
from workbench.formats.layout import deinterleave, interleave, reorder, stored_planes
from workbench.formats.spec import ORDERS, WeightFormat


@st.composite
def formats(draw):
    dtype = draw(st.sampled_from(["int8", "int4", "int2"]))
    granularity = draw(st.sampled_from(["block", "channel", "tensor"]))
    zeros = draw(st.sampled_from(["points", "symmetric", "offset"]))
    return WeightFormat(
        dtype,
        granularity,
        draw(st.sampled_from([32, 64, 96, 128, 256])) if granularity == "block" else None,
        zeros == "symmetric",
        draw(st.sampled_from(["f16", "f32"])),
        draw(st.integers(0, {"int8": 0, "int4": 3, "int2": 5}[dtype])) if zeros == "points" else 0,
        draw(st.sampled_from(ORDERS)),
        zeros == "offset",
    )


@settings(max_examples=80, deadline=None)
@given(formats(), st.integers(1, 6), st.integers(1, 300), st.integers(0, 9))
def test_interleaved_and_back(format, rows, columns, seed):
    tensor = random_tensor("w", format, rows, columns, seed)
    blocks = interleave(tensor)
    assert blocks.nbytes == tensor.nbytes
    assert_same(deinterleave(blocks, "w", tensor.shape, format), tensor)
    np.testing.assert_array_equal(interleave(deinterleave(blocks, "w", tensor.shape, format)), blocks)


@settings(max_examples=80, deadline=None)
@given(formats(), st.sampled_from(ORDERS), st.integers(1, 4), st.integers(1, 200))
def test_reordered_and_back(format, order, rows, columns):
    tensor = random_tensor("w", format, rows, columns)
    other = reorder(tensor, order)
    assert other.format == replace(format, order=order)
    np.testing.assert_array_equal(other.quants(), tensor.quants())
    np.testing.assert_array_equal(other.dequantize(), tensor.dequantize())
    assert_same(reorder(other, format.order), tensor)


def test_the_bytes_of_a_block():
    format = WeightFormat("int4", block_size=128)
    tensor = random_tensor("w", format, 3, 256)
    blocks = interleave(tensor)
    assert blocks.shape == (3, 2, 67)
    q = tensor.quants()
    for row in range(3):
        for block in range(2):
            data = blocks[row, block].tobytes()
            assert np.frombuffer(data[:2], "<f2")[0] == tensor.planes["scales"][row, block]
            assert np.frombuffer(data[2:3], "i1")[0] == tensor.planes["zeros"][row, block]
            for index, byte in enumerate(data[3:]):
                assert byte & 15 == q[row, block * 128 + 2 * index]
                assert byte >> 4 == q[row, block * 128 + 2 * index + 1]


def test_int2_blocks_have_67_bytes_too():
    assert stored_planes((8, 512), WeightFormat("int2"), "interleaved")["blocks"][0] == (8, 2, 67)


def test_what_has_no_layout_is_refused():
    with pytest.raises(FormatError, match="only 'planar'"):
        stored_planes((8,), WeightFormat("f16"), "interleaved")
    with pytest.raises(FormatError, match="'diagonal'"):
        stored_planes((8, 8), WeightFormat("int4"), "diagonal")
    with pytest.raises(FormatError, match="uint8"):
        deinterleave(np.zeros((1, 1, 66), np.uint8), "w", (1, 128), WeightFormat("int4"))
