"""What rounding does to one matrix: the restored weights, their error in dB, whole and block by block."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from workbench.errors import WorkbenchError
from workbench.formats.spec import WeightFormat
from workbench.formats.tensor import WeightTensor, quantized_tensor
from workbench.quantizers import QUANTIZERS
from workbench.quantizers.blocks import in_blocks

#: What a quantizer may need beside the weights that follows from the second moments of the inputs.
FROM_HESSIAN = frozenset({"importance", "hessian"})


@dataclass(frozen=True, eq=False)
class WeightError:
    """A matrix [rows, columns] and what a format makes of it. Made by `weight_error`.

    SQNR is the signal-to-quantization-noise ratio, 10 log10(sum w^2 / sum (w - w_hat)^2), in dB.
    """

    quantizer: str
    weights: np.ndarray = field(repr=False)
    tensor: WeightTensor = field(repr=False)
    restored: np.ndarray = field(repr=False)

    @property
    def format(self) -> WeightFormat:
        return self.tensor.format

    @property
    def bits_per_weight(self) -> float:
        """Everything stored, scales and zero-points included."""
        return self.format.bits_per_weight(*self.tensor.shape)

    @property
    def sqnr_db(self) -> float:
        """Of the whole matrix; infinite where nothing was lost."""
        return float(_decibels(_power(self.weights), _power(self.weights - self.restored)))

    @property
    def predicted_db(self) -> float:
        """The SQNR if errors were uniform over a step: noise s^2 / 12 a weight (Bennett 1948)."""
        rows, columns = self.weights.shape
        steps = np.broadcast_to(
            self.tensor.planes["scales"].astype(np.float64), (rows, self.format.blocks(columns))
        )
        noise = (steps**2 / 12 @ filled(self.format, columns)).sum()
        return float(_decibels(_power(self.weights), noise))

    @property
    def block_sqnr_db(self) -> np.ndarray:
        """SQNR of each block, f64 [rows, blocks]; a block of zeros has NaN."""
        signal = (in_blocks(self.weights, self.format).astype(np.float64) ** 2).sum(-1)
        noise = (in_blocks(self.weights - self.restored, self.format).astype(np.float64) ** 2).sum(-1)
        return _decibels(signal, noise)

    def block(self, row: int, block: int) -> tuple[np.ndarray, np.ndarray]:
        """The weights of one block, and every value that its format can give them, ascending."""
        size = self.format.block(self.weights.shape[1])
        scales, zeros = self.tensor.planes["scales"], self.tensor.zero_points()
        place = (0, 0) if self.format.granularity == "tensor" else (row, block)
        low, high = self.format.q_range
        levels = np.float32(scales[place]) * (np.arange(low, high + 1) - zeros[place])
        return self.weights[row, block * size : (block + 1) * size], levels


def weight_error(
    weights: np.ndarray,
    format: WeightFormat,
    quantizer: str = "rtn",
    name: str = "weights",
    hessian: np.ndarray | None = None,
) -> WeightError:
    """Quantize float weights [rows, columns], pack them, and read them back.

    hessian: E[x x^T] of the matrix's inputs [columns, columns], for quantizers that learn from it. Raises `KeyError`
    for an unknown quantizer, `WorkbenchError` for one that needs more than it is given, `ValueError` for weights or
    formats that it does not take.
    """
    weights = np.asarray(weights, np.float32)
    method = QUANTIZERS[quantizer]
    known = FROM_HESSIAN if hessian is not None else frozenset()
    if missing := method.needs - known:
        able = ", ".join(name for name, each in QUANTIZERS.items() if each.able(known))
        raise WorkbenchError(
            f"{quantizer} needs {' and '.join(sorted(missing))} of the calibration inputs beside the weights; "
            f"allowed without: {able}"
        )
    given = {} if hessian is None else {"hessian": hessian, "importance": np.diagonal(hessian)}
    given = {name: given[name] for name in method.needs}
    tensor = quantized_tensor(name, weights.shape, format, *method.quantize(weights, format, **given))
    return WeightError(quantizer, weights, tensor, tensor.dequantize())


def filled(format: WeightFormat, columns: int) -> np.ndarray:
    """How many weights of a row of `columns` each of its blocks holds, int64 [blocks]: the last one may be padded."""
    size = format.block(columns)
    return np.minimum(size, columns - size * np.arange(format.blocks(columns)))


def _power(values: np.ndarray) -> float:
    return float(np.sum(values.astype(np.float64) ** 2))


def _decibels(signal: np.ndarray | float, noise: np.ndarray | float) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return 10 * np.log10(np.float64(signal) / np.float64(noise))
