"""Budgets of `PrecisionMap`: bits a weight in bytes, and the one to begin with."""

from __future__ import annotations

import math

from workbench.errors import WorkbenchError
from workbench.known import known
from workbench.precision.pareto import Pareto
from workbench.precision.table import SensitivityTable


def in_bytes(costs: SensitivityTable, bits: float | None = None, budget: int | None = None) -> int:
    """A budget of bits a weight, or of bytes, in bytes. Raises WorkbenchError for what is no size."""
    for name, value in (("bits", bits), ("budget", budget)):
        good = value is None or (isinstance(value, int | float) and math.isfinite(value) and value >= 0)
        if not good or isinstance(value, bool):
            raise WorkbenchError(f"{name} = {value!r}; allowed: a number that is not negative")
    return int(bits * costs.weights // 8) if bits is not None else int(known(budget))


def beginning(front: Pareto, bits: float | None = None, budget: int | None = None) -> tuple[int, str]:
    """The budget in bytes to begin with, and a note, empty where it is as asked.

    What is less than the least that the formats and pins allow becomes that; where nothing is asked for, the mean of
    the two smallest tiers, where mixtures matter most.
    """
    costs, least = front.table, int(front.nbytes[0])
    if bits is None and budget is None:
        sizes = sorted(costs.nbytes.sum(0) + costs.vector_bytes)
        return max(least, int(sum(sizes[:2]) // len(sizes[:2]))), ""
    asked = in_bytes(costs, bits, budget)
    if asked >= least:
        return asked, ""
    what = f"{bits:g} bits a weight" if bits is not None else f"{asked:,} bytes"
    return (
        least,
        f"{8 * least / costs.weights:.3f} bits a weight in place of {what}: these formats and pins allow no less",
    )
