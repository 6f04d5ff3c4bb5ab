"""A program: what a device does in one step, as plain data. No Python is needed to play it.

Lowering ends here: WGSL modules, pipelines, buffers, what is uploaded into them, and dispatches in order, for one head,
number of tokens, capacity of the cache and kind of adapter. A program knows no model and no kernel library; `Player`
plays it, here and in a page alike. Its JSON has a schema (`program.schema.json`).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Any

from workbench.errors import WorkbenchError
from workbench.plan import constants
from workbench.plan.constants import RotaryTable

VERSION = 3
#: What becomes of a plane of a tensor on its way to a device: nothing; rows padded with zeros to whole groups of
#: `wgsl_kernels.layout.FLOAT_GROUP` columns; converted to f32, with a number added.
TRANSFORMS = ("as stored", "padded rows", "to f32")
#: Buffers whose contents are the same in every step, those that belong to one sequence, and scratch.
KINDS = ("weight", "constant", "cache", "input", "state", "activation")


class ProgramError(WorkbenchError):
    """What was read is not a program."""


@dataclass(frozen=True)
class Target:
    """What a program was lowered for. subgroup_size: 0 for a program without subgroup operations. back: how far a
    sequence can go back from the furthest position that it has come to, unless to its beginning, since windows bound
    its cache; 0 where none does."""

    head: str
    tokens: int
    capacity: int
    sequences: int
    results: int
    steps: int
    subgroup_size: int
    f16: bool
    binding_bytes: int
    back: int


@dataclass(frozen=True)
class Pipeline:
    """module: index among the program's. bindings: number and kind ("storage", "read-only-storage", "uniform"), in the
    order in which dispatches give buffers. body_line: how many lines of the module stand in front of the variant's own
    file. own: the WGSL is not the library's, and is compiled with every check."""

    label: str
    module: int
    bindings: tuple[tuple[int, str], ...]
    body_line: int = 0
    own: bool = False


@dataclass(frozen=True)
class Memory:
    """A buffer. kind: of `KINDS`. initial: of a constant, what its numbers are, with `shape`."""

    nbytes: int
    kind: str
    uniform: bool = False
    shape: tuple[int, ...] = ()
    initial: RotaryTable | None = None


@dataclass(frozen=True)
class Upload:
    """Rows `first` to `stop` of a plane of a tensor, into a buffer from a byte on; stop is 0 for a plane that all rows
    share. transform: of `TRANSFORMS`; offset: added by "to f32"."""

    tensor: str
    plane: str
    first: int
    stop: int
    buffer: str
    at: int
    transform: str
    offset: float = 0.0


@dataclass(frozen=True)
class Dispatch:
    """buffers: (name, offset, bytes) in the order of the pipeline's bindings. writes: activations that are whole behind
    it, by name."""

    pipeline: int
    buffers: tuple[tuple[str, int, int], ...]
    grid: tuple[int, int, int]
    writes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Value:
    """Where a named activation lies. by_token: a row for each token of the step, padding rows at the end."""

    buffer: str
    shape: tuple[int, ...]
    dtype: str
    by_token: bool


