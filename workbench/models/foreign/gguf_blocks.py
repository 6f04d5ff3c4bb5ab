"""Blocks of GGUF's tensors: types that are `w = s (q - z)` as integers; of all the weights, by the `gguf` package.

Blocks of 32 (Q2_0: 64 or 128) weights along a row begin with their scale d in f16. The bytes behind it:

    Q8_0    32 signed bytes                                   w = d q
    Q4_0    16, weights j and j + 16 in nibbles of byte j     w = d (q - 8)
    Q5_0    32 fifth bits, then as Q4_0                       w = d (q - 16)
    IQ4_NL  as Q4_0, but the nibble names one of `CODE`       w = d CODE[q]
    IQ4_XS  256 as IQ4_NL; eight scales of 6 bits before      w = (d (s - 32)) CODE[q]
    Q2_0    four a byte, the first in the lowest bits         w = d (q - 1)

The rest has blocks of 16, offsets, or codebooks of vectors.
"""

from __future__ import annotations

import numpy as np

from workbench.models.foreign.gguf_file import GgufTensor
from workbench.models.foreign.integers import Grid
from workbench.models.foreign.words import unpack_words

#: The values of IQ4_NL and IQ4_XS.
CODE = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
#: Type -> bits of q as it is kept, and its zero-point.
INTEGERS = {
    "Q8_0": (8, 128),
    "Q4_0": (4, 8),
    "Q5_0": (5, 16),
    "IQ4_NL": (8, 128),
    "IQ4_XS": (8, 128),
    "Q2_0": (2, 1),
}
FLOATS = {"F32": "f32", "F16": "f16", "BF16": "bf16"}
#: Why a type comes as floats.
WHY = {
    **dict.fromkeys(
        ("Q4_1", "Q5_1", "Q4_K", "Q5_K"), "its blocks have offsets, s q + m, which no format has"
    ),
    **dict.fromkeys(("Q2_K", "Q3_K", "Q6_K"), "its blocks of 16 are no multiple of 32"),
}


def grid_of(tensor: GgufTensor) -> Grid | None:
    """Scales and zero-points of a matrix; None for a type that has no integers."""
    if (name := tensor.type_name) not in INTEGERS:
        return None
    bits, zero = INTEGERS[name]
    blocks, columns = _blocks(tensor.data, tensor), tensor.shape[-1]
    scales = np.ascontiguousarray(blocks[..., :2]).view("<f2")[..., 0].astype(np.float32)
    group = tensor.block[0]
    if name == "IQ4_XS":
        low, high = blocks[..., 4:8], np.ascontiguousarray(blocks[..., 2:4]).view("<u2")
        at = np.arange(8)
        six = (low[..., at // 2] >> (4 * (at % 2)).astype(np.uint8)) & 15
        six = six | ((high >> (2 * at).astype(np.uint16)) & 3).astype(np.uint8) << np.uint8(4)
        scales = (scales[..., None] * (six.astype(np.float32) - 32)).reshape(len(scales), -1)
        group = 32
    return Grid(bits, columns, group, scales, zero)


def quants_of(rows: np.ndarray, tensor: GgufTensor) -> np.ndarray:
    """q, uint8 [n, columns], of rows of the tensor's data, uint8 [n, bytes of a row]."""
    blocks, name = _blocks(rows, tensor), tensor.type_name
    if name == "Q8_0":
        q = blocks[..., 2:] ^ 0x80
    elif name == "Q2_0":
        words = np.ascontiguousarray(blocks[..., 2:]).view("<i4")
        q = unpack_words(words.reshape(-1, words.shape[-1]), 2, tensor.block[0])
    elif name == "Q5_0":
        fifth = np.unpackbits(np.ascontiguousarray(blocks[..., 2:6]), axis=-1, bitorder="little")
        q = _nibbles(blocks[..., 6:]) | fifth << np.uint8(4)
    elif name == "Q4_0":
        q = _nibbles(blocks[..., 2:])
    else:
        packed = blocks[..., 2:] if name == "IQ4_NL" else blocks[..., 8:].reshape(*blocks.shape[:2], 8, 16)
        q = (np.array(CODE, np.int16) + 128).astype(np.uint8)[_nibbles(packed)]
    return q.reshape(len(rows), -1)


def floats_of(rows: np.ndarray, tensor: GgufTensor) -> np.ndarray:
    """Weights in f32 [n, columns] of rows of the tensor's data, as the `gguf` package reads them.

    Raises NotImplementedError for a type that it does not.
    """
    import gguf

    kind = gguf.GGMLQuantizationType(tensor.kind)
    if kind in (gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16):
        rows = np.ascontiguousarray(rows).view("<f4" if kind == gguf.GGMLQuantizationType.F32 else "<f2")
    with np.errstate(all="ignore"):  # what is not finite is found behind it
        return np.asarray(gguf.dequantize(rows, kind), np.float32)


def _blocks(rows: np.ndarray, tensor: GgufTensor) -> np.ndarray:
    """uint8 [rows, blocks, bytes of a block]."""
    return rows.reshape(len(rows), -1, tensor.block[1])


def _nibbles(packed: np.ndarray) -> np.ndarray:
    """uint8 [..., 32] of [..., 16]: all low nibbles, then all high ones."""
    return np.concatenate([packed & 15, packed >> 4], axis=-1)


# ---- the other way ------------------------------------------------------------------------------------------------


def packed_q4_0(q: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Rows of Q4_0, uint8 [rows, bytes], of q 0 to 15 [rows, columns] with z 8, and scales f16 [rows, blocks]."""
    halves = q.astype(np.uint8).reshape(len(q), -1, 2, 16)
    return _with_scales(scales, halves[..., 0, :] | halves[..., 1, :] << np.uint8(4))


def packed_q8_0(q: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Rows of Q8_0, uint8 [rows, bytes], of signed q [rows, columns] and scales f16 [rows, blocks]."""
    return _with_scales(scales, q.astype(np.int8).reshape(len(q), -1, 32).view(np.uint8))


def _with_scales(scales: np.ndarray, packed: np.ndarray) -> np.ndarray:
    before = np.ascontiguousarray(scales, "<f2")[..., None].view(np.uint8)
    return np.concatenate([before, packed], axis=-1).reshape(len(packed), -1)
