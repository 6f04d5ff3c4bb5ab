"""Decoders some of whose layers have, in place of one MLP, experts of which every token goes to a few."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from workbench.models.blocks import Blocks, Routing
from workbench.models.families.dense import WHERE, Dense
from workbench.models.keys import ANYTHING, NULL, Key, Kind, integer, refused
from workbench.models.specs import Piece, TensorSpec

#: Of training alone.
TRAINED_WITH = tuple(
    Key(name, ANYTHING, None)
    for name in ("output_router_logits", "router_aux_loss_coef", "router_jitter_noise")
)
#: transformers takes both names for one thing.
COUNTS = (Key("num_experts", integer(1) | NULL, None), Key("num_local_experts", integer(1) | NULL, None))


#: Experts of all layers together, more than twice those of the largest models of these families. A configuration beyond
#: is a lie, whose experts would be named one by one.
MOST_EXPERTS = 1 << 15


@dataclass(frozen=True, kw_only=True)
class Mixture(Dense):
    """mixed: whether each layer has experts. experts: how many each of those has; expert_size: width of an expert;
    routing: how tokens go to them."""

    #: Beginnings of names within a layer: of its MLP, of the router and of the experts.
    mlp_name: ClassVar[str] = "mlp"
    router: ClassVar[str] = "mlp.gate"
    experts_name: ClassVar[str] = "mlp.experts"
    #: Keys that say how wide an expert is, and how many there are.
    size_keys: ClassVar[tuple[str, ...]] = ("moe_intermediate_size", "num_experts")

    mixed: tuple[bool, ...]
    experts: int
    expert_size: int
    routing: Routing

    def __post_init__(self) -> None:
        """Raises UnsupportedModelError for more experts than `MOST_EXPERTS`."""
        if (layers := sum(self.mixed)) and self.experts * layers > MOST_EXPERTS:
            allowed = f"at most {MOST_EXPERTS // layers}, as {layers} layers have experts"
            raise refused(WHERE, self.size_keys[1], self.experts, allowed)

    def tensors_of(self, index: int) -> dict[str, TensorSpec]:
        found = super().tensors_of(index)
        if not self.mixed[index]:
            return found
        kept = {name: spec for name, spec in found.items() if not name.startswith(f"{self.mlp_name}.")}
        return {**kept, **self.mixture_tensors()}

    def mixture_tensors(self) -> dict[str, TensorSpec]:
        """Of a layer with experts, by name within it: the matrices of all experts are one, row under row."""
        count, keys = self.experts, (*self.size_keys, "hidden_size", "num_hidden_layers")
        found = {f"{self.router}.weight": TensorSpec((count, self.hidden_size), keys[1:])}
        for part, shape in self.parts().items():
            found[f"{self.experts_name}.{part}.weight"] = TensorSpec(
                (count * shape[0], shape[1]), keys, count
            )
        return found

    def routers(self) -> tuple[str, ...]:
        return tuple(f"model.layers.{i}.{self.router}.weight" for i, mixed in enumerate(self.mixed) if mixed)

    def parts(self) -> dict[str, tuple[int, int]]:
        """Matrices of an expert and their shapes."""
        size, hidden = self.expert_size, self.hidden_size
        return {"gate_proj": (size, hidden), "up_proj": (size, hidden), "down_proj": (hidden, size)}

    def gathered(self) -> dict[str, tuple[Piece, ...]]:
        return self.pieces(self.piece)

    def one_by_one(self) -> dict[str, tuple[Piece, ...]]:
        return self.gathered()

    def pieces(self, piece: Callable[[str, str, int, int], Piece]) -> dict[str, tuple[Piece, ...]]:
        """The matrices of all experts. piece: as the method of that name."""
        found = {}
        for index in (index for index, mixed in enumerate(self.mixed) if mixed):
            for part, (rows, _) in self.parts().items():
                name = f"model.layers.{index}.{self.experts_name}"
                found[f"{name}.{part}.weight"] = tuple(
                    piece(name, part, rows, expert) for expert in range(self.experts)
                )
        return found

    def piece(self, name: str, part: str, rows: int, expert: int) -> Piece:
        """Where a checkpoint holds a matrix of an expert. name: of all experts of a layer."""
        return Piece(f"{name}.{expert}.{part}.weight", rows)

    def plan_name(self, tensor: str) -> str:
        if tensor.startswith("model.layers."):
            own = {self.router: "router", self.experts_name: "experts", self.mlp_name: ""}
            for name, planned in own.items():
                tensor = tensor.replace(f".{name}.", f".mlp.{planned}.".replace("..", "."))
        return super().plan_name(tensor)

    def behind_mlp(self, plan: Blocks, index: int, x: str, normed: str) -> str:
        if not self.mixed[index]:
            return super().behind_mlp(plan, index, x, normed)
        layer, tensor = f"layers.{index}", f"model.layers.{index}"
        router, experts = f"{tensor}.{self.router}", f"{tensor}.{self.experts_name}"
        y = plan.mixture(layer, router, experts, normed, self.routing, self.gate_op)
        return self.add(plan, x, y, f"{layer}.out")

    @cached_property
    def widest(self) -> int:
        matrices = [
            spec.shape for spec in self.tensors().values() if len(spec.shape) == 2 and spec.experts == 1
        ]
        of_experts = self.routing.chosen * max(self.expert_size, self.hidden_size) if any(self.mixed) else 0
        return max(of_experts, *map(max, matrices))

    def facts(self) -> dict[str, str]:
        found = super().facts()
        if not any(self.mixed):
            return found
        told = (
            f"{self.routing.chosen} of {self.experts} of width {self.expert_size} a token, "
            f"in {sum(self.mixed)} of {self.layers} layers"
        )
        return {**found, "experts": told}


def counted(read: Mapping[str, Any], default: int) -> int:
    """How many experts there are, by the keys of `COUNTS`."""
    one, other = (read[key.name] for key in COUNTS)
    if one is not None and other is not None and one != other:
        raise refused(WHERE, "num_experts", one, f"num_local_experts {other}")
    return one or other or default


def routed_to(read: Mapping[str, Any], experts: int) -> int:
    """How many experts a token goes to. Raises UnsupportedModelError for more than there are."""
    kind: Kind = integer(1, experts)
    if not kind.holds(read["num_experts_per_tok"]):
        raise refused(WHERE, "num_experts_per_tok", read["num_experts_per_tok"], kind.allowed)
    return read["num_experts_per_tok"]
