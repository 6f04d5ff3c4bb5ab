"""What is tuned: one case for each (kernel, shape class, types) that the device plans of a model dispatch."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import wgsl_kernels
from wgsl_kernels import Adapter, Kernel
from workbench.formats.strict_json import strict_json
from workbench.models.architecture import Architecture
from workbench.plan.plan import step_sizes

from ..lowering import Step, lower

if TYPE_CHECKING:
    from .places import Places

#: Where a call stands in a larger result moves its addresses, not its speed.
PLACES = ("row_offset", "out_rows")
#: A table that is looked up counts as having at most so many rows: the others are not read.
LOOKED_UP_ROWS = 4096
#: What plans of one token, and of more, may end with; of the first is counted how often it dispatches a case.
DECODING, PREFILL = ("greedy", "told", "draw", "last", "score"), ("last", "score")


@dataclass(frozen=True)
class Case:
    """One kernel at one shape class. sizes: shape names and parameters; types: element type by bound port."""

    kernel: str
    sizes: Mapping[str, int | float]
    types: Mapping[str, str]

    @property
    def name(self) -> str:
        """The same text for the same case, whatever the order of its parts."""
        return json.dumps([self.kernel, dict(self.sizes), dict(self.types)], sort_keys=True)

    @classmethod
    def named(cls, name: str) -> Case:
        """The case of that name. Raises `ValueError`."""
        try:
            kernel, sizes, types = strict_json(name.encode())
            found = cls(kernel, dict(sizes), dict(types))
            numbers = all(type(n) in (int, float, bool) for n in found.sizes.values())
            texts = all(isinstance(text, str) for text in (kernel, *found.types.values()))
        except (TypeError, ValueError) as error:
            raise ValueError("is not a kernel, sizes and types") from error
        if not (numbers and texts):
            raise ValueError("is not a kernel, sizes and types")
        return found

    @property
    def tokens(self) -> int:
        return int(self.sizes.get("tokens", 1))

    @property
    def shape(self) -> str:
        """ "4096x14336, block 128", or the sizes of a kernel without rows and columns."""
        sizes = self.sizes
        rows, columns = sizes.get("rows"), sizes.get("columns")
        if rows and columns:
            block = f", block {sizes['block']}" if "block" in sizes else ""
            added = "".join(f", {port}" for port in ("bias", "residual") if port in self.types)
            return f"{rows}x{columns}{block}{added}"
        shown = {name: n for name, n in sizes.items() if isinstance(n, int) and n > 1 and name != "tokens"}
        return ", ".join(f"{name} {n}" for name, n in shown.items()) or "one"


def rounded_capacity(positions: int) -> int:
    """Positions of the cache as cases count them: up to the next power of two."""
    return 1 << (positions - 1).bit_length()


def case_of(kernel: Kernel, sizes: Mapping, types: Mapping[str, str]) -> Case:
    """The case that a call belongs to: its sizes without what does not decide which candidate is fastest.

    The offset into a larger result is left out, the capacity of the cache and the positions of a rotary table are
    rounded up to powers of two, and a table that is looked up is cut to `LOOKED_UP_ROWS`.
    """
    kept = {name: n for name, n in sizes.items() if name not in PLACES}
    for name in {"capacity", "positions"} & set(kept):
        kept[name] = rounded_capacity(kept[name])
    if "ids" in kernel.reads and "rows" in kept:
        if kept.get("scale_rows") == kept["rows"]:
            kept["scale_rows"] = min(kept["rows"], LOOKED_UP_ROWS)
        kept["rows"] = min(kept["rows"], LOOKED_UP_ROWS)
    return Case(kernel.name, kept, dict(types))


@dataclass(frozen=True)
class PlannedCase:
    """A case, and how often a step of so many tokens dispatches it: of one token greedy decoding, of more a prompt.
    Empty if only sampling or scoring does."""

    case: Case
    uses: Mapping[int, int]


def planned_cases(  # many parameters: what decides a plan, and what decides its lowering
    config: Architecture,
    describe: Callable,
    counts: Sequence[int],
    *,
    activations: str,
    cache: str | None = None,
    capacity: int,
    adapter: Adapter,
    binding_bytes: int,
    steps: int,
    places: Places | None = None,
) -> list[PlannedCase]:
    """The cases of all plans of a model for steps of `counts` tokens, in the order in which they matter.

    First come the cases of one token, then those of the largest step and so on down; within a step what moves more
    bytes comes first. places: collects where these plans can be lowered in two ways; the cases of both are among them.
    """
    found: dict[str, tuple[Case, dict[int, int]]] = {}
    turn: dict[str, int] = {}

    def uses_of(step: Step, at: int) -> dict[int, int]:
        case = case_of(step.kernel, step.sizes, step.types)
        _, uses = found.setdefault(case.name, (case, {}))
        turn.setdefault(case.name, at)
        return uses

    for at, tokens in enumerate(sorted(counts, key=lambda n: (n != 1, -n))):
        sizes = step_sizes(tokens, capacity, steps=steps)
        heads = DECODING if tokens == 1 else PREFILL
        for head in heads:
            plan = config.build(describe, head=head, activations=activations, cache=cache)
            for step in lower(plan, sizes, adapter, binding_bytes, tuned=places).steps:
                uses = uses_of(step, at)
                if head == heads[0]:
                    uses[tokens] = uses.get(tokens, 0) + 1
        for place in places.found.values() if places is not None else ():
            for step in place.steps(adapter, binding_bytes):
                uses_of(step, at)

    def importance(planned: PlannedCase):
        kernel, name = wgsl_kernels.get(planned.case.kernel), planned.case.name
        cost = kernel.cost(kernel.complete(planned.case.sizes))
        return turn[name], -sum(planned.uses.values()) * cost.bytes, name

    return sorted((PlannedCase(*each) for each in found.values()), key=importance)
