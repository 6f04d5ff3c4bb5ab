"""Quantizers by name: `QUANTIZERS["rtn"](weights, format, importance=None, **needed) -> Quantized`.

One file a method, imported when it is first asked for. `NEEDS` says what a method must be given beside the
weights and their format, always by keyword:

    importance  E[x^2] of each input channel [K]                (the third argument, for grid-importance)
    hessian     E[x x^T] over calibration tokens [K, K]
    inputs      some of the calibration tokens' inputs [n, K]
    layer       the whole decoder layer and its inputs: `trained.train`, which has no array form

"awq" and "awq-gptq" are the last step of these methods: before it, `awq.search_scale` finds a scale for each
input channel, which is folded into the weights and into what makes their input.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping

NEEDS: Mapping[str, frozenset[str]] = {
    "rtn": frozenset(),
    "grid": frozenset(),
    "grid-importance": frozenset({"importance"}),
    "hqq": frozenset(),
    "gptq": frozenset({"hessian"}),
    "awq": frozenset({"inputs"}),
    "awq-gptq": frozenset({"inputs", "hessian"}),
    "trained": frozenset({"layer"}),
}
_FUNCTIONS = {
    "rtn": "rtn.quantize",
    "grid": "grid.quantize",
    "grid-importance": "grid.quantize_weighted",
    "hqq": "hqq.quantize",
    "gptq": "gptq.quantize",
    "awq": "awq.quantize",
    "awq-gptq": "gptq.quantize",
}


#: Quantizers that see a matrix alone. Those that learn from activations depend on what comes before a matrix, so one
#: group at a time would not be what they make of the whole.
QUANTIZERS_OF_ONE_MATRIX = tuple(name for name in _FUNCTIONS if not NEEDS[name])


class _ByName(Mapping):
    """Method name -> the function that quantizes one matrix."""

    def __getitem__(self, name: str) -> Callable:
        if name not in _FUNCTIONS:
            raise KeyError(f"no quantizer {name!r} of one matrix, only {', '.join(_FUNCTIONS)}")
        module, function = _FUNCTIONS[name].split(".")
        return getattr(importlib.import_module(f"workbench.quantizers.{module}"), function)

    def __iter__(self) -> Iterator[str]:
        return iter(_FUNCTIONS)

    def __len__(self) -> int:
        return len(_FUNCTIONS)

    def __contains__(self, name: object) -> bool:
        return name in _FUNCTIONS


QUANTIZERS: Mapping[str, Callable] = _ByName()
