"""One matrix under one format, as much of it as is looked at: errors block by block, distributions, worst blocks.

A first look takes a few rows and is there at once; the whole matrix follows in pieces. Both are an `Exploration`, and
`sampled` says which: figures of a sample carry the standard error of a sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from workbench.formats.spec import WeightFormat
from workbench.quantizers import QUANTIZERS
from workbench.quantizers.blocks import in_blocks, row_chunks
from workbench.quantizers.suited import suited
from workbench.show.table import Table

from .weight_error import FROM_HESSIAN, WeightError, filled, weight_error

#: Weights of a first look, and of a piece of the whole.
SAMPLE, PIECE = 1 << 17, 1 << 18


@dataclass(frozen=True)
class Block:
    """One block: its place, SQNR in dB, scale, zero-point, and the largest |weight| over the root mean square."""

    row: int
    block: int
    sqnr_db: float
    scale: float
    zero: float
    crest: float


@dataclass(frozen=True, eq=False)
class Exploration:
    """What quantizing does to the rows that were looked at, of a matrix of `shape`.

    rows: int [n], ascending. signal, noise: sum of w^2 and of (w - w_hat)^2 of each block, f32 [n, blocks]. peak:
    largest |w| of each block. scales, zeros: of each block, f32 [n, blocks]. hessian: E[x x^T] of the inputs, where it
    is known; then output_signal and output_noise are E[(w x)^2] and E[((w - w_hat) x)^2] of each row, f64 [n].
    """

    name: str
    format: WeightFormat
    quantizer: str
    shape: tuple[int, int]
    rows: np.ndarray = field(repr=False)
    signal: np.ndarray = field(repr=False)
    noise: np.ndarray = field(repr=False)
    peak: np.ndarray = field(repr=False)
    scales: np.ndarray = field(repr=False)
    zeros: np.ndarray = field(repr=False)
    hessian: np.ndarray | None = field(repr=False, default=None)
    output_signal: np.ndarray | None = field(repr=False, default=None)
    output_noise: np.ndarray | None = field(repr=False, default=None)

    @property
    def sampled(self) -> bool:
        return len(self.rows) < self.shape[0]

    @property
    def bits_per_weight(self) -> float:
        return self.format.bits_per_weight(*self.shape)

    @cached_property
    def sqnr_db(self) -> float:
        """10 log10(sum w^2 / sum (w - w_hat)^2) over the rows looked at; infinite where nothing was lost."""
        return float(decibels(self.signal.sum(dtype=np.float64), self.noise.sum(dtype=np.float64)))

    @cached_property
    def sqnr_se(self) -> float:
        """Standard error of `sqnr_db` for the whole matrix, in dB. 0 for all rows."""
        noise, signal = (plane.sum(1, dtype=np.float64) for plane in (self.noise, self.signal))
        return self._standard_error(signal, noise)

    @cached_property
    def output_db(self) -> tuple[float, float] | None:
        """10 log10(E|W x|^2 / E|(W - W_hat) x|^2) over the rows looked at and the calibration inputs, and its standard
        error for the whole matrix, in dB; None where the inputs are not known."""
        if self.output_noise is None or self.output_signal is None:
            return None
        value = float(decibels(self.output_signal.sum(), self.output_noise.sum()))
        return value, self._standard_error(self.output_signal, self.output_noise)

    def _standard_error(self, signal: np.ndarray, noise: np.ndarray) -> float:
        """Of sum(noise) / sum(signal) in dB, rows taken as the sampled units: the ratio estimator's linearisation
        (Cochran 1977, eq. 6.13) with the finite population correction."""
        n, rows = len(self.rows), self.shape[0]
        if n < 2 or noise.sum() == 0 or not self.sampled:
            return 0.0
        ratio = noise.sum() / signal.sum()
        residual = noise - ratio * signal
        variance = (1 - n / rows) * n / (n - 1) * float(residual @ residual)
        return float(10 / np.log(10) * np.sqrt(variance) / noise.sum())

    @cached_property
    def block_sqnr_db(self) -> np.ndarray:
        """SQNR of each block, f32 [n, blocks]; a block of zeros has NaN."""
        return decibels(self.signal, self.noise)

    def error_map(self, height: int, width: int) -> np.ndarray:
        """SQNR in dB of cells of neighbouring blocks, f32 [at most height, at most width]: power is pooled, not dB."""
        return decibels(pooled(self.signal, height, width), pooled(self.noise, height, width))

    def worst(self, count: int) -> list[Block]:
        """The blocks of least SQNR among those looked at, worst first; blocks without weights but 0 are left out."""
        db = np.where(np.isnan(self.block_sqnr_db), np.inf, self.block_sqnr_db).ravel()
        count = min(count, db.size)
        first = np.argpartition(db, count - 1)[:count]
        return [
            self._block(int(at)) for at in first[np.argsort(db[first], kind="stable")] if np.isfinite(db[at])
        ]

    def worst_of_cell(self, i: int, j: int, height: int, width: int) -> tuple[int, int]:
        """(row, first column) of the worst block in cell (i, j) of `error_map(height, width)`."""
        rows, blocks = (
            edges(size, most) for size, most in zip(self.signal.shape, (height, width), strict=True)
        )
        part = self.block_sqnr_db[rows[i] : rows[i + 1], blocks[j] : blocks[j + 1]]
        at = np.unravel_index(int(np.where(np.isnan(part), np.inf, part).argmin()), part.shape)
        block = blocks[j] + int(at[1])
        return int(self.rows[rows[i] + at[0]]), block * self.format.block(self.shape[1])

    def levels(self, weights: np.ndarray, row: int, column: int) -> tuple[int, np.ndarray, np.ndarray]:
        """The block with the weight at (row, column): its index, its weights, and every value that its format has
        for them. weights: the whole matrix that was explored."""
        size = self.format.block(self.shape[1])
        block = column // size
        at = int(np.searchsorted(self.rows, row))
        if self.format.granularity == "tensor":
            at = 0  # one scale for all rows
        if at < len(self.rows) and (self.rows[at] == row or self.format.granularity == "tensor"):
            low, high = self.format.q_range
            levels = self.scales[at, block] * (np.arange(low, high + 1) - self.zeros[at, block])
            return block, weights[row, block * size : (block + 1) * size], levels
        one = weight_error(weights[row : row + 1], self.format, self.quantizer, hessian=self.hessian)
        return block, *one.block(0, block)

    def _block(self, at: int) -> Block:
        place = np.unravel_index(at, self.signal.shape)
        weights = filled(self.format, self.shape[1])[place[1]]
        rms = float(np.sqrt(self.signal[place] / weights))
        return Block(
            int(self.rows[place[0]]),
            int(place[1]),
            float(self.block_sqnr_db[place]),
            float(self.scales[place]),
            float(self.zeros[place]),
            float(self.peak[place]) / rms if rms else float("nan"),
        )

    def facts(self) -> dict[str, str]:
        """What there is to say about the whole, ready to print."""

        def ratio(value: float, error: float) -> str:
            return f"{value:.2f} ± {error:.2f} dB" if self.sampled else f"{value:.2f} dB"

        rows = f"{len(self.rows):,} of {self.shape[0]:,} rows" if self.sampled else "all rows"
        size = self.bits_per_weight * self.shape[0] * self.shape[1] / 8
        return {
            "format": str(self.format),
            "quantizer": self.quantizer,
            "SQNR": ratio(self.sqnr_db, self.sqnr_se),
            **({"output SQNR": ratio(*self.output_db)} if self.output_db else {}),
            "from": rows,
            "bits a weight": f"{self.bits_per_weight:.3f}",
            "size": f"{size / 1024:,.0f} KiB",
        }

    def plot(self) -> Any:
        """A `Picture`: error map, the blocks' SQNR, scales."""
        from workbench.show.figures import Picture, colour_of

        picture = Picture(8.6, 2.7, columns=3)
        left, middle, right = picture.axes
        shown = left.imshow(self.error_map(96, 96), aspect="auto", cmap="RdYlBu", interpolation="nearest")
        left.set(xlabel="block", ylabel="row", xticks=[], yticks=[])
        picture.figure.colorbar(shown, ax=left, label="SQNR, dB")
        finite = self.block_sqnr_db[np.isfinite(self.block_sqnr_db)]
        middle.hist(finite, bins=50, color=colour_of(self.format.dtype), alpha=0.8)
        middle.set(xlabel="SQNR of a block, dB", ylabel="blocks in a bin")
        right.hist(self.scales.ravel(), bins=50, color="0.6")
        right.set(xlabel="scale", ylabel="blocks in a bin")
        facts = self.facts()
        picture.figure.suptitle(
            f"{self.name}, {facts['format']}, {self.quantizer}: {facts['SQNR']}", fontsize=10
        )
        return picture

    def _repr_html_(self) -> str:
        return Table((), list(self.facts().items()), "l", self.name).html()


