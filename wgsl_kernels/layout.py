"""How arrays lie on a device where kernels and plans must agree; numbers only, so that plans need not load torch."""

from __future__ import annotations

import numpy as np

#: Rows of float weights are padded with zeros to whole groups of so many columns.
FLOAT_GROUP = 32
#: Columns of INT8 activations that share a scale.
INT8_BLOCK = 32
#: What activations in INT8, and a key/value cache in INT8, are called in the forms of kernels.
A8, KV8 = "a8", "kv8"
#: Order of INT8 activation words by weight format: how far apart the columns lie that one mask picks from a word.
INT8_STRIDES = {"int8": 1, "int4": 2, "int2": 4}

#: Ranks of adapters are padded with zeros to multiples of so many.
LORA_STEP = 4

#: Words of a draw's options, in the order of `Options` in lib/draw.
OPTION_WORDS = 12
#: Numbers of a row of logits that one workgroup of a draw goes through, and how many parts the row has at most: every
#: workgroup adds them up.
PART, MOST_PARTS = 4096, 32


def cache_words(head_dim: int) -> int:
    """Words of a position of an INT8 cache, four dimensions each: whole 16 bytes, which is what one load takes."""
    return -(-head_dim // 16) * 4


def parts_of_row(width: int) -> int:
    """How many parts a draw takes a row of so many logits in."""
    return min(-(-width // PART), MOST_PARTS)


def seen_words(width: int) -> int:
    """Words of the set of seen tokens: a bit a token, and a last one that tells of unusable logits."""
    return -(-width // 32) + 1


def make_seen(width: int, ids) -> np.ndarray:
    """The set of seen tokens, u32 [seen_words(width)]."""
    words = np.zeros(seen_words(width), np.uint32)
    ids = np.unique(np.asarray(ids, dtype=np.int64))
    np.bitwise_or.at(words, ids // 32, np.uint32(1) << (ids % 32).astype(np.uint32))
    return words
