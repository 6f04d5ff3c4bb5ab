"""A semantic plan: a straight-line program of kernel calls over named buffers.

A plan is the same on every machine. Dimensions that a run decides are names: `tokens` (of one step) and `capacity`
(positions in the key/value cache). It can be printed, saved as JSON beside the weights, counted (`count.py`), run by
the references (`workbench.runtime.torch_executor`) or lowered for a device (`workbench.runtime.lowering`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from workbench.errors import WorkbenchError
from workbench.formats.spec import WeightFormat

KINDS = ("weight", "constant", "input", "state", "cache", "activation")


class PlanError(WorkbenchError):
    """A plan is inconsistent, or was asked for a buffer it does not have."""


@dataclass(frozen=True)
class Buffer:
    """A named array. kind: one of `KINDS`. dtype: an element type of `wgsl_kernels.pair.ELEMENT_BYTES`."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str
    kind: str

    def resolved(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape with names replaced by numbers."""
        return tuple(sizes[d] if isinstance(d, str) else d for d in self.shape)


@dataclass(frozen=True)
class Weight:
    """A matrix of the checkpoint: `tensor` is its name there; its planes are buffers `<name>.<plane>`."""

    name: str
    tensor: str
    shape: tuple[int, int]
    format: WeightFormat


@dataclass(frozen=True)
class Call:
    """One kernel call: buffers by port, parameters by name."""

    kernel: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    params: Mapping[str, int | float | bool] = field(default_factory=dict)

    def __str__(self) -> str:
        inputs = ", ".join(f"{port}={name}" for port, name in self.inputs.items())
        params = "".join(f", {name}={value}" for name, value in self.params.items())
        return f"{self.kernel}({inputs}{params}) -> {', '.join(self.outputs.values())}"


@dataclass(frozen=True)
class Plan:
    """See the module's docstring. results: what a run hands back, buffer names. weights: matrices by name."""

    buffers: Mapping[str, Buffer]
    calls: tuple[Call, ...]
    weights: Mapping[str, Weight]
    results: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(str(call) for call in self.calls)

    def of_kind(self, kind: str) -> list[Buffer]:
        return [buffer for buffer in self.buffers.values() if buffer.kind == kind]

    def check(self) -> None:
        """Raises `PlanError` for an unknown kind of buffer, one that no one declared, or a read before any write."""
        for buffer in self.buffers.values():
            if buffer.kind not in KINDS:
                raise PlanError(
                    f"buffer {buffer.name!r} is of kind {buffer.kind!r}; allowed: {', '.join(KINDS)}"
                )
        written = {b.name for b in self.buffers.values() if b.kind != "activation"}
        for call in self.calls:
            for name in (*call.inputs.values(), *call.outputs.values()):
                if name not in self.buffers:
                    raise PlanError(f"{call.kernel} uses {name!r}, which no one declared")
            for port, name in call.inputs.items():
                if name not in written:
                    raise PlanError(f"{call.kernel}.{port} reads {name!r} before it is written")
            written.update(call.outputs.values())
        for name in self.results:
            if name not in written:
                raise PlanError(f"the result {name!r} is never written")

    def check_names(self, names: Iterable[str]) -> tuple[str, ...]:
        """The names, if each is an activation of this plan; raises `PlanError` with near matches."""
        names = tuple(names)
        for name in names:
            if name not in self.buffers or self.buffers[name].kind != "activation":
                import difflib

                near = difflib.get_close_matches(
                    name, [b.name for b in self.of_kind("activation")], n=4, cutoff=0.3
                )
                kind = self.buffers[name].kind if name in self.buffers else "weight"
                other = f" ({name!r} is of kind {kind!r})" if name in {**self.buffers, **self.weights} else ""
                raise PlanError(
                    f"the plan has no activation {name!r}; near it: {', '.join(near) or 'none'}{other}"
                )
        return names

    def to_json(self) -> dict:
        """JSON values; `from_json` is the inverse."""
        return {
            "version": 1,
            "buffers": [dataclasses.asdict(b) | {"shape": list(b.shape)} for b in self.buffers.values()],
            "weights": [
                {"name": w.name, "tensor": w.tensor, "shape": list(w.shape), "format": w.format.to_json()}
                for w in self.weights.values()
            ],
            "calls": [
                {
                    "kernel": c.kernel,
                    "inputs": dict(c.inputs),
                    "outputs": dict(c.outputs),
                    "params": dict(c.params),
                }
                for c in self.calls
            ],
            "results": list(self.results),
        }

    @classmethod
    def from_json(cls, data: Mapping) -> Plan:
        """Raises `PlanError` where the data is not a plan."""
        try:
            if data["version"] != 1:
                raise PlanError(f"version {data['version']!r} is not known; 1 is")
            buffers = [Buffer(b["name"], tuple(b["shape"]), b["dtype"], b["kind"]) for b in data["buffers"]]
            weights = [
                Weight(w["name"], w["tensor"], tuple(w["shape"]), WeightFormat.from_json(w["format"]))
                for w in data["weights"]
            ]
            calls = [
                Call(c["kernel"], dict(c["inputs"]), dict(c["outputs"]), dict(c["params"]))
                for c in data["calls"]
            ]
            plan = cls(
                {b.name: b for b in buffers},
                tuple(calls),
                {w.name: w for w in weights},
                tuple(data["results"]),
            )
            plan.check()
        except (KeyError, TypeError, ValueError) as error:  # ValueError: also a format that is none
            raise PlanError(f"this is not a plan: {error!r}") from error
        return plan
