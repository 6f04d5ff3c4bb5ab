"""What writes continuations, a piece of work at a time: a model in a session of its own, or one model for several
settings side by side, as sequences of one batch."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from workbench.known import known
from workbench.model_bench.speed import computes_on_cpu
from workbench.runtime.edits import Edits, by_sequence
from workbench.runtime.sampling import Drawn, Sampler, SamplingOptions
from workbench.runtime.textstream import Detokenizer

from .tokens import Continuation, Names, Token

#: Tokens between two looks at whether to stop while a prompt is read.
CPU_PIECE, GPU_PIECE = 64, 1024


@dataclass(frozen=True)
class Setting:
    """How a model continues a prompt. edit: functions f(x, position) that change activations in flight
    (`workbench.runtime.edits`)."""

    sampling: SamplingOptions
    edit: Edits | None = None


class Lane:
    """A continuation as it grows."""

    def __init__(self, label: str, model: Any, ids: Sequence[int], setting: Setting):
        self.model, self.setting, self.names = model, setting, Names(model.tokenizer)
        self.found = Continuation(label, model.device_name)
        self._detokenizer = Detokenizer(model.tokenizer, ids)

    def take(self, batch: Sequence[Drawn], took: float) -> bool:
        """What a piece of work of so many seconds gave; whether the text goes on."""
        found = self.found
        if found.tokens or not batch:
            found.rest_s += took
        for drawn in batch:
            if not found.tokens:
                found.first_s, found.rest_s = found.rest_s + took, 0.0
            found.tokens.append(self._described(drawn))
            if drawn.id in self.model.eos_ids:
                found.reason = "end of text"
                return False
        return True

    def finish(self, reason: str | None) -> None:
        """No more tokens come; `reason` if the lane knows no better one."""
        self.found.reason = self.found.reason or reason
        self.found.device = self.model.device_name  # of a page, it is known once it has computed
        rest = self._detokenizer.finish()
        if rest and self.found.tokens:
            last = self.found.tokens[-1]
            self.found.tokens[-1] = replace(last, text=last.text + rest)

    def _described(self, drawn: Drawn) -> Token:
        text, names = self._detokenizer.push(drawn.id), self.names
        return Token(
            drawn.id, text, names(drawn.id), math.exp(known(drawn.log_p)), names.alternatives(drawn.likely)
        )


class Writer(Protocol):
    """At work on some lanes."""

    def step(self, stopped: Callable[[], bool]) -> bool:
        """One piece of work, which may give tokens or none; False when there is nothing more to do. What a piece gives
        after a stop is not taken."""
        ...

    def finish(self, reason: str | None = None) -> None:
        """Give the cache back."""


def pieces(model: Any, ids: Sequence[int]) -> Iterator[tuple[Sequence[int], bool]]:
    """A prompt as it is fed, and whether that is the last piece."""
    piece = CPU_PIECE if computes_on_cpu(model) else GPU_PIECE
    for start in range(0, len(ids), piece):
        yield ids[start : start + piece], start + piece >= len(ids)


class Alone:
    """One model at work on one continuation. ahead: the device may run ahead of what is taken, which is fastest, but
    would be counted as the time of another model that is at work in turns with it."""

    def __init__(self, lane: Lane, ids: Sequence[int], count: int, ahead: bool):
        self.lanes = [lane]
        self._ids, self._count, self._ahead = list(ids), count, ahead
        self._steps = self._written(lane)

    def step(self, stopped: Callable[[], bool]) -> bool:
        """See `Writer.step`."""
        (lane,) = self.lanes
        began = time.perf_counter()
        batch = next(self._steps, None)
        took = time.perf_counter() - began
        if stopped():
            return True
        if batch is None:
            lane.found.reason = lane.found.reason or "length"
            return False
        return lane.take(batch, took)

    def finish(self, reason: str | None = None) -> None:
        """See `Writer.finish`."""
        self._steps.close()
        self.lanes[0].finish(reason)

    def _written(self, lane: Lane) -> Generator[list[Drawn]]:
        """Tokens as the executor gives them, with how likely they were; nothing while the prompt is read."""
        model, options = lane.model, lane.setting.sampling
        with contextlib.closing(model.session(lane.setting.edit)) as session:
            for piece, last in pieces(model, self._ids):
                session.feed(piece)
                if not last:
                    yield []
            if session.room < self._count:
                self._count, lane.found.reason = session.room, "cache full"
            first = session.draw(options, told=True)
            yield [first]
            if self._count > 1:
                rest = session.stream(first.id, self._count - 1, options, told=True, ahead=self._ahead)
                for drawn in rest:
                    yield [drawn]


class Together:
    """One model at work on several continuations of a prompt at once, each a sequence of a batch: a step has a row of
    each, and its time is that of all of them."""

    def __init__(self, lanes: Sequence[Lane], ids: Sequence[int], count: int):
        self.lanes, self._ids = lanes, list(ids)
        self._going = dict(enumerate(lanes))
        room = lanes[0].model.max_tokens - len(ids) + 1
        self._count = min(count, room)
        self._end = "length" if self._count == count else "cache full"
        self._steps = self._written()

    def step(self, stopped: Callable[[], bool]) -> bool:
        """See `Writer.step`."""
        began = time.perf_counter()
        batch = next(self._steps, None)
        took = time.perf_counter() - began
        if stopped():
            return True
        if batch is None:
            return False
        for n, lane in list(self._going.items()):
            if not lane.take([batch[n]] if n in batch else [], took):
                del self._going[n]
        return bool(self._going)

    def finish(self, reason: str | None = None) -> None:
        """See `Writer.finish`."""
        self._steps.close()
        for lane in self.lanes:
            lane.finish(reason or self._end)

    def _written(self) -> Generator[dict[int, Drawn]]:
        """A token of each lane that goes on; nothing while the prompt is read."""
        model = self.lanes[0].model
        samplers = [Sampler(lane.setting.sampling) for lane in self.lanes]
        texts = [list(self._ids) for _ in self.lanes]
        edit = by_sequence([lane.setting.edit for lane in self.lanes])
        with contextlib.closing(model.batch(len(self.lanes), edit)) as batch:
            for piece, last in pieces(model, self._ids):
                logits = batch.feed(dict.fromkeys(range(len(self.lanes)), piece))
                if not last:
                    yield {}
            for left in range(self._count - 1, -1, -1):
                drawn = {
                    n: samplers[n].drawn(row, len(texts[n]), texts[n], told=True)
                    for n, row in logits.items()
                    if n in self._going
                }
                yield drawn
                if not left:
                    return
                fed = {n: [drawn[n].id] for n in self._going}
                for n, ids in fed.items():
                    texts[n] += ids
                logits = batch.feed(fed)
