"""What all rooms know of a model, whatever its family: sizes, the tensors that it reads, and its plan.

A family is a subclass in a file of its own, found by `model_type` (`families`). Everything else follows from the
plan that it builds: which matrices read one input and what stands in front of each (`workbench.plan.inputs`), where
a decoder layer begins and ends (`workbench.plan.stages`), and the numbers of constants.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, Self

from workbench.errors import WorkbenchError
from workbench.models import endings
from workbench.models.blocks import ACTIVATIONS, CACHES, Blocks
from workbench.models.endings import HEADS
from workbench.models.specs import Describe, LowRank, Piece, TensorSpec
from workbench.plan.plan import Plan, Ring

_LAYER_MATRIX = re.compile(r"model\.(layers\.\d+)\.(self_attn|mlp)\.([\w.]+)\.weight")


@dataclass(frozen=True, kw_only=True)
class Architecture(ABC):
    """One model's architecture, as its config.json describes it.

    layers: decoder layers. context_length: positions that the model was made for. embedding, lm_head: names of their
    tensors, the same where they are tied. notes: what of the file does not count, and why; for people. lora: adapters
    that are loaded beside it. orders: of matrices whose columns lie in another order, the tensor that holds it
    (`workbench.models.orders`).

    A plan names the activations of decoder layer i `layers.i.NAME`; nothing but the residual stream passes from one
    layer to the next.
    """

    #: What people call the family.
    family: ClassVar[str]

    vocab_size: int
    hidden_size: int
    layers: int
    context_length: int
    embedding: str
    lm_head: str
    notes: tuple[str, ...] = field(default=(), compare=False)
    lora: LowRank | None = field(default=None, compare=False)
    orders: Mapping[str, str] = field(default_factory=dict, hash=False)

    @classmethod
    @abstractmethod
    def parse(cls, config: Mapping) -> Self:
        """The architecture of a config.json. Raises `UnsupportedModelError` naming the key, its value and what is
        allowed: a key that changes numbers is understood or refused."""

    @abstractmethod
    def tensors(self) -> dict[str, TensorSpec]:
        """Every tensor that the model reads, by its name in the checkpoint, in order of use."""

    def stacked(self) -> dict[str, tuple[str, ...]]:
        """Tensors of a checkpoint that hold the rows of several: name in the file -> names of the parts in `tensors`,
        one under the other. They are taken apart when the file is opened."""
        return {}

    def routers(self) -> tuple[str, ...]:
        """Matrices of `tensors` that decide which experts a token goes to."""
        return ()

    def gathered(self) -> dict[str, tuple[Piece, ...]]:
        """Tensors of `tensors` whose rows a checkpoint holds in pieces: name -> the pieces, one under the other."""
        return {}

    def one_by_one(self) -> dict[str, tuple[Piece, ...]]:
        """`gathered`, of checkpoints of tools that quantize: each expert's matrices alone, whatever the family does."""
        return {}

    def pieces_in(self, tensors: Container[str]) -> dict[str, tuple[Piece, ...]]:
        """`gathered`, or `one_by_one` where a checkpoint has the first of such pieces. tensors: names of its own."""
        alone = self.one_by_one()
        return {
            name: alone[name] if name in alone and alone[name][0].tensor in tensors else pieces
            for name, pieces in self.gathered().items()
        }

    @abstractmethod
    def embed(self, plan: Blocks) -> str:
        """Constants, and the rows that the first layer reads, from `ids`."""

    @abstractmethod
    def layer(self, plan: Blocks, index: int, x: str) -> str:
        """The residual stream behind a decoder layer."""

    @abstractmethod
    def final(self, plan: Blocks, x: str) -> str:
        """The rows that the LM head reads."""

    def logits(self, plan: Blocks, x: str, y: str) -> None:
        """Writes logits of rows x into the buffer y."""
        plan.product(plan.matrix(self.lm_head), x, y, {})

    @abstractmethod
    def facts(self) -> dict[str, str]:
        """Kind of fact -> words, such as "attention" -> "32 heads over 8 of 128"; for people."""

    def adaptable(self) -> list[str]:
        """Matrices that adapters may be on: those of linear layers, but for the embedding, the LM head and experts."""
        return [
            name
            for name, spec in self.tensors().items()
            if len(spec.shape) == 2 and spec.experts == 1 and name not in (self.embedding, self.lm_head)
        ]

    def adapter(self, name: str | None = None) -> int:
        """The number of an adapter that is loaded, from 1 on, or of the one that sequences have that name none: 0 where
        there is none. Raises `WorkbenchError` for a name that is not among them."""
        names = () if self.lora is None else self.lora.names
        if name is None:
            name = None if self.lora is None else self.lora.default
        if name is not None and name not in names:
            allowed = f"one of {', '.join(map(repr, names))}" if names else "None: the model has no adapters"
            raise WorkbenchError(f"adapter = {name!r}; allowed: {allowed} (lora of load)")
        return 0 if name is None else names.index(name) + 1

    @property
    def tied_embeddings(self) -> bool:
        return self.embedding == self.lm_head

    @cached_property
    def widest(self) -> int:
        """Columns of the widest activation."""
        matrices = (spec.shape for spec in self.tensors().values() if len(spec.shape) == 2)
        return max(map(max, matrices))

    def plan_name(self, tensor: str) -> str:
        """What plans call a matrix of the checkpoint: `model.layers.3.self_attn.q_proj.weight` is
        `layers.3.attn.q_proj`. The embedding is `embedding`, the LM head `lm_head` unless it is tied; any other name
        stays as it is."""
        if match := _LAYER_MATRIX.fullmatch(tensor):
            layer, part, name = match.groups()
            return f"{layer}.{part.removeprefix('self_')}.{name}"
        return {self.lm_head: "lm_head", self.embedding: "embedding"}.get(tensor, tensor)

    def build(
        self,
        describe: Describe,
        *,
        head: str = "all",
        activations: str = "f32",
        cache: str | None = None,
        ring: Ring | None = None,
    ) -> Plan:
        """The plan of the model.

        describe: shape and format of a checkpoint tensor by its name (`source.describe`). head: one of
        `endings.HEADS`. activations: "f32"; "f16" for the inputs of linear layers and attention; "int8" for the inputs
        of linear layers with integer weights, in blocks of 32. The residual stream and all outputs of linear layers
        stay f32. cache: one of `blocks.CACHES`, by default f16 with f16 activations and f32 with others.
        ring: what every token sees of its text, where it would see more. Raises `WorkbenchError` where that cuts chunks
        of attention.
        """
        if head not in HEADS:
            raise ValueError(f"head is one of {', '.join(HEADS)}, not {head!r}")
        if activations not in ACTIVATIONS:
            raise ValueError(f"activations are one of {', '.join(ACTIVATIONS)}, not {activations!r}")
        if cache is not None and cache not in CACHES:
            raise ValueError(f"the cache is one of {', '.join(CACHES)}, not {cache!r}")
        plan = Blocks(
            self.tensors(), describe, self.plan_name, activations, cache, ring, self.lora, self.orders
        )
        plan.inputs()
        x = self.embed(plan)
        for index in range(self.layers):
            x = self.layer(plan, index, x)
        x = self.final(plan, x)
        return endings.end(plan, x, self.vocab_size, lambda row, y: self.logits(plan, row, y), head)
