"""What gets one format together: the matrices that a fused kernel would read at once.

Lowering uploads q, k and v as one group of planes, and gate and up likewise; members of a group share format and
block size, or they run unfused. In a plan such matrices are those that read the same input.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from workbench.formats.spec import WeightFormat
from workbench.formats.tensor import plane_specs
from workbench.models.families import architecture_of
from workbench.models.source import Source
from workbench.plan.count import buffer_bytes
from workbench.plan.inputs import read_together
from workbench.plan.plan import Plan

_LAYER = re.compile(r"layers\.(\d+)\.(.+)")


@dataclass(frozen=True)
class Group:
    """name: of the plan's matrices, such as `layers.3.attn.q_k_v`. tensors: checkpoint name -> (rows, columns)."""

    name: str
    tensors: Mapping[str, tuple[int, int]]

    @property
    def weights(self) -> int:
        return sum(map(math.prod, self.tensors.values()))

    @property
    def columns(self) -> int:
        """Columns of its matrices, which read the same input."""
        return next(iter(self.tensors.values()))[1]

    def nbytes(self, fmt: WeightFormat) -> int:
        """Bytes of all planes of all tensors in a format: what a conversion stores of them, without alignment."""
        return sum(
            math.prod(size) * dtype.itemsize
            for shape in self.tensors.values()
            for size, dtype in plane_specs(shape, fmt).values()
        )


def unquantized_plan(source: Source) -> Plan:
    """The plan of a source in its own formats, with logits of every token and f32 activations."""
    return architecture_of(source.config).build(source.describe)


def fused_groups(plan: Plan) -> list[Group]:
    """The groups in the order in which the plan first reads them; every matrix is in one of them. Of what reads the
    input of a mixture the router, the experts and the one that all tokens share are a group each."""
    weights, groups = plan.weights, []
    of_experts = {call.inputs["weight"] for call in plan.calls if "experts" in call.inputs}
    for together in read_together(plan).values():
        parents: dict[str, list[str]] = {}
        for name in together:
            apart = name.rpartition(".")[0] if of_experts.intersection(together) else ""
            parents.setdefault(apart, []).append(name)
        groups += parents.values()
    return [
        Group(
            _common_name(names),
            {weights[name].tensor: (weights[name].rows, weights[name].columns) for name in names},
        )
        for names in groups
    ]


def place(group: str) -> tuple[str, int | None]:
    """Kind and layer of a group: `layers.3.attn.q_k_v` -> ("attn.q_k_v", 3); ("embedding", None)."""
    match = _LAYER.fullmatch(group)
    return (match[2], int(match[1])) if match else (group, None)


def vector_bytes(plan: Plan) -> int:
    """Bytes of norms and biases, which stay f32 in every allocation."""
    return sum(buffer_bytes(b, {}) for b in plan.of_kind("weight") if not b.is_matrix)


def _common_name(names: list[str]) -> str:
    """`layers.0.attn.q_proj`, `.k_proj`, `.v_proj` -> `layers.0.attn.q_k_v`; one name stays as it is."""
    parents = {name.rpartition(".")[0] for name in names}
    if len(names) == 1 or len(parents) > 1:
        return "+".join(names)
    return f"{parents.pop()}." + "_".join(name.rpartition(".")[2].removesuffix("_proj") for name in names)
