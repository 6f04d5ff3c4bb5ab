"""The chosen allocation beside one format everywhere and beside what was measured; predictions stay predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eval.statistics import Paired
from workbench.precision.allocation import Allocation
from workbench.precision.measured import Measured
from workbench.precision.pareto import Pareto


@dataclass(frozen=True, eq=False)
class Row:
    """role: "chosen", "uniform" (one format everywhere) or "measured" (chosen earlier). measured: None unless it was.

    against: KL of this less KL of the chosen one, paired token by token, where both were measured on one text.
    """

    role: str
    label: str
    allocation: Allocation
    measured: Measured | None = None
    against: Paired | None = None


def compare(front: Pareto, chosen: Allocation, measured: Sequence[Measured] = ()) -> list[Row]:
    """The chosen allocation, every format that was a candidate, then what was measured and is neither."""
    found = {_key(each.allocation): each for each in measured}
    rows = [Row("chosen", "chosen", chosen)]
    rows += [Row("uniform", each.target, each) for each in front.uniforms]
    known = {_key(row.allocation) for row in rows}
    rows += [
        Row("measured", f"earlier, {each.allocation.bits_per_weight:.3f} bits", each.allocation)
        for key, each in found.items()
        if key not in known
    ]
    reference = found.get(_key(chosen))
    return [_with_measurement(row, found.get(_key(row.allocation)), reference) for row in rows]


def same(one: Allocation, other: Allocation) -> bool:
    """Whether two allocations give every matrix the same format, by the same quantizer."""
    return _key(one) == _key(other)


def _key(allocation: Allocation) -> tuple:
    return allocation.quantizer, *(each.format for each in allocation.assignments)


def _with_measurement(row: Row, found: Measured | None, reference: Measured | None) -> Row:
    against = None
    if found and reference and found is not reference and found.text == reference.text:
        against = found.joint.kl_against(reference.joint)
    return Row(row.role, row.label, row.allocation, found, against)
