"""Integers of 1 to 8 bits as an unbroken stream of bits in little-endian 32-bit words: value i at bit `bits * i`.

For 2, 4 and 8 bits that is "so many a word, the first in its lowest bits"; values of 3, 5, 6 and 7 bits lie across
words. GPTQ and compressed-tensors pack so, along different dimensions.
"""

from __future__ import annotations

import numpy as np

#: Words, or values, that are taken at a time: bounds what unpacking holds beside its result.
_CHUNK = 1 << 18


def unpack_words(words: np.ndarray, bits: int, count: int) -> np.ndarray:
    """uint8 [rows, count] of words int32 or uint32 [rows, n], the values packed along the last dimension.

    n is at least `count * bits / 32`, rounded up.
    """
    words = np.ascontiguousarray(words).view("<u4")
    if 8 % bits == 0:  # values end with their bytes
        packed = words.view(np.uint8)
        values = np.empty((*packed.shape, 8 // bits), np.uint8)
        for at in range(8 // bits):
            values[..., at] = (packed >> np.uint8(at * bits)) & np.uint8(2**bits - 1)
        return values.reshape(len(words), -1)[:, :count]
    result = np.empty((len(words), count), np.uint8)
    step = max(1, _CHUNK // max(1, words.shape[1]))
    for start in range(0, len(words), step):
        stream = np.unpackbits(words[start : start + step].view(np.uint8), axis=1, bitorder="little")
        each = stream[:, : count * bits].reshape(len(stream), count, bits)
        result[start : start + step] = np.packbits(each, axis=2, bitorder="little")[..., 0]
    return result


def pack_words(values: np.ndarray, bits: int) -> np.ndarray:
    """int32 [rows, n] of values 0 to 2**bits - 1, uint8 [rows, count]: the inverse of `unpack_words`, padded with zeros
    to whole words."""
    rows, count = values.shape
    words = np.zeros((rows, -(-count * bits // 32)), "<u4")
    step = max(1, _CHUNK // max(1, count))
    for start in range(0, rows, step):
        part = np.ascontiguousarray(values[start : start + step], np.uint8)
        stream = np.unpackbits(part[..., None], axis=2, bitorder="little", count=bits)
        packed = np.packbits(stream.reshape(len(part), -1), axis=1, bitorder="little")
        words[start : start + step].view(np.uint8)[:, : packed.shape[1]] = packed
    return words.view("<i4")
