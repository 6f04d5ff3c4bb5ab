"""Rounding one matrix by a quantizer with what it needs to know of the inputs, and what that did to it."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch

from workbench.convert.capture import LEAST_TOKENS, Moments
from workbench.convert.tensors import quantizer_on
from workbench.formats.spec import WeightFormat
from workbench.formats.tensor import quantized_tensor
from workbench.known import known
from workbench.quantizers import QUANTIZERS
from workbench.quantizers.blocks import Quantized

#: In a record: experts that were quantized with the moments of all tokens.
FEW = "experts_with_moments_of_all"


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


class ExpertErrors(MatrixErrors):
    """Of a matrix with the rows of all experts: outputs count for the tokens that went to each."""

    def add(self, weights: torch.Tensor, stored: torch.Tensor) -> None:
        experts = known(self._moments).experts
        for (moments, tokens, _), *rows in zip(
            experts, weights.chunk(len(experts)), stored.chunk(len(experts)), strict=True
        ):
            each = MatrixErrors(moments)
            each.add(*rows)
            self._sums[0] += tokens * each._sums[0]
            self._sums[1] += each._sums[1]


def errors_of(moments: Moments | None) -> MatrixErrors:
    """The errors of a matrix whose inputs have these moments."""
    return ExpertErrors(moments) if moments is not None and moments.experts else MatrixErrors(moments)


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
        self._errors = errors_of(moments)
        self._notes: list[str] = []

    def __call__(self, weights: np.ndarray, format: WeightFormat) -> Quantized:
        """Rounds rows of the matrix, f32 [N, K]. Raises ValueError as the quantizers do."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            rounded = self._quantize(weights, format, **self._given)
        self._notes += [note for each in caught if (note := str(each.message)) not in self._notes]
        self._add(weights, format, rounded)
        return rounded

    def _add(self, weights: np.ndarray, format: WeightFormat, rounded: Quantized) -> None:
        stored = quantized_tensor("", weights.shape, format, *rounded)
        self._errors.add(
            torch.from_numpy(weights).to(self._device), torch.from_numpy(stored.dequantize()).to(self._device)
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What the quantizer warned of so far."""
        return tuple(self._notes)

    def record(self) -> dict[str, Any]:
        """JSON values: the quantizer, the errors so far, and what the quantizer warned of."""
        noted = {"notes": list(self._notes)} if self._notes else {}
        return {"quantizer": self._quantizer, **self._errors.to_json(), **noted}


class ExpertRounding(Rounding):
    """`Rounding` of a matrix with the rows of all experts, each by the moments of its own tokens."""

    def __init__(self, quantizer: str, moments: Moments, device: str) -> None:
        super().__init__(quantizer, moments, device)
        self._experts = moments.experts

    def __call__(self, weights: np.ndarray, format: WeightFormat) -> Quantized:
        """Rounds the whole matrix, f32 [experts * N, K]. Raises ValueError as the quantizers do."""
        if format.granularity == "tensor":  # one scale for all
            return super().__call__(weights, format)
        parts = []
        for rows, each in zip(np.split(weights, len(self._experts)), self._experts, strict=True):
            one = Rounding(self._quantizer, each.of, self._device)
            parts.append(one(rows, format))
            self._notes += [note for note in one.notes if note not in self._notes]
        quants, scales, zeros = zip(*parts, strict=True)
        has_zeros = zeros[0] is not None
        rounded = Quantized(
            np.concatenate(quants), np.concatenate(scales), np.concatenate(zeros) if has_zeros else None
        )
        self._add(weights, format, rounded)
        return rounded

    def record(self) -> dict[str, Any]:
        """Also how many tokens went to each expert, and which were so few that those of all counted."""
        few = [index for index, each in enumerate(self._experts) if not each.own]
        return {
            **super().record(),
            "expert_tokens": [each.tokens for each in self._experts],
            **({FEW: few} if few else {}),
        }


def rounding_of(quantizer: str, moments: Moments, device: str) -> Rounding:
    """The rounding of a matrix whose inputs have these moments."""
    return (ExpertRounding if moments.experts else Rounding)(quantizer, moments, device)


def said_of_experts(record: dict[str, Any]) -> tuple[str, ...]:
    """What there is to say of experts that met too few tokens. record: by tensor, as `Rounding.record`."""
    few = {name: each[FEW] for name, each in record.items() if FEW in each}
    if not few:
        return ()
    name = next(iter(few))
    return (
        f"{len(few)} matrices have experts that fewer than {LEAST_TOKENS} calibration tokens went to, which take the "
        f"moments of all: of {name} {len(few[name])} (the manifest lists them, provenance.tensors.*.{FEW})",
    )
