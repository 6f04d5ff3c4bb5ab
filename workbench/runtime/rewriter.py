"""A semantic plan being rewritten: calls are replaced by fewer, and what only they wrote and read disappears."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from workbench.plan.plan import Call, Plan


class Rewriter:
    """A plan being rewritten: who writes and who reads each activation, and the calls that are gone."""

    def __init__(self, plan: Plan, keep: Iterable[str]):
        self.plan = plan
        self.protected = {*keep, *plan.results}
        self.calls: list[Call | None] = list(plan.calls)
        self.buffers = dict(plan.buffers)
        self.weights = dict(plan.weights)
        self.readers: dict[str, list[int]] = {}
        self.writer: dict[str, int] = {}
        for index, call in enumerate(plan.calls):
            for name in call.inputs.values():
                self.readers.setdefault(name, []).append(index)
            for name in call.outputs.values():
                self.writer.setdefault(name, index)

    def vanishes(self, name: str, readers: int) -> bool:
        """Whether so many calls read an activation, and nothing else needs it."""
        return (
            self.buffers[name].kind == "activation"
            and name not in self.protected
            and len(self.readers.get(name, ())) == readers
        )

    def only_reader(self, name: str) -> Call | None:
        return self.calls[self.readers[name][0]] if self.vanishes(name, 1) else None

    def replace(self, old: Iterable[Call], new: list[Call]) -> None:
        """Put `new` where the last of `old` stood; what only they wrote and read disappears."""
        indices = [self.calls.index(call) for call in old]
        wanted = {name for call in new for name in (*call.inputs.values(), *call.outputs.values())}
        for index in indices:
            for name in self.calls[index].outputs.values():
                if name not in wanted:
                    self.buffers.pop(name, None)
            self.calls[index] = None
        self.calls[max(indices) : max(indices) + 1] = new
        self.__init__(self.finished(), self.protected)

    def finished(self) -> Plan:
        calls = tuple(call for call in self.calls if call is not None)
        return replace(self.plan, buffers=self.buffers, calls=calls, weights=self.weights)
