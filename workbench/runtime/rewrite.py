"""Rewriting a semantic plan by rules: where one composition of ops stands in it, another takes its place.

One matcher serves all rules (`wgsl_kernels.fusions`). What a rule names on the way (its internal symbols) disappears,
so a rule holds only where nobody else reads it and nobody asked for it by name. What a rule gives keeps its name.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from wgsl_kernels.composition import Composition, Facts, Node, Param, Rule
from wgsl_kernels.fusions import RULES, SINGLE_PRODUCTS
from wgsl_kernels.library import Library
from wgsl_kernels.pair import Adapter, Kernel
from workbench.plan.bind import kernel_of
from workbench.plan.plan import Buffer, Call, Plan
from workbench.plan.types import Plain

from .stacks import Stack

#: Whether a rule that is a choice was measured to pay at a place, None where nothing was measured.
Measured = Callable[[Rule, Composition, "Found"], bool | None]
#: Of a matrix's rows those of each binding, by its name.
Ranges = Callable[[str], Sequence[tuple[int, int]]]


@functools.lru_cache
def forms(rule: Rule) -> tuple[tuple[Composition, Composition], ...]:
    """`Rule.forms`, recorded once."""
    return tuple(rule.forms())


class Index:
    """Who writes and who reads each buffer of a plan; calls by their place."""

    def __init__(self, plan: Plan):
        self.plan, self.calls = plan, plan.calls
        self.of_op: dict[str, list[int]] = {}
        self.readers: dict[str, list[int]] = {}
        self.writers: dict[str, list[int]] = {}
        for at, call in enumerate(plan.calls):
            self.of_op.setdefault(call.op, []).append(at)
            for name in set(call.inputs.values()):
                self.readers.setdefault(name, []).append(at)
            for name in set(call.outputs.values()):
                self.writers.setdefault(name, []).append(at)


@dataclass(frozen=True)
class Found:
    """Where a composition stands in a plan. at: places of its calls, in its own order; names: symbol -> buffer;
    params: name -> value. The methods are those of `wgsl_kernels.composition.Match`."""

    plan: Plan
    at: tuple[int, ...]
    names: Mapping[str, str]
    params: Mapping[str, int | float]
    protected: frozenset[str] = frozenset()
    row_ranges: Ranges | None = None

    def shape(self, symbol: str) -> tuple[int | str, ...]:
        return self.plan.buffers[self.names[symbol]].shape

    def label(self, symbol: str) -> str:
        return self.plan.buffers[self.names[symbol]].dtype

    def has(self, symbol: str) -> bool:
        return symbol in self.names

    def kept(self, symbol: str) -> bool:
        return self.names[symbol] in self.protected

    def ranges(self, symbol: str) -> Sequence[tuple[int, int]]:
        assert self.row_ranges is not None, "a rule looks at ranges where it is applied"
        return self.row_ranges(self.names[symbol])


def _unify(
    node: Node, call: Call, names: Mapping[str, str], params: Mapping, kernel: Kernel
) -> Iterator[tuple[dict, dict]]:
    """What symbols and parameters stand for if `node` is `call`, beyond what is known; for each way to see it so.

    kernel: any form of the node's op. Parameters that either leaves out have their defaults.
    """
    if call.op != node.op or call.inputs.keys() != node.inputs.keys():
        return
    wanted, stated = {**kernel.defaults, **node.params}, {**kernel.defaults, **call.params}
    if stated.keys() != wanted.keys():
        return
    orders = [call.inputs]
    swapped = kernel.commutes if stated == kernel.defaults else None
    if swapped is not None and all(operand in call.inputs for operand in swapped):
        one, other = swapped
        orders.append({**call.inputs, one: call.inputs[other], other: call.inputs[one]})
    for inputs in orders:
        found, given = dict(names), dict(params)
        pairs = [
            *((symbol, inputs[operand]) for operand, symbol in node.inputs.items()),
            *((symbol, call.outputs[operand]) for operand, symbol in node.outputs.items()),
        ]
        agree = all(found.setdefault(symbol, name) == name for symbol, name in pairs)
        for name, value in wanted.items():
            meant = given.setdefault(value.name, stated[name]) if isinstance(value, Param) else value
            agree = agree and meant == stated[name]
        if agree and len(set(found.values())) == len(found):  # two symbols are two buffers
            yield found, given


def matches(index: Index, before: Composition, anchor: int, library: Library) -> Iterator[Found]:
    """Every way in which the composition stands in the plan with its first call at `anchor`."""

    def extend(depth: int, at: tuple[int, ...], names: Mapping, params: Mapping) -> Iterator[Found]:
        if depth == len(before.nodes):
            yield Found(index.plan, at, names, params)
            return
        node = before.nodes[depth]
        if depth == 0:
            places: Sequence[int] = [anchor]
        else:
            known = [names[symbol] for symbol in node.inputs.values() if symbol in names]
            places = min((index.readers.get(name, []) for name in known), key=len, default=[])
        kernel = library.of(node.op)[0]
        for place in places:
            if place not in at:
                for found, given in _unify(node, index.calls[place], names, params, kernel):
                    yield from extend(depth + 1, (*at, place), found, given)

    yield from extend(0, (), {}, {})


def _stands_alone(found: Found, index: Index, before: Composition) -> bool:
    """Whether what is internal is nobody else's, and nothing between its calls depends on them."""
    inside = set(found.at)
    for symbol in before.internal:
        name = found.names[symbol]
        if found.plan.buffers[name].kind != "activation" or name in found.protected:
            return False
        if not inside.issuperset(index.readers.get(name, ())) or len(index.writers[name]) > 1:
            return False
    written = {name for place in found.at for name in index.calls[place].outputs.values()}
    read = {name for place in found.at for name in index.calls[place].inputs.values()}
    for place in range(min(inside), max(inside)):
        if place not in inside:
            call = index.calls[place]
            if written.intersection(call.inputs.values()) or (read | written).intersection(
                call.outputs.values()
            ):
                return False
    return True


