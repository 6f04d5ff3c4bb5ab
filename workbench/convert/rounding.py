"""Rounding one matrix by a quantizer with what it needs to know of the inputs, and what that did to it."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch

from workbench.convert.capture import Moments
from workbench.convert.tensors import quantizer_on
from workbench.formats.spec import WeightFormat
from workbench.formats.tensor import quantized_tensor
from workbench.known import known
from workbench.quantizers import QUANTIZERS
from workbench.quantizers.blocks import Quantized


class MatrixErrors:
    """Errors of a stored matrix, added up over ranges of its rows.

    output_error   mean squared error of the outputs W x over their mean square, on the calibration tokens
    weight_error   squared error of the weights over their squares
    """

    def __init__(self, moments: Moments | None) -> None:
        self._moments = moments
        self._sums = torch.zeros(2, 2, dtype=torch.float64)  # output and weight; noise and signal

    def add(self, weights: torch.Tensor, stored: torch.Tensor) -> None:
        """weights and what is stored of them, f32 [N, K], on the moments' device."""
        for column, each in enumerate((stored - weights, weights)):
            if self._moments is not None:
                self._sums[0, column] += (
                    ((each @ self._moments.hessian) * each).sum(dtype=torch.float64).cpu()
                )
            self._sums[1, column] += (each * each).sum(dtype=torch.float64).cpu()

    def to_json(self) -> dict[str, float]:
        shares = self._sums[:, 0] / self._sums[:, 1].clamp_min(torch.finfo(torch.float64).tiny)
        output, weight = shares.tolist()
        return {**({} if self._moments is None else {"output_error": output}), "weight_error": weight}


class Rounding:
    """A function (weights, format) -> Quantized that also keeps the record of a matrix.

    quantizer: its name in `QUANTIZERS`; moments: of the inputs, None where there are none.
    """

    def __init__(self, quantizer: str, moments: Moments | None, device: str) -> None:
        needs = QUANTIZERS[quantizer].needs
        given: dict[str, Any] = {}
        if "importance" in needs:
            given["importance"] = known(moments).hessian.diagonal().cpu().numpy()
        if "hessian" in needs:
            given["hessian"] = known(moments).hessian.cpu().numpy()
        if "inputs" in needs:
            given["inputs"] = known(moments).samples.cpu().numpy()
        self._quantize, self._given = quantizer_on(quantizer, device), given
        self._quantizer, self._device = quantizer, device
        self._errors = MatrixErrors(moments)
        self._notes: list[str] = []

    def __call__(self, weights: np.ndarray, format: WeightFormat) -> Quantized:
        """Rounds rows of the matrix, f32 [N, K]. Raises ValueError as the quantizers do."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            rounded = self._quantize(weights, format, **self._given)
        self._notes += [note for each in caught if (note := str(each.message)) not in self._notes]
        stored = quantized_tensor("", weights.shape, format, *rounded)
        self._errors.add(
            torch.from_numpy(weights).to(self._device), torch.from_numpy(stored.dequantize()).to(self._device)
        )
        return rounded

    def record(self) -> dict[str, Any]:
        """JSON values: the quantizer, the errors so far, and what the quantizer warned of."""
        noted = {"notes": list(self._notes)} if self._notes else {}
        return {"quantizer": self._quantizer, **self._errors.to_json(), **noted}
