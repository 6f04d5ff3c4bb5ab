"""Half-quadratic quantization (HQQ; Badri and Shaji 2023): the zero-point of each block, found without data.

What is minimised is the l_p criterion  sum |W - W_r|^p  with p = 0.7, which lets a few weights lose much so
that all the others lose little. The scale stays that of round to nearest; only the zero-point moves:

    q    = clamp(rint(W / s + z)),   W_r = s * (q - z)
    W_e  = shrink(W - W_r, beta),    shrink(x, beta) = sign(x) * max(|x| - |x|^(p - 1) / beta, 0)
    z    = mean over the block of  q - (W - W_e) / s
    beta = beta * kappa

from beta = 1 with kappa = 1.01, 20 times, or until the mean of |W - W_r| of the block no longer falls. Three
things differ from the published program:

- Residuals are measured in steps, (W - W_r) / s, so that a matrix and its double get the same q. In units
  of the weights, beta means something else for each matrix. Either way beta = 1 is cautious: shrink leaves
  nothing of what is below 1 (in steps: of all that is not clipped), so that z moves by the mean residual, as
  it does in the published program for weights of usual size. The criterion then makes the choice.
- The iterates are not rounded, but what counts is what can be stored: of the zero-points met on the way,
  rounded and clamped (to an integer in the range of q, or to int8 fixed point if `zero_frac_bits` > 0), the
  one with the least criterion is kept. Round to nearest is the first of them, so that HQQ is never worse
  than that. For fractional formats its integer zero-point is the second: then weights of 0 are stored as 0,
  which counts with p = 0.7 where many are near 0, and the fraction is never worse than none.
- Each block stops for itself, hence its result does not depend on its neighbours.

The mean residual of a block is seldom half a step, so that integer zero-points hardly ever move: HQQ is for
fractional ones. Symmetric formats have nothing that it could optimise, and are refused.

Blocks are independent, so chunks of them run in threads (numpy releases the lock); memory stays at a few MB.
Columns of the padding do not take part.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from workbench.formats.spec import WeightFormat
from workbench.quantizers import rtn
from workbench.quantizers.blocks import Quantized, checked_weights, quantize_with, rounded_zero, row_chunks

P = 0.7
BETA = 1.0
KAPPA = 1.01
ITERATIONS = 20
# Weights in a chunk: its few float32 temporaries fit the second-level cache.
_CHUNK = 1 << 16


def check_format(format: WeightFormat) -> None:
    """Raise `ValueError` for a symmetric format: there is no zero-point to optimise."""
    if format.is_quantized and format.symmetric:
        raise ValueError(
            f"hqq optimises the zero-point, and the symmetric format {format} has none; "
            "allowed: formats with zero-points (symmetric = False), or the quantizers rtn and grid"
        )


def shrink(x: np.ndarray, beta: float) -> np.ndarray:
    """The shrinkage of l_p, sign(x) * max(|x| - |x|^(p - 1) / beta, 0), for x of any shape."""
    result = np.zeros_like(x)
    size = np.abs(x)
    # Below this size nothing is left; most residuals are, and powers are slow.
    large = size > beta ** (-1 / (2 - P))
    if large.any():
        size = size[large]
        result[large] = np.copysign(
            np.maximum(size - size ** np.float32(P - 1) / np.float32(beta), 0), x[large]
        )
    return result


def _residual(level: np.ndarray, z: np.ndarray, format: WeightFormat, fraction: bool) -> np.ndarray:
    """(W - W_r) / s for level = W / s [blocks, weights] and z [blocks], in the steps of `quantize_with`."""
    z = z[:, None]
    c = np.rint(level + z) if fraction else np.rint(level) + z
    np.clip(c, *(np.float32(end) for end in format.q_range), out=c)
    c -= z
    return np.subtract(level, c, out=c)


class _Blocks:
    """Some blocks of equal length with their scales, [blocks, weights]; one that is large may be in pieces.

    pieces: float32 [blocks, weights of the piece]; scales float32 [blocks].
    """

    def __init__(self, pieces: list[np.ndarray], scales: np.ndarray, format: WeightFormat) -> None:
        self.pieces, self.scales, self.format = pieces, scales, format
        self.length = sum(piece.shape[1] for piece in pieces)

    def __getitem__(self, chosen: np.ndarray) -> _Blocks:
        """The blocks of a mask; all without a copy."""
        if chosen.all():
            return self
        return _Blocks([piece[chosen] for piece in self.pieces], self.scales[chosen], self.format)

    def criterion(self, z: np.ndarray) -> np.ndarray:
        """The l_p criterion of each block for zero-points as they are stored, in steps, float64."""
        fraction, total = self.format.zero_frac_bits > 0, np.zeros(len(z))
        for piece in self.pieces:
            residual = _residual(piece / self.scales[:, None], z, self.format, fraction)
            np.abs(residual, out=residual)
            total += np.power(residual, np.float32(P), out=residual).sum(axis=1, dtype=np.float64)
        return total

    def step(self, z: np.ndarray, beta: float) -> tuple[np.ndarray, np.ndarray]:
        """Mean |W - W_r| / s of each block for any zero-points, and what the update adds to them; float64.

        q - (W - W_e) / s is z + W_e / s - (W - W_r) / s.
        """
        error, shift = np.zeros(len(z)), np.zeros(len(z))
        for piece in self.pieces:
            residual = _residual(piece / self.scales[:, None], z, self.format, True)
            error += np.abs(residual).sum(axis=1, dtype=np.float64)
            shift += (shrink(residual, beta) - residual).sum(axis=1, dtype=np.float64)
        return error / self.length, shift / self.length


def _search(blocks: _Blocks, z: np.ndarray, integer: np.ndarray) -> np.ndarray:
    """The best zero-point of each block, float32 [blocks].

    z and integer are the zero-points of round to nearest, in this format and without a fraction.
    """
    format = blocks.format
    low, high = (np.float32(end / 2**format.zero_frac_bits) for end in format.zero_range)
    best, kept, tried = blocks.criterion(z), z.copy(), z.copy()
    if format.zero_frac_bits:
        criterion = blocks.criterion(integer)
        better = criterion < best
        best[better], kept[better] = criterion[better], integer[better]
    running, least, beta = np.arange(len(z)), np.full(len(z), np.inf), BETA
    for _ in range(ITERATIONS):
        error, shift = blocks.step(z, beta)
        falls = error < least
        if not falls.any():
            break
        blocks, running, least = blocks[falls], running[falls], error[falls]
        z = np.clip((z[falls] + shift[falls]).astype(np.float32), low, high)
        stored = rounded_zero(z, format)
        new = stored != tried[running]
        if new.any():
            at, offered = running[new], stored[new]
            tried[at] = offered
            criterion = blocks[new].criterion(offered)
            better = criterion < best[at]
            best[at[better]], kept[at[better]] = criterion[better], offered[better]
        beta *= KAPPA
    return kept


def parameters(weights: np.ndarray, format: WeightFormat) -> tuple[np.ndarray, np.ndarray]:
    """The scale of round to nearest and the best zero-point of each block (float32 of `format.scale_shape`,
    rounded to what is stored).

    weights float32 [rows, columns], finite. Raises `ValueError` for a symmetric format.
    """
    check_format(format)
    rows, columns = weights.shape
    lo, hi = rtn.ranges(weights, format)
    scales, start = rtn.parameters(lo, hi, format)
    _, integer = rtn.parameters(lo, hi, replace(format, zero_frac_bits=0))
    if format.granularity == "tensor":
        pieces = [weights[part].reshape(1, -1) for part in row_chunks(rows, columns, _CHUNK)]
        return scales, _search(_Blocks(pieces, scales[0], format), start[0], integer[0])[None]
    zeros = np.empty_like(start)
    size = format.block(columns)
    whole = columns // size

    def search(part: slice, blocks: slice, w: np.ndarray) -> None:
        at, shape = (part, blocks), scales[part, blocks].shape
        group = _Blocks([w.reshape(scales[at].size, -1)], scales[at].ravel(), format)
        zeros[at] = _search(group, start[at].ravel(), integer[at].ravel()).reshape(shape)

    def chunk(part: slice) -> None:
        if whole:
            search(part, slice(0, whole), weights[part, : whole * size])
        if columns % size:  # what is left of the last block is a shorter block
            search(part, slice(whole, None), weights[part, whole * size :])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(chunk, row_chunks(rows, columns, _CHUNK)):
            pass  # an error of a chunk is raised here
    return scales, zeros


def quantize(weights: np.ndarray, format: WeightFormat, importance: np.ndarray | None = None) -> Quantized:
    """Quantizes weights [rows, columns] with the scales of round to nearest and the zero-points of HQQ;
    `importance` does not matter here.

    Raises `ValueError` for symmetric formats, for non-finite weights (naming the first) and for scales beyond
    the scale dtype.
    """
    weights = checked_weights(weights, format)
    return quantize_with(weights, format, *parameters(weights, format))