@dataclass
class _Rewriting:
    """A plan under one rule: replacements are collected, and put in place together."""

    plan: Plan
    library: Library
    new: dict[int, list[Call]] = field(default_factory=dict)
    gone: set[int] = field(default_factory=set)
    buffers: dict[str, Buffer] = field(default_factory=dict)
    dropped: set[str] = field(default_factory=set)
    renamed: dict[str, str] = field(default_factory=dict)

    @functools.cached_property
    def all_buffers(self) -> dict[str, Buffer]:
        """Those of the plan and the new ones."""
        return {**self.plan.buffers, **self.buffers}

    def _add(self, buffer: Buffer) -> None:
        self.all_buffers[buffer.name] = self.buffers[buffer.name] = buffer

    def replace(
        self,
        found: Found,
        before: Composition,
        after: Composition,
        extra: Mapping,
        stacked: tuple[str, Stack] | None,
    ) -> None:
        """stacked: the symbol that stands for a stack of matrices, and the stack."""
        names = {symbol: found.names[symbol] for symbol in after.inputs}
        if stacked is not None:
            symbol, stack = stacked
            names[symbol] = stack.name
            self._add(stack.buffer)
            self.dropped.update(stack.names)
        results = [found.names[symbol] for symbol in before.results]
        for symbol, name in zip(after.results, results, strict=True):
            if symbol in names and names[symbol] != name:  # it gives what it was given: readers take that
                self.renamed[name] = names[symbol]
                self.dropped.add(name)
            names[symbol] = names.get(symbol, name)
        params = {**found.params, **extra}
        self.gone.update(found.at)
        self.new[max(found.at)] = [self._call(node, names, params, results[0]) for node in after.nodes]
        self.dropped.update(found.names[symbol] for symbol in before.internal)

    def _call(self, node: Node, names: dict[str, str], params: Mapping, beside: str) -> Call:
        inputs = {operand: names[symbol] for operand, symbol in node.inputs.items()}
        values = {
            name: params[value.name] if isinstance(value, Param) else value
            for name, value in node.params.items()
        }
        defaults = self.library.of(node.op)[0].defaults
        values = {name: value for name, value in values.items() if value != defaults.get(name)}
        fresh = {operand: symbol for operand, symbol in node.outputs.items() if symbol not in names}
        known = {operand: names[symbol] for operand, symbol in node.outputs.items() if symbol in names}
        if fresh:
            draft = Call(node.op, inputs, known, values)
            shapes = _shapes(replace(self.plan, buffers=self.all_buffers), draft, self.library)
            # planes are told apart by names too
            planes = {name for name, *_ in self.all_buffers[beside].planes().values()}
            for operand, symbol in fresh.items():
                shape, dtype = shapes[operand]
                free = (
                    name
                    for name in _names(f"{beside}.{operand}")
                    if name not in self.all_buffers and name not in planes
                )
                names[symbol] = next(free)
                self._add(Buffer(names[symbol], shape, Plain(dtype), "activation"))
        outputs = {operand: names[symbol] for operand, symbol in node.outputs.items()}
        return Call(node.op, inputs, outputs, values)

    def finished(self) -> Plan:
        calls = []
        for at, call in enumerate(self.plan.calls):
            calls += self.new.get(at, [] if at in self.gone else [call])
        if self.renamed:
            calls = [
                replace(c, inputs={o: self.renamed.get(name, name) for o, name in c.inputs.items()})
                for c in calls
            ]
        kept = {name: buffer for name, buffer in self.plan.buffers.items() if name not in self.dropped}
        return replace(self.plan, calls=tuple(calls), buffers={**kept, **self.buffers})


