"""Whether weights are finite: one pass over their exponents, in their own type."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from workbench.errors import CheckpointError

#: Type of an array -> (its bits as an integer, those of the exponent). uint16 holds bf16.
_EXPONENT = {
    np.dtype("<f4"): (np.dtype("<u4"), 0x7F800000),
    np.dtype("<f2"): (np.dtype("<u2"), 0x7C00),
    np.dtype("<u2"): (np.dtype("<u2"), 0x7F80),
}
#: Weights at a time: what stays in a core's cache.
_CHUNK = 1 << 18


def require_finite(where: str | Path, name: str, start: int, values: np.ndarray) -> None:
    """Raise CheckpointError naming the first weight that is NaN or infinite.

    where: the file or folder, for the message; values: rows of the tensor from `start` on, f32, f16 or the bits of
    bf16 (uint16).
    """
    bits, mask = _EXPONENT[values.dtype]
    flat = values.reshape(-1).view(bits)
    mask = bits.type(mask)
    for first in range(0, len(flat), _CHUNK):
        exponents = flat[first : first + _CHUNK] & mask
        if exponents.max() == mask:
            _refuse(where, name, start, values, first + int((exponents == mask).argmax()))


def _refuse(where: str | Path, name: str, start: int, values: np.ndarray, at: int) -> None:
    value = values.reshape(-1)[at]
    if values.dtype == np.uint16:
        value = np.array(int(value) << 16, np.uint32).view(np.float32)
    index = [int(each) for each in np.unravel_index(at, values.shape)]
    if index:
        index[0] += start
    raise CheckpointError(f"{where}: tensor {name!r} is not finite: {value} at {index}")
