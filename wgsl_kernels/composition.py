"""Compositions of ops, and rules that say that one composition computes what another does.

A fused kernel carries the composition that it replaces, written as a small function of a recorder `p`:

    @fusion(stack=("gate", "up"), where=few_tokens)
    def norm_gate_up(p, x, norm, gate, up, *, eps):
        normed = p.rms_norm(x=x, weight=norm, eps=eps)
        return p.silu_mul(gate=p.linear(x=normed, weight=gate), up=p.linear(x=normed, weight=up))

From this one function come the kernel's PyTorch reference (`Composition.run`), the rule by which plans are rewritten
(`workbench.runtime.rewrite`), the test of both against each other, and its line in the documentation. Where one call
becomes several, `rule` takes two functions, before and after, of the same operands. An operand with the default None
is optional: the rule then holds with and without it. Keyword-only arguments are parameters.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from .pair import REGISTRY, Adapter, Kernel, KernelUsageError


@dataclass(frozen=True)
class Node:
    """One call of an op: symbols by operand, parameters (names of the composition's, or numbers) by name."""

    op: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    params: Mapping[str, Param | int | float]

    def __str__(self) -> str:
        given = [f"{operand}={symbol}" for operand, symbol in self.inputs.items()]
        given += [f"{name}={value}" for name, value in self.params.items()]
        return f"{', '.join(self.outputs.values())} = {self.op}({', '.join(given)})"


@dataclass(frozen=True)
class Param:
    """A parameter of a composition, by its name."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Composition:
    """A straight line of calls over symbols. inputs, params: what it is a function of; results: what it gives."""

    inputs: tuple[str, ...]
    params: tuple[str, ...]
    nodes: tuple[Node, ...]
    results: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join([*map(str, self.nodes), f"return {', '.join(self.results)}"])

    @property
    def internal(self) -> frozenset[str]:
        """What is made on the way and not given."""
        made = {symbol for node in self.nodes for symbol in node.outputs.values()}
        return frozenset(made - set(self.results) - set(self.inputs))

    def run(self, values: Mapping[str, Any]) -> tuple:
        """The results, by the references of its ops, on tensors (matrices dequantized) and parameters by name.

        A parameter that is not among the values has the default of the op that takes it. What is stored in INT8 on the
        way is rounded to it and back.
        """
        found = dict(values)
        for node in self.nodes:
            given = {operand: found[symbol] for operand, symbol in node.inputs.items()}
            stated = {
                name: values.get(value.name) if isinstance(value, Param) else value
                for name, value in node.params.items()
            }
            given |= {name: value for name, value in stated.items() if value is not None}
            kernel = form_of(node.op)
            given_back = (kernel.values or kernel.reference)(**given)
            results = given_back if isinstance(given_back, tuple) else (given_back,)
            found |= zip(node.outputs.values(), results, strict=True)
        return tuple(found[symbol] for symbol in self.results)


def form_of(op: str) -> Kernel:
    """The plainest form of an op, whose reference takes values as they are: only matrices have a format there."""
    from . import load_library

    load_library()
    found = [kernel for kernel in REGISTRY.values() if kernel.op == op]
    if not found:
        raise KernelUsageError(f"a composition calls {op!r}, which is not an op")
    return min(found, key=lambda kernel: len(set(kernel.form) - {"weight"}))


class Recorder:
    """What a composition is written with: `p.rms_norm(x=..., weight=..., eps=...)` gives symbols."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []

    def __getattr__(self, op: str) -> Callable:
        def call(**given):
            kernel = form_of(op)
            inputs, params = {}, {}
            for name, value in given.items():
                if name in kernel.params:
                    params[name] = value
                elif value is not None:
                    inputs[name] = value
            outputs = {}
            for operand in dict.fromkeys(port.of or name for name, port in kernel.writes.items()):
                updated = operand in inputs and operand in {
                    kernel.reads[port].of or port for port in kernel.updates.values()
                }
                outputs[operand] = inputs[operand] if updated else f"{op}.{len(self.nodes)}.{operand}"
            self.nodes.append(Node(op, inputs, outputs, params))
            symbols = tuple(outputs.values())
            return symbols[0] if len(symbols) == 1 else symbols

        return call


def record(function: Callable, without: frozenset[str] = frozenset()) -> Composition:
    """The composition that a function of a recorder writes; `without`: optional operands that are left out."""
    operands, params = [], []
    for name, parameter in list(inspect.signature(function).parameters.items())[1:]:
        (params if parameter.kind is inspect.Parameter.KEYWORD_ONLY else operands).append(name)
    recorder = Recorder()
    results = function(
        recorder,
        *(None if name in without else name for name in operands),
        **{name: Param(name) for name in params},
    )
    inputs = tuple(name for name in operands if name not in without)
    results = results if isinstance(results, tuple) else (results,)
    return Composition(inputs, tuple(params), tuple(recorder.nodes), results)


class Match(Protocol):
    """Where the first composition of a rule was found in a plan."""

    def shape(self, symbol: str) -> tuple[Any, ...]:
        """Shape of the buffer that a symbol stands for: numbers, and names where a run decides."""
        ...

    @property
    def params(self) -> Mapping[str, int | float]:
        """Values of the composition's parameters by name."""
        ...

    def label(self, symbol: str) -> str:
        """What its type is called: an element type, a weight format, "a8" or "kv8"."""
        ...

    def has(self, symbol: str) -> bool:
        """Whether an optional operand is there."""
        ...

    def kept(self, symbol: str) -> bool:
        """Whether somebody wants it as the plan says it."""
        ...

    def ranges(self, symbol: str) -> Sequence[tuple[int, int]]:
        """Of a matrix's rows those of each binding."""
        ...


@dataclass(frozen=True)
class Facts:
    """What a rule may ask about a step: its tokens, the cache's positions and sequences, and the adapter."""

    tokens: int
    capacity: int
    adapter: Adapter
    sequences: int = 1


#: Says whether a rule holds at a place: False, True, or the parameters that only its second composition has.
Where = Callable[[Facts, Match], bool | Mapping[str, int]]


def _everywhere(facts: Facts, match: Match) -> bool:
    return True


@dataclass(frozen=True)
class Rule:
    """Two compositions that compute the same. name: of the rule; stack: matrices that lie row under row on the device,
    where the second one reads them as one operand, `weight`; where: conditions beside the pattern; usual: of a rule
    that is not faster wherever it holds, whether to apply it where nothing was measured (`workbench tune` times both).
    """

    name: str
    before: Callable
    after: Callable
    stack: tuple[str, ...] = ()
    where: Where = _everywhere
    summary: str = ""
    usual: Callable[[Facts, Match], bool] | None = None

    @property
    def optional(self) -> tuple[str, ...]:
        """Operands that may be left out."""
        given = inspect.signature(self.before).parameters
        return tuple(name for name, parameter in given.items() if parameter.default is None)

    def forms(self) -> Iterator[tuple[Composition, Composition]]:
        """Both compositions, with and without each optional operand; with more of them first."""
        optional = self.optional
        for count in range(len(optional) + 1):
            for left_out in itertools.combinations(optional, count):
                without = frozenset(left_out)
                yield record(self.before, without), record(self.after, without)


def rule(
    before: Callable,
    after: Callable,
    *,
    name: str = "",
    stack: tuple[str, ...] = (),
    where: Where = _everywhere,
    usual: Callable[[Facts, Match], bool] | None = None,
) -> Rule:
    """`before` may be rewritten as `after`; both are functions of a recorder and of the same operands."""
    return Rule(name or before.__name__, before, after, stack, where, inspect.getdoc(before) or "", usual)


def fusion(
    *,
    stack: tuple[str, ...] = (),
    where: Where = _everywhere,
    usual: Callable[[Facts, Match], bool] | None = None,
    op: str | None = None,
) -> Callable[[Callable], Rule]:
    """Decorator of a composition that the op of the same name (or `op`) computes in one call, operand by operand.

    stack: operands that it reads as one, `weight`, row under row. where, usual: as of `Rule`.
    """

    def make(before: Callable) -> Rule:
        signature = inspect.signature(before)

        def after(p, *operands, **params):
            names = list(signature.parameters)[1 : 1 + len(operands)]
            given = dict(zip(names, operands, strict=True))
            if stack:
                given["weight"] = "+".join(given.pop(name) for name in stack)
            return getattr(p, op or before.__name__)(**given, **params)

        after.__signature__ = signature
        return rule(before, after, name=before.__name__, stack=stack, where=where, usual=usual)

    return make


def composed(
    rule: Rule, *, rows: Callable[..., list[int]] | None = None, quantize: Callable | None = None
) -> Callable:
    """The reference of a fused kernel: the composition of those that it replaces, with its matrix, if any, as `weight`.

    rows(weight, **given): how many rows of it belong to each matrix of the stack. quantize(y, y_stride): what makes
    words and scales of the result, where the composition ends with its quantization.
    """

    @functools.cache
    def recorded(without: frozenset[str]) -> Composition:
        return record(rule.before, without)  # not before all pairs are registered

    def reference(weight=None, **given):
        before = recorded(frozenset(name for name in rule.optional if given.get(name) is None))
        values = dict(given)
        if weight is not None:
            parts = weight.split(rows(weight, **given)) if rule.stack and rows is not None else (weight,)
            values |= zip(rule.stack or ("weight",), parts, strict=True)
        if quantize is not None:
            *nodes, last = before.nodes
            (y,) = replace(before, nodes=tuple(nodes), results=(last.inputs["x"],)).run(values)
            return quantize(y, given["y_stride"])
        results = before.run(values)
        return results[0] if len(results) == 1 else results

    reference.__doc__ = rule.summary
    return reference
