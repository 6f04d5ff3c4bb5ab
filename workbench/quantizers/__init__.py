"""Quantizers by name: `QUANTIZERS["rtn"].quantize(weights, format, importance=None, **needed) -> Quantized`.

One file a method, imported when it is first used. An entry says all that other rooms must know of one; what it needs
beside the weights and their format is given by keyword:

    importance  E[x^2] of each input channel [K]                (the third argument, for grid-importance)
    hessian     E[x x^T] over calibration tokens [K, K]
    inputs      some of the calibration tokens' inputs [n, K]
    layer       the whole decoder layer and its inputs: `trained.train`, which has no array form

"awq" and "awq-gptq" are the last step of these methods: before it, `awq.search_scale` finds a scale for each
input channel, which is folded into the weights and into what makes their input.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class Quantizer:
    """function: `module.name` of what quantizes one matrix, None where only a whole layer is quantized.

    A conversion rounds each matrix with the quantizer `rounding`, after folding AWQ's scales (`folds`), and then trains
    the layer as a whole (`trains`). An embedding that is only looked up meets no input, so that importance and Hessian
    mean nothing there: `lookup` quantizes it. zero_points: takes no symmetric format.
    """

    rounding: str
    function: str | None
    needs: frozenset[str] = frozenset()
    folds: bool = False
    trains: bool = False
    lookup: str = "grid"
    zero_points: bool = False

    @property
    def quantize(self) -> Callable:
        """The function, imported."""
        if self.function is None:
            raise TypeError("this quantizer has no form for one matrix")
        module, name = self.function.split(".")
        return getattr(importlib.import_module(f"workbench.quantizers.{module}"), name)

    def able(self, given: Collection[str]) -> bool:
        """Whether it quantizes one matrix with no more than is given."""
        return self.function is not None and self.needs <= set(given)


_HESSIAN, _INPUTS = frozenset({"hessian"}), frozenset({"inputs"})
QUANTIZERS: dict[str, Quantizer] = {
    "rtn": Quantizer("rtn", "rtn.quantize", lookup="rtn"),
    "grid": Quantizer("grid", "grid.quantize"),
    "hqq": Quantizer("hqq", "hqq.quantize", lookup="hqq", zero_points=True),
    "grid-importance": Quantizer("grid-importance", "grid.quantize_weighted", frozenset({"importance"})),
    "gptq": Quantizer("gptq", "gptq.quantize", _HESSIAN),
    "awq": Quantizer("awq", "awq.quantize", _INPUTS, folds=True),
    "awq-gptq": Quantizer("gptq", "gptq.quantize", _INPUTS | _HESSIAN, folds=True),
    "trained": Quantizer("gptq", None, frozenset({"layer"}), trains=True),
}
#: Quantizers that see a matrix alone. Those that learn from activations depend on what comes before a matrix, so one
#: group at a time would not be what they make of the whole.
QUANTIZERS_OF_ONE_MATRIX = tuple(name for name, each in QUANTIZERS.items() if each.able(()))
