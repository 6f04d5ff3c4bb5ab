"""How arrays lie on a device where kernels and plans must agree; numbers only, so that plans need not load torch."""

from __future__ import annotations

#: Rows of float weights are padded with zeros to whole groups of so many columns.
FLOAT_GROUP = 32
#: Columns of INT8 activations that share a scale.
INT8_BLOCK = 32
#: What activations in INT8, and a key/value cache in INT8, are called in the forms of kernels.
A8, KV8 = "a8", "kv8"
#: Order of INT8 activation words by weight format: how far apart the columns lie that one mask picks from a word.
INT8_STRIDES = {"int8": 1, "int4": 2, "int2": 4}


def cache_words(head_dim: int) -> int:
    """Words of a position of an INT8 cache, four dimensions each: whole 16 bytes, which is what one load takes."""
    return -(-head_dim // 16) * 4
