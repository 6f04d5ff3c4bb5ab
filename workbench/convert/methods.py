"""What each quantizer by name does in a conversion: data alone, cheap to import."""

from __future__ import annotations

from typing import NamedTuple

from workbench.quantizers import NEEDS


class Method(NamedTuple):
    """rounding: the quantizer of each matrix. folds: AWQ's scales before it. trains: the layer as a whole after it.
    lookup: the quantizer of an embedding that is only looked up: no column of it meets any input, so that
    importance and Hessian mean nothing there."""

    rounding: str
    folds: bool = False
    trains: bool = False
    lookup: str = "grid"

    @property
    def calibrated(self) -> bool:
        """Whether it cannot do without calibration."""
        return self.folds or self.trains or bool(NEEDS[self.rounding])


METHODS: dict[str, Method] = {
    "rtn": Method("rtn", lookup="rtn"),
    "grid": Method("grid"),
    "hqq": Method("hqq", lookup="hqq"),
    "grid-importance": Method("grid-importance"),
    "gptq": Method("gptq"),
    "awq": Method("awq", folds=True),
    "awq-gptq": Method("gptq", folds=True),
    "trained": Method("gptq", trains=True),
}