def _names(first: str) -> Iterator[str]:
    yield first
    for number in itertools.count(2):
        yield f"{first}.{number}"


def _shapes(plan: Plan, call: Call, library: Library) -> dict[str, tuple[tuple[int | str, ...], str]]:
    """Shape and element type of each plain output of a call, from the shapes of its inputs; names stay names."""
    kernel = kernel_of(plan, call, library)
    sizes: dict = dict(call.params)
    for operand, ports in kernel.operands().items():
        name = call.inputs.get(operand)
        if name is None:
            continue
        buffer = plan.buffers[name]
        for plane, (_, shape, _) in buffer.planes().items():
            port = kernel.reads[ports[plane]]
            sizes |= {label: n for label, n in zip(port.shape, shape, strict=True) if isinstance(label, str)}
        sizes |= kernel.params_of(operand, buffer.type.params(buffer.shape))
    sizes = kernel.complete(sizes)
    found = {}
    for operand, ports in kernel.operands().items():
        if operand not in call.inputs and ports.get("") in kernel.writes:
            port = kernel.writes[ports[""]]
            shape = tuple(sizes[label] if isinstance(label, str) else label for label in port.shape)
            found[operand] = (shape, "f32" if port.dtype == "float" else port.dtype)
    return found


def apply(
    rule: Rule,
    index: Index,
    facts: Facts,
    *,
    keep: Iterable[str],
    stacks: Mapping[tuple[str, ...], Stack],
    ranges: Ranges,
    library: Library,
    measured: Measured | None = None,
) -> Index:
    """Of the plan with the rule applied wherever it holds and pays; the same where that is nowhere. stacks: by the
    names of their members."""
    protected = frozenset({*keep, *index.plan.results})
    for before, after in forms(rule):
        work = _Rewriting(index.plan, library)
        for anchor in index.of_op.get(before.nodes[0].op, ()):
            for found in matches(index, before, anchor, library):
                found = replace(found, protected=protected, row_ranges=ranges)
                if work.gone.intersection(found.at) or not _stands_alone(found, index, before):
                    continue
                stack = stacks.get(tuple(found.names[symbol] for symbol in rule.stack))
                extra = rule.where(facts, found) if stack or not rule.stack else False
                if extra is False or _given_back(before, after, found):
                    continue
                if rule.usual is not None:
                    pays = measured(rule, before, found) if measured is not None else None
                    if not (rule.usual(facts, found) if pays is None else pays):
                        continue
                stacked = ("+".join(rule.stack), stack) if stack else None
                work.replace(found, before, after, extra if isinstance(extra, Mapping) else {}, stacked)
                break
        if work.new:
            index = Index(work.finished())
    return index


def _given_back(before: Composition, after: Composition, found: Found) -> bool:
    """Whether somebody wants a result by a name that would be gone, since `after` gives what it was given."""
    return any(
        new in after.inputs and new != old and found.kept(old)
        for old, new in zip(before.results, after.results, strict=True)
    )


def rewrite(
    plan: Plan,
    facts: Facts,
    *,
    keep: Iterable[str] = (),
    stacks: Iterable[Stack] = (),
    ranges: Ranges,
    library: Library,
    rules: Sequence[Rule] = RULES,
    measured: Measured | None = None,
) -> Plan:
    """The plan after all rules, in their order. Activations named in `keep` are computed as the plan says.

    measured: of rules that are a choice; without it what is usual is done.
    """
    keep = tuple(keep)
    by_members = {stack.names: stack for stack in stacks}
    index = Index(plan)
    for rule in rules:
        index = apply(
            rule,
            index,
            facts,
            keep=keep,
            stacks=by_members,
            ranges=ranges,
            library=library,
            measured=measured,
        )
    return index.plan


def stacked_together(
    plan: Plan, library: Library, rules: Sequence[Rule] = RULES
) -> Iterator[tuple[Buffer, ...]]:
    """The matrices that some rule wants row under row, wherever its pattern stands in the plan, or would stand behind
    the rules that rewrite single products."""
    anywhere, index = Facts(1, 1, Adapter()), Index(plan)
    for rule in SINGLE_PRODUCTS:
        always = replace(rule, where=lambda facts, match: True)
        index = apply(always, index, anywhere, keep=(), stacks={}, ranges=lambda name: (), library=library)
    plan, seen = index.plan, set()
    for rule in rules:
        for before, _ in forms(rule) if rule.stack else ():
            for anchor in index.of_op.get(before.nodes[0].op, ()):
                for found in matches(index, before, anchor, library):
                    names = tuple(found.names[symbol] for symbol in rule.stack)
                    if names not in seen:
                        seen.add(names)
                        yield tuple(plan.buffers[name] for name in names)
