"""A semantic plan: a straight-line program of calls of ops over named buffers.

A plan is the same on every machine. Dimensions that a run decides are names (`step_sizes`). A call names an op; which
kernel computes it follows from the types of the buffers it touches (`bind.py`). A plan can be printed, saved as JSON,
counted (`count.py`), run by the references (`workbench.runtime.torch_executor`) or lowered for a device
(`workbench.runtime.lowering`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from workbench.errors import WorkbenchError
from workbench.formats.spec import WeightFormat

from . import constants, types
from .constants import RotaryTable
from .types import Matrix, Plain, Type

#: Of the JSON values of a plan.
VERSION = 4
KINDS = ("weight", "constant", "input", "state", "cache", "activation")
#: Rows that one step adds to one sequence at most, where its cache is a ring; and how far back a sequence can go there.
RING_ROWS = 256


class PlanError(WorkbenchError):
    """A plan is inconsistent, or was asked for a buffer it does not have."""


@dataclass(frozen=True)
class Buffer:
    """A named value. kind: one of `KINDS`. tensors: of a weight, the checkpoint's tensors that its rows come from.
    initial: of a constant, what its numbers are. offset: what is added to a vector of the checkpoint (Gemma stores
    norms less 1)."""

    name: str
    shape: tuple[int | str, ...]
    type: Type
    kind: str
    tensors: tuple[str, ...] = ()
    initial: RotaryTable | None = None
    offset: float = 0.0

    def resolved(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape with names replaced by numbers."""
        return resolve(self.shape, sizes)

    @property
    def dtype(self) -> str:
        """Element type of plain numbers; what forms of kernels call any other type."""
        return self.type.dtype if isinstance(self.type, Plain) else self.type.label

    @property
    def is_matrix(self) -> bool:
        """Whether it is a matrix of the checkpoint, in one of the formats of weights."""
        return isinstance(self.type, Matrix)

    @property
    def format(self) -> WeightFormat:
        """Of a matrix; raises `PlanError` for any other buffer."""
        if not isinstance(self.type, Matrix):
            raise PlanError(f"buffer {self.name!r} holds {self.type}; only a matrix has a format of weights")
        return self.type.format

    @property
    def rows(self) -> int:
        """Of a weight, a matrix or a vector."""
        return types.number(self.shape[0])

    @property
    def columns(self) -> int:
        """The last dimension, in which values lie side by side."""
        return types.number(self.shape[-1])

    @property
    def tensor(self) -> str:
        """Name in the checkpoint, of a weight that is one tensor."""
        (name,) = self.tensors
        return name

    def planes(self) -> dict[str, tuple[str, tuple[int | str, ...], str]]:
        """Plane -> its own name, shape and element type: the arrays that this value is on a device."""
        found = self.type.planes(self.shape)
        return {plane: (plane_name(self.name, plane), *each) for plane, each in found.items()}


def plane_name(buffer: str, plane: str) -> str:
    """What a plane of a buffer is called; of plain numbers the only one has the buffer's name."""
    return f"{buffer}.{plane}" if plane else buffer


def step_sizes(
    tokens: int, capacity: int, *, sequences: int = 1, results: int = 1, steps: int = 1
) -> dict[str, int]:
    """Numbers for the names in shapes. tokens: rows of one step. capacity: positions that the key/value cache takes for
    each of its `sequences`, with a slot for each but where a layer's is a ring. results: rows whose logits alone are
    computed, where a plan ends so. steps: of one readback at most, when tokens are generated."""
    given = {"tokens": tokens, "capacity": capacity, "sequences": sequences}
    return {**given, "results": results, "steps": steps}


@dataclass(frozen=True)
class Ring:
    """A cache in which a token sees no more than the first `sinks` positions and the `window` up to its own. As a
    dimension of a shape its text stands for its slots."""

    window: int
    sinks: int = 0

    def __str__(self) -> str:
        return f"ring {self.sinks}+{self.window}"

    @classmethod
    def named(cls, dimension: int | str) -> Ring | None:
        """The ring that a dimension stands for, None for any other."""
        found = re.fullmatch(r"ring (\d+)\+(\d+)", str(dimension))
        return cls(int(found[2]), int(found[1])) if found else None

    def slots(self, capacity: int) -> int:
        """Slots for texts of `capacity` positions: the rows of a step are appended before any of them looks, and may
        not take the places of what the first of them sees."""
        return min(capacity, self.sinks + self.window + RING_ROWS - 1)


def resolve(shape: Iterable[int | str], sizes: Mapping[str, int]) -> tuple[int, ...]:
    """A shape with names replaced by numbers."""
    return tuple(_number(d, sizes) if isinstance(d, str) else d for d in shape)


def _number(name: str, sizes: Mapping[str, int]) -> int:
    if name in sizes:
        return sizes[name]
    ring = Ring.named(name)
    if ring is None:
        raise KeyError(name)
    return ring.slots(sizes["capacity"])


@dataclass(frozen=True)
class Call:
    """One call of an op: buffers by operand, parameters by name."""

    op: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    params: Mapping[str, int | float | bool] = field(default_factory=dict)

    def __str__(self) -> str:
        inputs = ", ".join(f"{operand}={name}" for operand, name in self.inputs.items())
        params = "".join(f", {name}={value}" for name, value in self.params.items())
        return f"{self.op}({inputs}{params}) -> {', '.join(self.outputs.values())}"


