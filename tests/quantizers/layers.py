"""Matrices, inputs and errors that the tests of calibrated quantizers share."""

from __future__ import annotations

import numpy as np

from workbench.formats.spec import WeightFormat
from workbench.formats.tensor import quantized_tensor
from workbench.quantizers.blocks import Quantized


def heavy_tailed(*shape: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_t(4, shape) / 7).astype(np.float32)


def correlated_inputs(tokens: int, columns: int, seed: int = 0) -> np.ndarray:
    """Tokens [tokens, columns] whose channels are correlated and of very different size."""
    rng = np.random.default_rng(seed)
    mix = np.eye(columns) + rng.standard_normal((columns, columns)) / np.sqrt(columns)
    sizes = np.exp(rng.standard_normal(columns))
    return (rng.standard_normal((tokens, columns)) @ mix * sizes).astype(np.float32)


def hessian_of(inputs: np.ndarray) -> np.ndarray:
    return inputs.T.astype(np.float64) @ inputs / len(inputs)


def restored(shape: tuple[int, int], format: WeightFormat, quantized: Quantized) -> np.ndarray:
    return quantized_tensor("w", shape, format, *quantized).dequantize().astype(np.float64)


def row_errors(
    weights: np.ndarray, format: WeightFormat, quantized: Quantized, hessian: np.ndarray
) -> np.ndarray:
    """d H d^T of each row, float64."""
    d = restored(weights.shape, format, quantized) - weights
    return np.einsum("nk,kl,nl->n", d, hessian, d)


def padding_of(format: WeightFormat, quantized: Quantized) -> np.ndarray:
    """What columns beyond K must hold: rint(z), [rows or 1, 1]."""
    if quantized.zeros is None:
        return np.full((1, 1), format.implied_zero)
    return np.clip(np.rint(quantized.zeros[:, -1:] / 2**format.zero_frac_bits), *format.q_range)
