"""Packing against a slow loop written from the definition, over every bit width and order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from workbench.formats.errors import FormatError
from workbench.formats.packing import pack, unpack

BITS = (8, 4, 2)
ORDERS = ("low-first", "high-first")


def pack_row_slowly(row, bits: int, order: str) -> list[int]:
    """One row, one weight after the other, in Python integers."""
    per_byte = 8 // bits
    data = [0] * (len(row) * bits // 8)
    for k, q in enumerate(row):
        place = k % per_byte if order == "low-first" else per_byte - 1 - k % per_byte
        data[k // per_byte] |= (int(q) & (2**bits - 1)) << (bits * place)
    return [int.from_bytes(bytes(data[i : i + 4]), "little") for i in range(0, len(data), 4)]


@st.composite
def unpacked(draw):
    bits = draw(st.sampled_from(BITS))
    low, high = (-128, 127) if bits == 8 else (0, 2**bits - 1)
    shape = (draw(st.integers(1, 5)), 32 // bits * draw(st.integers(1, 12)))
    q = draw(hnp.arrays(np.int16, shape, elements=st.integers(low, high)))
    return q, bits, draw(st.sampled_from(ORDERS))


@given(unpacked())
def test_pack_is_the_definition_and_unpack_its_inverse(case):
    q, bits, order = case
    words = pack(q, bits, order)
    assert words.dtype == np.uint32
    assert words.tolist() == [pack_row_slowly(row, bits, order) for row in q]
    again = unpack(words, bits, q.shape[1], order)
    assert again.dtype == (np.int8 if bits == 8 else np.uint8)
    np.testing.assert_array_equal(again, q)


@given(unpacked(), st.data())
def test_unpack_leaves_out_the_end_of_rows(case, data):
    q, bits, order = case
    columns = data.draw(st.integers(0, q.shape[1]))
    np.testing.assert_array_equal(unpack(pack(q, bits, order), bits, columns, order), q[:, :columns])


def test_known_words():
    q = np.arange(8, dtype=np.uint8)[None]
    assert pack(q, 4)[0, 0] == 0x76543210
    assert pack(q, 4, "high-first")[0, 0] == 0x67452301
    assert pack(np.array([[0, 1, 2, 3] * 4], np.uint8), 2)[0, 0] == 0xE4E4E4E4
    assert pack(np.array([[0, 1, 2, 3] * 4], np.uint8), 2, "high-first")[0, 0] == 0x1B1B1B1B
    assert pack(np.array([[-1, -128, 127, 0]], np.int8), 8)[0, 0] == 0x007F80FF


@pytest.mark.parametrize(
    ("bits", "order"), [(8, "low-first"), (4, "low-first"), (4, "high-first"), (2, "high-first")]
)
def test_a_large_matrix_agrees_with_the_loop_on_a_sample(bits, order):
    rng = np.random.default_rng(bits)
    low, high = (-128, 127) if bits == 8 else (0, 2**bits - 1)
    q = rng.integers(low, high + 1, (4096, 14336), np.int8 if bits == 8 else np.uint8)
    words = pack(q, bits, order)
    for row in (0, 17, 18, 2047, 4095):  # both sides of the borders between chunks of rows
        assert words[row].tolist() == pack_row_slowly(q[row], bits, order)
    again = unpack(words, bits, 14336, order)
    rows = rng.integers(0, 4096, 400)
    np.testing.assert_array_equal(again[rows], q[rows])


def test_packing_reads_views_and_leaves_its_input_alone():
    q = np.arange(2 * 64).reshape(2, 64) % 16
    before = q.copy()
    np.testing.assert_array_equal(pack(q[:, ::2], 4), pack(np.ascontiguousarray(q[:, ::2]), 4))
    np.testing.assert_array_equal(q, before)
    words = pack(q, 4)
    np.testing.assert_array_equal(unpack(words[::-1], 4, 64), q[::-1])


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda: pack(np.full((2, 32), 16), 4), r"16 at \[0, 0\] is outside \[0, 15\]"),
        (lambda: pack(np.eye(32, dtype=int) * -1, 2), r"-1 at \[0, 0\]"),
        (lambda: pack(np.full((1, 32), 128), 8), r"128 at \[0, 0\] is outside \[-128, 127\]"),
        (lambda: pack(np.zeros((1, 12), int), 4), "12 columns"),
        (lambda: pack(np.zeros((1, 32)), 4), "float64"),
        (lambda: pack(np.zeros(32, int), 4), r"shape \(32,\)"),
        (lambda: pack(np.zeros((1, 32), int), 3), "3 is not allowed"),
        (lambda: pack(np.zeros((1, 32), int), 4, "big"), "'big' is not allowed"),
        (lambda: unpack(np.zeros((1, 4), np.uint32), 4, 33), "33 columns"),
        (lambda: unpack(np.zeros((1, 4), np.int32), 4, 32), "int32"),
    ],
)
def test_what_cannot_be_packed_is_refused(call, complaint):
    with pytest.raises(FormatError, match=complaint):
        call()


def test_a_q_out_of_range_is_found_behind_the_first_chunk_of_rows():
    q = np.zeros((600, 1024), np.uint8)
    q[599, 7] = 200
    with pytest.raises(FormatError, match=r"200 at \[599, 7\]"):
        pack(q, 4)
