"""Blocks of GGUF's tensors: types that are `w = s (q - z)` or `w = s q + b` as integers; of all the weights, by the
`gguf` package.

Blocks of 32 (Q2_0: 64 or 128) weights along a row begin with their scale d in f16. The bytes behind it:

    Q8_0    32 signed bytes                                   w = d q
    Q4_0    16, weights j and j + 16 in nibbles of byte j     w = d (q - 8)
    Q5_0    32 fifth bits, then as Q4_0                       w = d (q - 16)
    IQ4_NL  as Q4_0, but the nibble names one of `CODE`       w = d CODE[q]
    IQ4_XS  256 as IQ4_NL; eight scales of 6 bits before      w = (d (s - 32)) CODE[q]
    Q2_0    four a byte, the first in the lowest bits         w = d (q - 1)
    Q4_1    m in f16, then as Q4_0                            w = d q + m
    Q5_1    m in f16, then as Q5_0                            w = d q + m
    Q4_K    256 in eight blocks, see `_packed_scales`         w = (d s) q - e n
    Q5_K    as Q4_K, with fifth bits                          w = (d s) q - e n

The rest has blocks of 16, or codebooks of vectors.
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
    "Q4_1": (4, 0),
    "Q5_1": (5, 0),
    "Q4_K": (4, 0),
    "Q5_K": (5, 0),
}
FLOATS = {"F32": "f32", "F16": "f16", "BF16": "bf16"}
#: Why a type comes as floats.
WHY: dict[str, str] = dict.fromkeys(("Q2_K", "Q3_K", "Q6_K"), "its blocks of 16 are no multiple of 32")


def grid_of(tensor: GgufTensor) -> Grid | None:
    """Scales, and zero-points or offsets, of a matrix; None for a type that has no integers."""
    if (name := tensor.type_name) not in INTEGERS:
        return None
    bits, zero = INTEGERS[name]
    blocks, columns = _blocks(tensor.data, tensor), tensor.shape[-1]
    scales = _f16(blocks, 0)
    group = tensor.block[0]
    if name in ("Q4_1", "Q5_1"):
        return Grid(bits, columns, group, scales, 0, offsets=_f16(blocks, 2))
    if name in ("Q4_K", "Q5_K"):
        six, offsets = _packed_scales(blocks[..., 4:16])
        scales = scales[..., None] * six.astype(np.float32)
        offsets = -_f16(blocks, 2)[..., None] * offsets.astype(np.float32)
        rows = len(blocks)
        return Grid(bits, columns, 32, scales.reshape(rows, -1), 0, offsets=offsets.reshape(rows, -1))
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
    elif name in ("Q5_0", "Q5_1"):
        at = 2 if name == "Q5_0" else 4
        fifth = np.unpackbits(np.ascontiguousarray(blocks[..., at : at + 4]), axis=-1, bitorder="little")
        q = _nibbles(blocks[..., at + 4 :]) | fifth << np.uint8(4)
    elif name in ("Q4_0", "Q4_1"):
        q = _nibbles(blocks[..., 2 if name == "Q4_0" else 4 :])
    elif name in ("Q4_K", "Q5_K"):
        q = _nibbles(blocks[..., -128:].reshape(*blocks.shape[:2], 4, 32)).reshape(*blocks.shape[:2], 8, 32)
        if name == "Q5_K":  # block j has bit j of 32 bytes
            q = q | (blocks[..., None, 16:48] >> np.arange(8, dtype=np.uint8)[:, None] & 1) << np.uint8(4)
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


def _f16(blocks: np.ndarray, at: int) -> np.ndarray:
    """The number at byte `at` of each block, f32 [rows, blocks]."""
    return np.ascontiguousarray(blocks[..., at : at + 2]).view("<f2")[..., 0].astype(np.float32)


def _packed_scales(packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scales and offsets of the eight blocks in one of Q4_K or Q5_K, uint8 [..., 8], 6 bits each, of 12 bytes.

    Bytes 0 to 3 hold scales 0 to 3 and, in their highest bits, the highest two of scales 4 to 7; bytes 4 to 7 the
    offsets alike; bytes 8 to 11 the lower four of scales (low nibbles) and offsets 4 to 7.
    """
    first, second, last = (packed[..., at : at + 4] for at in (0, 4, 8))
    scales = np.concatenate([first & 63, last & 15 | first >> 2 & 48], axis=-1)
    return scales, np.concatenate([second & 63, last >> 4 | second >> 2 & 48], axis=-1)


def _nibbles(packed: np.ndarray) -> np.ndarray:
    """uint8 [..., 2 n] of [..., n]: all low nibbles, then all high ones."""
    return np.concatenate([packed & 15, packed >> 4], axis=-1)


# ---- the other way ------------------------------------------------------------------------------------------------


def packed_q4_0(q: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Rows of Q4_0, uint8 [rows, bytes], of q 0 to 15 [rows, columns] with z 8, and scales f16 [rows, blocks]."""
    halves = q.astype(np.uint8).reshape(len(q), -1, 2, 16)
    return _with_scales(scales, halves[..., 0, :] | halves[..., 1, :] << np.uint8(4))


def packed_q4_1(q: np.ndarray, scales: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Rows of Q4_1, uint8 [rows, bytes], of q 0 to 15 [rows, columns], scales and offsets f16 [rows, blocks]."""
    halves = q.astype(np.uint8).reshape(len(q), -1, 2, 16)
    both = np.ascontiguousarray(np.stack([scales, offsets], axis=-1), "<f2").view(np.uint8)
    packed = halves[..., 0, :] | halves[..., 1, :] << np.uint8(4)
    return np.concatenate([both, packed], axis=-1).reshape(len(q), -1)


def packed_q8_0(q: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Rows of Q8_0, uint8 [rows, bytes], of signed q [rows, columns] and scales f16 [rows, blocks]."""
    return _with_scales(scales, q.astype(np.int8).reshape(len(q), -1, 32).view(np.uint8))


def _with_scales(scales: np.ndarray, packed: np.ndarray) -> np.ndarray:
    before = np.ascontiguousarray(scales, "<f2")[..., None].view(np.uint8)
    return np.concatenate([before, packed], axis=-1).reshape(len(packed), -1)
