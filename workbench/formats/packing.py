"""How INT8, INT4 and INT2 are packed into little-endian u32 words, and unpacked again.

Weight k of a row lies in byte `k // n` of that row, n = 8 / bits, at a shift within the byte of

    low-first    bits * (k % n)             int4: the even weight in the low nibble
    high-first   bits * (n - 1 - k % n)     int4: the even weight in the high nibble

and a word is four such bytes, the first in its lowest eight bits. In low-first order that makes weight k
simply bits `bits * (k % (32 / bits))` upwards of word `k // (32 / bits)`, which is how the kernels read it:

    q4 = (words[k / 8] >> (4 * (k % 8))) & 15
    q2 = (words[k / 16] >> (2 * (k % 16))) & 3
    q8 = i32(words[k / 4] << (24 - 8 * (k % 4))) >> 24        two's complement
"""

from __future__ import annotations

import numpy as np

from workbench.formats.errors import FormatError
from workbench.formats.spec import ORDERS

WORD = np.dtype("<u4")
# Rows are handled so many weights at a time, so that the working set stays in the cache.
_CHUNK = 1 << 18


def _check(bits: int, order: str) -> None:
    if bits not in (2, 4, 8):
        raise FormatError(f"{bits!r} is not allowed, only 2, 4 or 8", field="bits")
    if order not in ORDERS:
        raise FormatError(f"{order!r} is not allowed, only {' or '.join(map(repr, ORDERS))}", field="order")


def _shifts(bits: int, order: str) -> list[int]:
    shifts = list(range(0, 8, bits))
    return shifts if order == "low-first" else shifts[::-1]


def _row_chunks(rows: int, columns: int):
    step = max(1, _CHUNK // max(1, columns))
    for start in range(0, rows, step):
        yield slice(start, min(rows, start + step))


def pack(q: np.ndarray, bits: int, order: str = "low-first") -> np.ndarray:
    """Packs integers q [rows, columns] into uint32 [rows, columns * bits / 32].

    `columns` must fill whole words. q may have any integer dtype; it lies in [-128, 127] for 8 bits and in
    [0, 2**bits - 1] otherwise, or `FormatError` tells the first that does not.
    """
    _check(bits, order)
    q = np.asarray(q)
    if q.ndim != 2 or q.dtype.kind not in "iu":
        raise FormatError(
            f"has shape {q.shape} and dtype {q.dtype}, but needs integers [rows, columns]", field="q"
        )
    rows, columns = q.shape
    if columns * bits % 32:
        raise FormatError(f"{columns} columns of {bits} bits do not fill whole 32-bit words", field="q")
    low, high = (-128, 127) if bits == 8 else (0, 2**bits - 1)
    packed = np.empty((rows, columns * bits // 8), np.uint8)
    per_byte, shifts = 8 // bits, _shifts(bits, order)
    for part in _row_chunks(rows, columns):
        chunk = q[part]
        if chunk.size and (chunk.min() < low or chunk.max() > high):
            row, column = np.argwhere((chunk < low) | (chunk > high))[0]
            value = chunk[row, column]
            raise FormatError(
                f"{value} at [{part.start + row}, {column}] is outside [{low}, {high}] of {bits} bits",
                field="q",
            )
        chunk = chunk.astype(np.int8 if bits == 8 else np.uint8, copy=False).view(np.uint8)
        out = packed[part]
        np.left_shift(chunk[:, 0::per_byte], shifts[0], out=out)
        for index in range(1, per_byte):
            out |= chunk[:, index::per_byte] << np.uint8(shifts[index])
    return packed.view(WORD)


def unpack(words: np.ndarray, bits: int, columns: int, order: str = "low-first") -> np.ndarray:
    """Unpacks uint32 words [rows, n] into q [rows, columns]: int8 for 8 bits, else uint8.

    `columns` may leave out weights at the end of the rows (their padding).
    """
    _check(bits, order)
    words = np.asarray(words)
    if words.ndim != 2 or words.dtype != WORD:
        raise FormatError(
            f"has shape {words.shape} and dtype {words.dtype}, but needs uint32 [rows, n]", field="words"
        )
    rows, stored = words.shape[0], words.shape[1] * 32 // bits
    if not 0 <= columns <= stored:
        raise FormatError(f"{columns} columns are asked for, but a row holds {stored}", field="columns")
    packed = np.ascontiguousarray(words).view(np.uint8)
    if bits == 8:
        return packed[:, :columns].view(np.int8)
    per_byte, mask = 8 // bits, np.uint8(2**bits - 1)
    q = np.empty((rows, stored), np.uint8)
    for part in _row_chunks(rows, stored):
        for index, shift in enumerate(_shifts(bits, order)):
            np.bitwise_and(packed[part] >> np.uint8(shift), mask, out=q[part, index::per_byte])
    return q[:, :columns]