@dataclass(frozen=True)
class Program:
    """See the module's docstring. values: activations by name, `results` among them."""

    target: Target
    modules: tuple[str, ...]
    pipelines: tuple[Pipeline, ...]
    buffers: Mapping[str, Memory]
    uploads: tuple[Upload, ...]
    dispatches: tuple[Dispatch, ...]
    values: Mapping[str, Value]
    results: tuple[str, ...]

    def of_kind(self, kind: str) -> dict[str, Memory]:
        return {name: each for name, each in self.buffers.items() if each.kind == kind}

    def to_json(self) -> dict:
        """JSON values; `from_json` is the inverse. Dispatches and uploads are lists, since there are many."""
        index = {name: i for i, name in enumerate(self.buffers)}
        return {
            "version": VERSION,
            "target": asdict(self.target),
            "modules": list(self.modules),
            "pipelines": [
                asdict(each) | {"bindings": list(map(list, each.bindings))} for each in self.pipelines
            ],
            "buffers": [_memory_json(name, each) for name, each in self.buffers.items()],
            "uploads": [
                [u.tensor, u.plane, u.first, u.stop, index[u.buffer], u.at, u.transform, u.offset]
                for u in self.uploads
            ],
            "dispatches": [
                [
                    d.pipeline,
                    [[index[name], at, size] for name, at, size in d.buffers],
                    list(d.grid),
                    list(d.writes),
                ]
                for d in self.dispatches
            ],
            "values": {
                name: [index[v.buffer], list(v.shape), v.dtype, v.by_token] for name, v in self.values.items()
            },
            "results": list(self.results),
        }

    @classmethod
    def from_json(cls, data: Mapping) -> Program:
        """Raises `ProgramError` naming the place where the data is not a program."""
        check(data)
        names = [each["name"] for each in data["buffers"]]
        try:
            return cls(
                Target(**data["target"]),
                tuple(data["modules"]),
                tuple(
                    Pipeline(**{**each, "bindings": tuple((n, kind) for n, kind in each["bindings"])})
                    for each in data["pipelines"]
                ),
                {each["name"]: _memory(each) for each in data["buffers"]},
                tuple(
                    Upload(tensor, plane, first, stop, names[buffer], at, transform, offset)
                    for tensor, plane, first, stop, buffer, at, transform, offset in data["uploads"]
                ),
                tuple(
                    Dispatch(
                        pipeline,
                        tuple((names[buffer], at, size) for buffer, at, size in buffers),
                        tuple(grid),
                        tuple(writes),
                    )
                    for pipeline, buffers, grid, writes in data["dispatches"]
                ),
                {
                    name: Value(names[buffer], tuple(shape), dtype, by_token)
                    for name, (buffer, shape, dtype, by_token) in data["values"].items()
                },
                tuple(data["results"]),
            )
        except (IndexError, ValueError) as error:
            raise ProgramError(f"this is not a program: {error}") from error


def _memory_json(name: str, memory: Memory) -> dict:
    found = {"name": name, "bytes": memory.nbytes, "kind": memory.kind}
    if memory.uniform:
        found["uniform"] = True
    if memory.initial is not None:
        found |= {"shape": list(memory.shape), "initial": constants.to_json(memory.initial)}
    return found


def _memory(data: Mapping) -> Memory:
    initial = constants.from_json(data["initial"]) if "initial" in data else None
    shape = tuple(data.get("shape", ()))
    return Memory(data["bytes"], data["kind"], data.get("uniform", False), shape, initial)


@functools.cache
def _validator():
    from jsonschema import Draft202012Validator

    text = resources.files("workbench.runtime").joinpath("program.schema.json").read_text("utf-8")
    return Draft202012Validator(json.loads(text))


def check(data: Any) -> None:
    """Raises `ProgramError` naming the place where JSON values do not follow the schema, or point to nothing."""
    for error in _validator().iter_errors(data):
        place = "".join(f"[{each}]" if isinstance(each, int) else f".{each}" for each in error.absolute_path)
        raise ProgramError(f"this is not a program: {place.lstrip('.') or 'it'}: {error.message[:200]}")
    pipelines, buffers = data["pipelines"], data["buffers"]
    for n, each in enumerate(pipelines):
        if each["module"] >= len(data["modules"]):
            raise ProgramError(
                f"this is not a program: pipelines[{n}].module: there is no module {each['module']}"
            )
    for n, (pipeline, bound, _, _) in enumerate(data["dispatches"]):
        if pipeline >= len(pipelines):
            raise ProgramError(f"this is not a program: dispatches[{n}][0]: there is no pipeline {pipeline}")
        if len(bound) != len(pipelines[pipeline]["bindings"]):
            raise ProgramError(
                f"this is not a program: dispatches[{n}][1]: {len(bound)} buffers for "
                f"{len(pipelines[pipeline]['bindings'])} bindings"
            )
        for buffer, at, size in bound:
            if buffer >= len(buffers) or at + size > buffers[buffer]["bytes"]:
                raise ProgramError(f"this is not a program: dispatches[{n}][1]: bytes that no buffer has")
