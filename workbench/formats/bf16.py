"""bfloat16, which numpy lacks: the upper 16 bits of a float32, kept as uint16."""

from __future__ import annotations

import numpy as np


def to_bf16(values: np.ndarray) -> np.ndarray:
    """float32 of any shape -> bf16 bits (uint16), rounded to nearest, ties to even.

    A NaN stays a NaN (its payload may not survive), an infinity an infinity; values beyond the largest bf16
    become infinite, as IEEE rounding asks.
    """
    values = np.asarray(values, np.float32)
    bits = values.view(np.uint32)
    # Adding half of what is cut off, less one when the kept part is even, rounds ties to even. It may carry
    # into the exponent, which is right; only a NaN would wrap, so it is set apart.
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    quiet = (bits >> 16) | 0x40
    return np.where(np.isnan(values), quiet, rounded).astype(np.uint16)


def from_bf16(bits: np.ndarray) -> np.ndarray:
    """bf16 bits (uint16) -> float32 of the same shape, exactly."""
    bits = np.asarray(bits)
    if bits.dtype != np.uint16:
        raise TypeError(f"bf16 bits are uint16, not {bits.dtype}")
    return np.asarray(bits.astype(np.uint32) << 16).view(np.float32)
