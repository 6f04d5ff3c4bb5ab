"""The best allocation for every budget: size against predicted KL, solved once and asked often."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from workbench.errors import WorkbenchError
from workbench.formats.spec import WeightFormat
from workbench.precision.allocation import Allocation, allocation_of
from workbench.precision.knapsack import pareto_front
from workbench.precision.table import SensitivityTable

#: Of a sum of KLs: what its order may change.
ROUNDING = 1e-12


class Pareto:
    """Made of a SensitivityTable. nbytes int64 [points], of all weights with vectors; kl f64 [points], predicted.

    The prediction adds up what each group costs alone. It is exact where the groups' errors do not meet; how far it
    is off is measured by `workbench.precision.joint`. pins: group -> format, for groups that are not to be chosen; the
    others are chosen around them. Raises WorkbenchError for a group or a format that the table does not have.
    """

    def __init__(self, table: SensitivityTable, pins: Mapping[str, WeightFormat] | None = None):
        self.table = table
        self._allowed = table.allowed(pins or {})
        #: As the table calls their formats.
        self.pins = {name: table.formats[table.option(fmt, name)] for name, fmt in (pins or {}).items()}
        self._front = pareto_front(
            *(
                [each[g, options].tolist() for g, options in enumerate(self._allowed)]
                for each in (table.nbytes, table.kl)
            )
        )
        self.nbytes = self._front.nbytes + table.vector_bytes
        self.kl = self._front.cost

    def __len__(self) -> int:
        return len(self.nbytes)

    def pinned(self, pins: Mapping[str, WeightFormat]) -> Pareto:
        """The best allocations of the same table in which these groups have these formats, and no other pins hold."""
        return Pareto(self.table, pins)

    @property
    def bits(self) -> np.ndarray:
        """f64 [points]: everything stored over the weights of the matrices."""
        return 8 * self.nbytes / self.table.weights

    def at(self, budget: int) -> Allocation:
        """The least KL with at most `budget` bytes of weights. Raises WorkbenchError if nothing is so small."""
        point = self._front.within_bytes(int(budget) - self.table.vector_bytes)
        if point is None:
            raise WorkbenchError(
                f"allocate: the smallest allocation has {int(self.nbytes[0]):,} bytes "
                f"({self.bits[0]:.3f} bits a weight), more than the budget of {int(budget):,}"
            )
        return self._at(point, f"at most {int(budget):,} bytes")

    def at_bits(self, bits: float) -> Allocation:
        """The least KL with at most so many bits a weight, everything stored counted."""
        return self.at(int(bits * self.table.weights // 8))

    def at_kl(self, bound: float) -> Allocation:
        """The fewest bytes with a predicted KL of at most `bound`; WorkbenchError if nothing is so good."""
        # The front adds up in another order than `allocation_of`: what costs just `bound` may round to more.
        point = self._front.within_cost(bound * (1 + ROUNDING))
        if point is None:
            raise WorkbenchError(
                f"allocate: the best allocation has a predicted KL of {self.kl[-1]:.3e} nats a token, more "
                f"than {bound:.3e}; allowed: formats with more bits"
            )
        return self._at(point, f"KL of at most {bound:g}")

    def _at(self, point: int, target: str) -> Allocation:
        chosen = zip(self._allowed, self._front.choices(point), strict=True)
        return allocation_of(self.table, [options[o] for options, o in chosen], target, self.pins)

    def curve(self, points: int = 300) -> np.ndarray:
        """Indices of at most so many points of the front, at equal ratios of bytes, both ends among them."""
        wanted = np.geomspace(self.nbytes[0], self.nbytes[-1], points)
        wanted[0], wanted[-1] = self.nbytes[0], self.nbytes[-1]
        # Rounding may bring a point in between beyond the last one, where all groups are pinned and there is but one.
        return np.unique(np.minimum(np.searchsorted(self.nbytes, wanted), len(self) - 1))

    def uniform(self, fmt: WeightFormat) -> Allocation:
        """One format for every group, to compare with. Raises WorkbenchError if it was not measured."""
        asked = self.table.formats[self.table.option(fmt)]
        return self.by_rule(lambda _: asked, f"{asked} everywhere")

    @cached_property
    def uniforms(self) -> tuple[Allocation, ...]:
        """One format everywhere, for each format of the table."""
        return tuple(self.uniform(fmt) for fmt in self.table.formats)

    def by_rule(self, rule: Callable[[str], WeightFormat], target: str) -> Allocation:
        """The allocation of a rule from a group's name to its format, optimal or not; `target` is its name.

        Raises WorkbenchError for a format that was not measured.
        """
        names = [group.name for group in self.table.groups]
        return allocation_of(self.table, [self.table.option(rule(name), name) for name in names], target)

    def to_rows(self, points: int = 25) -> list[dict[str, Any]]:
        """The front at so many budgets, evenly spaced in bits: bytes, bits, kl, kl_se, and groups a format."""
        rows = []
        for bits in np.linspace(self.bits[0], self.bits[-1], points):
            # A hair more than the bits, so that rounding cannot lose the point that lies there exactly.
            found = self.at(int(np.ceil(bits * self.table.weights / 8 - 1e-6)))
            counts = dict.fromkeys(map(str, self.table.formats), 0)
            for each in found.assignments:
                counts[str(self.table.formats[self.table.option(each.format, each.group)])] += 1
            row = {"bytes": found.nbytes, "bits": found.bits_per_weight}
            rows.append({**row, "kl": found.predicted_kl, "kl_se": found.predicted_se, **counts})
        return rows

    def plot(self):
        """A picture of predicted KL against bits a weight, with the uniform formats and joint measurements."""
        from workbench.precision.plots import pareto

        return pareto(self)