@dataclass(frozen=True)
class Plan:
    """See the module's docstring. results: what a run hands back, buffer names."""

    buffers: Mapping[str, Buffer]
    calls: tuple[Call, ...]
    results: tuple[str, ...]

    @cached_property
    def weights(self) -> Mapping[str, Buffer]:
        """The matrices, by name."""
        return {name: buffer for name, buffer in self.buffers.items() if buffer.is_matrix}

    @cached_property
    def writers(self) -> Mapping[str, Call]:
        """The call that writes an activation, or last wrote a cache, by the buffer's name."""
        return {name: call for call in self.calls for name in call.outputs.values()}

    @cached_property
    def readers(self) -> Mapping[str, list[Call]]:
        """The calls that read a buffer, each once, by its name; none of what no call reads."""
        found: dict[str, list[Call]] = {}
        for call in self.calls:
            for name in dict.fromkeys(call.inputs.values()):
                found.setdefault(name, []).append(call)
        return found

    def __str__(self) -> str:
        return "\n".join(str(call) for call in self.calls)

    def of_kind(self, kind: str) -> list[Buffer]:
        return [buffer for buffer in self.buffers.values() if buffer.kind == kind]

    def check(self) -> None:
        """Raises `PlanError` for an unknown kind of buffer, one that is not declared, or a read before any write."""
        for buffer in self.buffers.values():
            if buffer.kind not in KINDS:
                raise PlanError(
                    f"buffer {buffer.name!r} is of kind {buffer.kind!r}; allowed: {', '.join(KINDS)}"
                )
            if (buffer.kind == "constant") != (buffer.initial is not None):
                raise PlanError(
                    f"buffer {buffer.name!r}: constants have numbers to begin with, others have none"
                )
        written = {b.name for b in self.buffers.values() if b.kind != "activation"}
        for call in self.calls:
            for name in (*call.inputs.values(), *call.outputs.values()):
                if name not in self.buffers:
                    raise PlanError(f"{call.op} uses {name!r}, which is not declared")
            for port, name in call.inputs.items():
                if name not in written:
                    raise PlanError(f"{call.op}.{port} reads {name!r} before it is written")
            written.update(call.outputs.values())
        for name in self.results:
            if name not in written:
                raise PlanError(f"the result {name!r} is never written")

    @cached_property
    def rings(self) -> tuple[Ring, ...]:
        """Those that layers' caches are, each once."""
        found = (Ring.named(d) for buffer in self.of_kind("cache") for d in buffer.shape)
        return tuple(dict.fromkeys(ring for ring in found if ring is not None))

    @cached_property
    def arrays(self) -> dict[str, tuple[Buffer, tuple[int | str, ...], str]]:
        """The planes of all activations by their own names: the buffer, the plane's shape and element type."""
        return {
            own: (buffer, shape, dtype)
            for buffer in self.of_kind("activation")
            for own, shape, dtype in buffer.planes().values()
        }

    def check_names(self, names: Iterable[str]) -> tuple[str, ...]:
        """The names, if each is an activation of this plan, or one of the planes of an activation that has several.

        Raises `PlanError` with near matches.
        """
        names = tuple(names)
        for name in names:
            if name not in self.arrays:
                import difflib

                near = difflib.get_close_matches(name, list(self.arrays), n=4, cutoff=0.3)
                kind = self.buffers[name].kind if name in self.buffers else "weight"
                other = f" ({name!r} is of kind {kind!r})" if name in self.buffers else ""
                raise PlanError(
                    f"the plan has no activation {name!r}; near it: {', '.join(near) or 'none'}{other}"
                )
        return names

    def to_json(self) -> dict:
        """JSON values; `from_json` is the inverse."""
        return {
            "version": VERSION,
            "buffers": [
                {"name": b.name, "shape": list(b.shape), "type": types.to_json(b.type), "kind": b.kind}
                | ({"tensors": list(b.tensors)} if b.tensors else {})
                | ({"initial": constants.to_json(b.initial)} if b.initial else {})
                | ({"offset": b.offset} if b.offset else {})
                for b in self.buffers.values()
            ],
            "calls": [
                {"op": c.op, "inputs": dict(c.inputs), "outputs": dict(c.outputs), "params": dict(c.params)}
                for c in self.calls
            ],
            "results": list(self.results),
        }

    @classmethod
    def from_json(cls, data: Mapping) -> Plan:
        """Raises `PlanError` where the data is not a plan."""
        try:
            if data["version"] != VERSION:
                raise PlanError(f"version {data['version']!r} is not known; {VERSION} is")
            buffers = [
                Buffer(
                    b["name"],
                    tuple(b["shape"]),
                    types.from_json(b["type"]),
                    b["kind"],
                    tuple(b.get("tensors", ())),
                    constants.from_json(b["initial"]) if "initial" in b else None,
                    float(b.get("offset", 0.0)),
                )
                for b in data["buffers"]
            ]
            calls = [
                Call(c["op"], dict(c["inputs"]), dict(c["outputs"]), dict(c["params"])) for c in data["calls"]
            ]
            plan = cls({b.name: b for b in buffers}, tuple(calls), tuple(data["results"]))
            plan.check()
        except (KeyError, TypeError, ValueError) as error:  # ValueError: also a type or format that is none
            raise PlanError(f"this is not a plan: {error!r}") from error
        return plan
