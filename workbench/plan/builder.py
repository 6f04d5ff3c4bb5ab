"""Building a plan call by call: buffers come into being as the outputs of calls, weights by their formats."""

from __future__ import annotations

from collections.abc import Iterable

from wgsl_kernels.layout import INT8_STRIDES
from workbench.formats.spec import WeightFormat

from .constants import RotaryTable
from .plan import Buffer, Call, Plan, PlanError
from .types import Int8Rows, Matrix, Plain, Type


class PlanBuilder:
    """Collects buffers and calls; `finish` checks and freezes them."""

    def __init__(self) -> None:
        self._buffers: dict[str, Buffer] = {}
        self._calls: list[Call] = []

    def buffer(
        self,
        name: str,
        shape: tuple[int | str, ...],
        type: Type | str,
        kind: str,
        tensors: tuple[str, ...] = (),
        initial: RotaryTable | None = None,
        offset: float = 0.0,
    ) -> str:
        """Declare a buffer; type: a text is an element type. Declaring it again with other properties is a
        `PlanError`."""
        kept = Plain(type) if isinstance(type, str) else type
        new = Buffer(name, tuple(shape), kept, kind, tensors, initial, offset)
        if self._buffers.setdefault(name, new) != new:
            raise PlanError(f"buffer {name!r} is declared twice: {self._buffers[name]} and {new}")
        return name

    def weight(self, name: str, tensor: str, shape: tuple[int, int], fmt: WeightFormat) -> str:
        """Declare a matrix [rows, columns] of the checkpoint."""
        return self.buffer(name, shape, Matrix(fmt.fitted(shape[1])), "weight", (tensor,))

    def weight_vector(self, tensor: str, length: int, offset: float = 0.0) -> str:
        """Declare a one-dimensional f32 weight (a norm, a bias) by its name in the checkpoint; offset: added to it."""
        return self.buffer(tensor, (length,), "f32", "weight", (tensor,), offset=offset)

    def like(self, buffer: str, name: str) -> str:
        """Declare an activation of the shape and type of another buffer."""
        other = self._buffers[buffer]
        return self.buffer(name, other.shape, other.type, "activation")

    def call(self, op: str, inputs: dict[str, str], outputs: dict[str, str], **params) -> None:
        """Append a call over declared buffers."""
        for name in (*inputs.values(), *outputs.values()):
            if name not in self._buffers:
                raise PlanError(f"{op} uses {name!r}, which is not declared")
        self._calls.append(Call(op, dict(inputs), dict(outputs), params))

    def shape(self, buffer: str) -> tuple[int | str, ...]:
        return self._buffers[buffer].shape

    def width(self, buffer: str) -> int:
        return self._buffers[buffer].columns

    def format(self, weight: str) -> WeightFormat:
        return self._buffers[weight].format

    def as_int8(self, x: str, weight: str) -> str:
        """x in INT8 as products with this weight read it; quantized once for each order of words."""
        stride = INT8_STRIDES[self.format(weight).dtype]
        name = f"{x}.int8_{stride}"
        if name not in self._buffers:
            self.buffer(name, self._buffers[x].shape, Int8Rows(stride), "activation")
            self.call("quantize_activations", {"x": x}, {"y": name})
        return name

    def finish(self, results: Iterable[str]) -> Plan:
        """The plan; raises `PlanError` if a call reads an activation that nothing wrote before."""
        plan = Plan(dict(self._buffers), tuple(self._calls), tuple(results))
        plan.check()
        return plan
