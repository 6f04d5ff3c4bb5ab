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
dtype before e is measured, and padding has h = 0. A block leaves the grid once the weights that p clips cost
more than its best e, which no smaller p can mend; that changes no result.

Blocks are independent, so chunks of them run in threads (numpy releases the lock); memory stays at a few MB.
On a CUDA device large chunks follow each other.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

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
from workbench.quantizers.measure import Blocks, OneBlock

SHRINK = np.arange(100, 20, -1) / 100
REFITS = 4
# After so many values of p, blocks that no smaller p can improve are dropped. Not with 2 bits: a step, which
# the bound must allow for, is a third of the range there, and looking would cost more than it saves.
LOOK = 4
# Weights in a chunk: its few float32 temporaries fit the second-level cache, or fill the device.
_CHUNK = 1 << 16
_DEVICE_CHUNK = 1 << 26


class _Best:
    """The best parameters so far of each block."""

    def __init__(self, s: np.ndarray, z: np.ndarray, error: np.ndarray) -> None:
        self.s, self.z, self.error = s.copy(), z.copy(), error.copy()

    def offer(self, at: np.ndarray, s: np.ndarray, z: np.ndarray, error: np.ndarray) -> np.ndarray:
        """Takes the parameters of those of the blocks `at` whose error is smaller; a mask of them."""
        better = error < self.error[at]
        if better.any():
            where = at[better]
            self.s[where], self.z[where], self.error[where] = s[better], z[better], error[better]
        return better


def _hopeless(blocks: Blocks | OneBlock, lo: np.ndarray, s: np.ndarray, z: np.ndarray, error: np.ndarray):
    """Blocks that no smaller p can improve: what it clips alone costs more than their best `error`.

    s is the scale at p, lo its p * lo, and z the zero-point of a symmetric format. Beyond what q reaches a
    zero-point may lie by one step, and its rounding and that of the scale are allowed for.
    """
    low, high = blocks.format.q_range
    if blocks.format.symmetric:
        lower, upper = (low - z) * s, (high - z) * s
    else:
        slack = 1 + (high - low) * 2.0**-10
        lower, upper = lo - slack * s, lo + (high - low + slack) * s
    clipped = blocks.clipped(lower.astype(np.float32), upper.astype(np.float32)) * (1 - 1e-4)
    return (clipped >= error) & (s > SMALLEST_SCALE[blocks.format.scale_dtype])


def _shrink(blocks: Blocks | OneBlock, lo: np.ndarray, hi: np.ndarray, best: _Best) -> None:
    """The grid over p; blocks leave it once no smaller p can improve them."""
    format = blocks.format
    low, high = format.q_range
    at = np.arange(len(lo))
    for step, p in enumerate(SHRINK.astype(np.float32)):
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
            best.offer(at, s, z, error)
        if step % LOOK == LOOK - 1 and format.bits > 2:
            kept = ~_hopeless(blocks, p * lo, s, zeros[0], best.error[at])
            # Picking blocks costs a copy, which few blocks less do not pay for.
            if kept.mean() < 0.9:
                blocks, at, lo, hi = blocks.take(kept), at[kept], lo[kept], hi[kept]
            if not len(at):
                return


def _refit(blocks: Blocks | OneBlock, at: np.ndarray, best: _Best) -> np.ndarray:
    """One round of least squares for the blocks `at`; a mask of those that became better."""
    format, start = blocks.format, (best.s[at], best.z[at])
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
    improved = np.zeros(len(at), bool)
    kind = format.scale_dtype
    for s, z in candidates:
        usable = np.isfinite(s) & (s > 0) & np.isfinite(z)
        s = rounded_scale(
            np.clip(np.where(usable, s, start[0]), SMALLEST_SCALE[kind], LARGEST_SCALE[kind]), format
        )
        z = np.where(usable, z, start[1]).astype(np.float32)
        z = z if format.symmetric else rounded_zero(z, format)
        improved |= best.offer(at, s, z, blocks.error(s, [z])[0])
    return improved


def _search(blocks: Blocks | OneBlock, lo: np.ndarray, hi: np.ndarray) -> _Best:
    s, z = rtn.parameters(lo, hi, blocks.format)
    best = _Best(s, z, blocks.error(s, [z])[0])
    _shrink(blocks, lo, hi, best)
    at = np.arange(len(lo))
    for _ in range(REFITS):
        improved = _refit(blocks, at, best)
        blocks, at = blocks.take(improved), at[improved]
        if not len(at):
            break
    return best


def parameters(
    weights: np.ndarray, format: WeightFormat, importance: np.ndarray | None = None, device: str = "cpu"
) -> tuple[np.ndarray, np.ndarray]:
    """The best scale and zero-point of each block (float32 of `format.scale_shape`, rounded to what is
    stored).

    weights float32 [rows, columns], finite; importance [columns] or None. device: "cpu" is numpy; anything
    else is torch's name of a device ("cuda", "cuda:1"), where sums may round otherwise in the last place.
    """
    rows, columns = weights.shape
    h = checked_importance(importance, columns)
    lo, hi = rtn.ranges(weights, format)
    chunks = row_chunks(rows, columns, _CHUNK if device == "cpu" else _DEVICE_CHUNK)
    if format.granularity == "tensor":
        parts = list(chunks)

        def pieces():
            for part in parts:
                chunk = weights[part]
                each = None if h is None else np.broadcast_to(h, chunk.shape).reshape(1, -1)
                yield Blocks.make(chunk.reshape(1, -1), each, format, device)

        best = _search(OneBlock(pieces, format), lo[0], hi[0])
        return best.s[None], best.z[None]
    scales, zeros = np.empty_like(lo), np.empty_like(lo)
    if h is None and format.padded_columns(columns) != columns:
        h = np.ones(columns, np.float32)
    h = None if h is None else in_blocks(h[None], format)

    def chunk(part: slice) -> None:
        w = in_blocks(weights[part], format)
        flat = (-1, w.shape[2])
        spread = None if h is None else np.broadcast_to(h, w.shape).reshape(flat)
        blocks = Blocks.make(w.reshape(flat), spread, format, device)
        best = _search(blocks, lo[part].ravel(), hi[part].ravel())
        scales[part] = best.s.reshape(scales[part].shape)
        zeros[part] = best.z.reshape(zeros[part].shape)

    with ThreadPoolExecutor(os.cpu_count() if device == "cpu" else 1) as pool:
        for _ in pool.map(chunk, chunks):
            pass  # an error of a chunk is raised here
    return scales, zeros


def quantize(
    weights: np.ndarray, format: WeightFormat, importance: np.ndarray | None = None, *, device: str = "cpu"
) -> Quantized:
    """Quantizes weights [rows, columns] with the parameters of least (importance-weighted) squared error.

    importance: E[x^2] of each input channel [columns], not negative; None counts all alike. The search runs
    on `device`. Raises `ValueError` for non-finite weights (naming the first), for scales
    beyond the scale dtype, and for an unsuitable importance.
    """
    weights = checked_weights(weights, format)
    return quantize_with(weights, format, *parameters(weights, format, importance, device))


def quantize_weighted(
    weights: np.ndarray, format: WeightFormat, importance: np.ndarray, *, device: str = "cpu"
) -> Quantized:
    """`quantize` with an importance that must be there: the quantizer "grid-importance"."""
    if importance is None:
        raise ValueError("grid-importance needs the importance of each input channel; grid does without")
    return quantize(weights, format, importance, device=device)
