"""Grid search and least squares: the scale and zero-point of each block with the least squared error.

The range that round to nearest spans is shrunk step by step (clipping the largest weights may make all the
others finer), then scale and zero-point are refitted to the q that they led to:

    for p in 1.00, 0.99, ... 0.21:
        s = p * (hi - lo) / (high - low);   z = floor and ceil of low - p * lo / s
        keep the (s, z) with the least  e = sum h * (s * (q - z) - w)^2
    4 times, with the q of the best (s, z) and c = q - z':
        z' = z, z - 1, z + 1:   s' = sum h*w*c / sum h*c^2;   keep what is better after rounding and
        requantizing fractional zero-points: also (s', z') of the two-parameter fit w ~ s' * (q - z')

h is the importance of each input channel, E[x^2] over calibration data, or 1: then e is the expected squared
error of the layer's output, if channels were independent. A symmetric format keeps its z. The search starts
from the parameters of round to nearest, so it is never worse than that in e. All scales are rounded to their
dtype before e is measured, and padding has h = 0.

Blocks are independent, so chunks of them run in threads (numpy releases the lock); memory stays at a few MB.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from workbench.formats.spec import WeightFormat
from workbench.quantizers import rtn
from workbench.quantizers.blocks import (
    LARGEST_SCALE,
    SMALLEST_SCALE,
    Quantized,
    checked_importance,
    checked_weights,
    in_blocks,
    quantize_with,
    rounded_scale,
    rounded_zero,
    row_chunks,
)

SHRINK = np.arange(100, 20, -1) / 100
REFITS = 4
# Weights in a chunk: its few float32 temporaries fit the second-level cache.
_CHUNK = 1 << 16
# Blocks up to this length are laid out block-last, so that numpy's inner loops run over many blocks at once.
_SHORT = 1024


@dataclass(frozen=True)
class _Sums:
    """Weighted sums of a group of weights w and its c = q - z, float64."""

    wc: np.ndarray
    cc: np.ndarray
    c: np.ndarray
    w: np.ndarray
    one: np.ndarray


class _Blocks:
    """Weights of some blocks with their importance; measures parameters, all blocks at once.

    w is [blocks, block] or, for short blocks, its transpose; h likewise, or None where every weight counts 1.
    """

    def __init__(self, w: np.ndarray, h: np.ndarray | None, format: WeightFormat) -> None:
        self.format = format
        self.last = w.shape[1] <= _SHORT
        self.w = np.ascontiguousarray(w.T) if self.last else w
        self.h = None if h is None else np.ascontiguousarray(h.T) if self.last else h

    def _spread(self, each: np.ndarray) -> np.ndarray:
        return each[None, :] if self.last else each[:, None]

    def _sum(self, left: np.ndarray, right: np.ndarray | None = None) -> np.ndarray:
        """Sum over each block of left * right, float64 after the sum."""
        if right is None:
            return left.sum(axis=0 if self.last else 1, dtype=np.float64)
        return np.einsum("kg,kg->g" if self.last else "gk,gk->g", left, right).astype(np.float64)

    def levels(self, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """w / s, and the same rounded."""
        level = self.w / self._spread(s)
        return level, np.rint(level)

    def centred(self, level: np.ndarray, rounded: np.ndarray, z: np.ndarray) -> np.ndarray:
        """c = q - z for the q nearest to the weights."""
        low, high = (np.float32(end) for end in self.format.q_range)
        # maximum and minimum take a third of the time of clip with array bounds (numpy 2.4).
        if not self.format.zero_frac_bits:
            c = np.maximum(rounded, self._spread(low - z))
            return np.minimum(c, self._spread(high - z), out=c)
        c = level + self._spread(z)
        np.clip(np.rint(c, out=c), low, high, out=c)
        c -= self._spread(z)
        return c

    def error(self, s: np.ndarray, zeros: list[np.ndarray]) -> list[np.ndarray]:
        """The weighted squared error of each block for scales s and each of some zero-points."""
        level, rounded = self.levels(s)
        squared = s.astype(np.float64) ** 2
        errors = []
        for z in zeros:
            d = self.centred(level, rounded, z)
            d -= level
            if self.h is None:
                errors.append(squared * self._sum(d, d))
            else:
                errors.append(squared * self._sum(np.multiply(d, d, out=d), self.h))
        return errors

    def sums(self, s: np.ndarray, z: np.ndarray) -> _Sums:
        """What the refits need, for the q of (s, z)."""
        c = self.centred(*self.levels(s), z)
        hc = c if self.h is None else c * self.h
        hw = self.w if self.h is None else self.w * self.h
        one = np.full(c.shape[1 if self.last else 0], float(c.shape[0 if self.last else 1]))
        return _Sums(
            wc=self._sum(self.w, hc),
            cc=self._sum(c, hc),
            c=self._sum(hc),
            w=self._sum(hw),
            one=one if self.h is None else self._sum(self.h),
        )


class _OneBlock:
    """A whole matrix as one block, measured chunk by chunk of rows: the same methods as `_Blocks`, for one
    block.
    """

    def __init__(self, weights: np.ndarray, h: np.ndarray | None, format: WeightFormat) -> None:
        self.weights, self.h, self.format = weights, h, format

    def _chunks(self):
        rows, columns = self.weights.shape
        for part in row_chunks(rows, columns, _CHUNK):
            chunk = self.weights[part].reshape(1, -1)
            h = (
                None
                if self.h is None
                else np.broadcast_to(self.h, (chunk.size // columns, columns)).reshape(1, -1)
            )
            yield _Blocks(chunk, h, self.format)

    def error(self, s: np.ndarray, zeros: list[np.ndarray]) -> list[np.ndarray]:
        return list(np.sum([chunk.error(s, zeros) for chunk in self._chunks()], axis=0))

    def sums(self, s: np.ndarray, z: np.ndarray) -> _Sums:
        parts = [vars(chunk.sums(s, z)) for chunk in self._chunks()]
        return _Sums(**{name: np.sum([part[name] for part in parts], axis=0) for name in parts[0]})


class _Best:
    """The best parameters so far of each block."""

    def __init__(self, s: np.ndarray, z: np.ndarray, error: np.ndarray) -> None:
        self.s, self.z, self.error = s.copy(), z.copy(), error.copy()

    def offer(self, s: np.ndarray, z: np.ndarray, error: np.ndarray) -> bool:
        """Takes the parameters of the blocks whose error is smaller; True if there are any."""
        better = error < self.error
        if not better.any():
            return False
        for mine, offered in ((self.s, s), (self.z, z), (self.error, error)):
            np.copyto(mine, offered, where=better)
        return True


def _shrink(blocks: _Blocks | _OneBlock, lo: np.ndarray, hi: np.ndarray, best: _Best) -> None:
    """The grid over p."""
    format = blocks.format
    low, high = format.q_range
    for p in SHRINK.astype(np.float32):
        if format.symmetric:
            s, z = rtn.parameters(p * lo, p * hi, format)
            zeros = [z]
        else:
            s = rounded_scale(p * (hi - lo) / np.float32(high - low), format)
            exact = low - p * lo / s
            zeros = [np.clip(end(exact), np.float32(low), np.float32(high)) for end in (np.floor, np.ceil)]
            if format.zero_frac_bits:
                zeros.append(rtn.clamped_zero(exact, format))
        for z, error in zip(zeros, blocks.error(s, zeros), strict=True):
            best.offer(s, z, error)


def _refit(blocks: _Blocks | _OneBlock, best: _Best) -> bool:
    """One round of least squares; False if nothing became better."""
    format, start = blocks.format, (best.s.copy(), best.z.copy())
    sums = blocks.sums(*start)
    candidates = []
    with np.errstate(all="ignore"):
        # c = q - z' = (q - z) - delta, so that the sums for z serve its neighbours as well.
        for delta in (0,) if format.symmetric or format.zero_frac_bits else (0, -1, 1):
            wc = sums.wc - delta * sums.w
            cc = sums.cc - 2 * delta * sums.c + delta**2 * sums.one
            candidates.append((wc / cc, start[1] + np.float32(delta)))
        if format.zero_frac_bits:
            a = (sums.one * sums.wc - sums.c * sums.w) / (sums.one * sums.cc - sums.c**2)
            b = (sums.w - a * sums.c) / sums.one
            candidates.append((a, start[1] - b / a))
    improved = False
    kind = format.scale_dtype
    for s, z in candidates:
        usable = np.isfinite(s) & (s > 0) & np.isfinite(z)
        s = rounded_scale(
            np.clip(np.where(usable, s, start[0]), SMALLEST_SCALE[kind], LARGEST_SCALE[kind]), format
        )
        z = np.where(usable, z, start[1]).astype(np.float32)
        z = z if format.symmetric else rounded_zero(z, format)
        improved |= best.offer(s, z, blocks.error(s, [z])[0])
    return improved


def _search(blocks: _Blocks | _OneBlock, lo: np.ndarray, hi: np.ndarray) -> _Best:
    s, z = rtn.parameters(lo, hi, blocks.format)
    best = _Best(s, z, blocks.error(s, [z])[0])
    _shrink(blocks, lo, hi, best)
    for _ in range(REFITS):
        if not _refit(blocks, best):
            break
    return best


def parameters(
    weights: np.ndarray, format: WeightFormat, importance: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The best scale and zero-point of each block (float32 of `format.scale_shape`, rounded to what is
    stored).

    weights float32 [rows, columns], finite; importance [columns] or None.
    """
    rows, columns = weights.shape
    h = checked_importance(importance, columns)
    lo, hi = rtn.ranges(weights, format)
    scales, zeros = np.empty_like(lo), np.empty_like(lo)
    if format.granularity == "tensor":
        best = _search(_OneBlock(weights, h, format), lo[0], hi[0])
        return best.s[None], best.z[None]
    padded = format.padded_columns(columns)
    if h is None and padded != columns:
        h = np.ones(columns, np.float32)
    h = None if h is None else in_blocks(h[None], format)

    def chunk(part: slice) -> None:
        w = in_blocks(weights[part], format)
        flat = (-1, w.shape[2])
        spread = None if h is None else np.broadcast_to(h, w.shape).reshape(flat)
        best = _search(_Blocks(w.reshape(flat), spread, format), lo[part].ravel(), hi[part].ravel())
        scales[part] = best.s.reshape(scales[part].shape)
        zeros[part] = best.z.reshape(zeros[part].shape)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(chunk, row_chunks(rows, columns, _CHUNK)):
            pass  # an error of a chunk is raised here
    return scales, zeros


def quantize(weights: np.ndarray, format: WeightFormat, importance: np.ndarray | None = None) -> Quantized:
    """Quantizes weights [rows, columns] with the parameters of least (importance-weighted) squared error.

    importance: E[x^2] of each input channel [columns], not negative; None counts all alike. Raises
    `ValueError` for non-finite weights (naming the first), for scales beyond the scale dtype, and for an
    unsuitable importance.
    """
    weights = checked_weights(weights, format)
    return quantize_with(weights, format, *parameters(weights, format, importance))