def decibels(signal: Any, noise: Any) -> Any:
    """10 log10(signal / noise); infinite without noise, NaN without either."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return 10 * np.log10(np.asarray(signal) / np.asarray(noise))


def edges(size: int, most: int) -> list[int]:
    """Where the cells of a pooled axis begin, and its end; at most so many cells, as even as can be."""
    cells = min(size, most)
    return [*(np.arange(cells) * size // cells).tolist(), size]


def pooled(plane: np.ndarray, height: int, width: int) -> np.ndarray:
    """Sums of neighbouring rows and columns, at most height x width of them."""
    for axis, most in ((0, height), (1, width)):
        if plane.shape[axis] > most:
            plane = np.add.reduceat(plane, edges(plane.shape[axis], most)[:-1], axis=axis)
    return plane


def histogram(values: np.ndarray, bins: int, whole: bool = False) -> tuple[list[float], np.ndarray]:
    """([least, greatest], share of the values in each bin, f32). whole: the values are integers, each with a bin of
    its own."""
    if values.size == 0:
        return [0.0, 1.0], np.zeros(bins, np.float32)
    low, high = float(values.min()), float(values.max())
    if whole:
        low, high, bins = low - 0.5, high + 0.5, int(high - low) + 1
    elif low == high:
        low, high = low - abs(low) * 0.05 - 1e-9, high + abs(high) * 0.05 + 1e-9
    counts = np.histogram(values, bins, (low, high))[0] / values.size
    return [low, high], counts.astype(np.float32)


def sample_rows(weights: np.ndarray, format: WeightFormat, count: int = SAMPLE) -> np.ndarray:
    """Evenly spaced rows with about `count` weights in all, ascending. One scale for the tensor depends on its
    extremes, so with that granularity the rows that hold them come in too."""
    rows, columns = weights.shape
    wanted = min(rows, max(2, count // columns))
    found = (np.arange(wanted) + 0.5) * rows / wanted
    picked = found.astype(np.int64)
    if format.granularity == "tensor":
        extremes = [int(weights.argmin()) // columns, int(weights.argmax()) // columns]
        picked = np.union1d(picked, extremes)
    return picked


def first_look(
    weights: np.ndarray,
    format: WeightFormat,
    quantizer: str = "rtn",
    name: str = "weights",
    *,
    count: int = SAMPLE,
    hessian: np.ndarray | None = None,
) -> Exploration:
    """An `Exploration` of a sample of rows. weights: float32 [rows, columns]. hessian: E[x x^T] of the inputs [columns,
    columns], where known. Raises what `weight_error` raises."""
    rows = sample_rows(weights, format, count)
    format, _ = suited(format, [weights[rows]])
    planes = _planes(weight_error(weights[rows], format, quantizer, hessian=hessian), hessian)
    return _joined(name, format, quantizer, weights.shape, hessian, [(rows, planes)])


def explore(
    weights: np.ndarray,
    format: WeightFormat,
    quantizer: str = "rtn",
    name: str = "weights",
    progress: Callable[[float], bool] = lambda share: True,
    *,
    hessian: np.ndarray | None = None,
) -> Exploration | None:
    """An `Exploration` of every row. progress: told the share that is done between two pieces of rows; None is
    returned once it gives False. hessian, errors: as in `first_look`."""
    format, _ = suited(format, [weights])  # as a conversion stores the whole matrix
    found = []
    for rows in _pieces(weights, format, quantizer):
        if not progress(int(rows[0]) / weights.shape[0]):
            return None
        error = weight_error(weights[rows[0] : rows[-1] + 1], format, quantizer, hessian=hessian)
        found.append((rows, _planes(error, hessian)))
    return _joined(name, format, quantizer, weights.shape, hessian, found)


def _pieces(weights: np.ndarray, format: WeightFormat, quantizer: str) -> Iterator[np.ndarray]:
    """Ranges of rows that quantizers treat alike whether together or apart."""
    rows, columns = weights.shape
    size = rows * columns if format.granularity == "tensor" else PIECE
    if QUANTIZERS[quantizer].needs & FROM_HESSIAN:
        size = max(size, columns * columns)  # each piece factorises the Hessian anew
    for part in row_chunks(rows, columns, size):
        yield np.arange(part.start, part.stop)


def _planes(error: WeightError, hessian: np.ndarray | None) -> dict[str, np.ndarray]:
    format = error.format
    missing = error.weights - error.restored
    blocks, wrong = in_blocks(error.weights, format), in_blocks(missing, format)
    shape = blocks.shape[:2]
    planes = {
        "signal": np.einsum("rbk,rbk->rb", blocks, blocks),
        "noise": np.einsum("rbk,rbk->rb", wrong, wrong),
        "peak": np.maximum(blocks.max(-1), -blocks.min(-1)),
        "scales": np.broadcast_to(error.tensor.planes["scales"].astype(np.float32), shape),
        "zeros": np.broadcast_to(error.tensor.zero_points(), shape),
    }
    if hessian is not None:
        for plane, each in (("output_signal", error.weights), ("output_noise", missing)):
            planes[plane] = ((each @ hessian) * each).sum(1, dtype=np.float64)
    return planes


def _joined(
    name: str, format: WeightFormat, quantizer: str, shape: tuple, hessian: np.ndarray | None, found: list
) -> Exploration:
    rows = np.concatenate([rows for rows, _ in found])
    whole = {key: np.concatenate([planes[key] for _, planes in found]) for key in found[0][1]}
    return Exploration(name, format, quantizer, tuple(shape), rows, **whole, hessian=hessian)
