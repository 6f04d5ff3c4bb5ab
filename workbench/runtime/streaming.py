"""Greedy and drawn tokens, step behind step on the device, while earlier ones are on their way back.

Steps go out in groups, each with one small readback behind it. Two groups are on the device at a time: while the host
waits for one, reads it and hands its tokens out, the other runs. So the device never waits for a consumer that keeps
up, and computes at most these groups for one that does not. What was computed for nobody is not taken back on the
device: a step writes keys and values only at its own position, and the position is the host's.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from workbench.errors import NonFiniteError
from workbench.models.endings import LIKELY

from .edits import refuse_inside
from .native import Readback
from .sampling import Drawn
from .step import Step

#: Groups on the device at a time.
AHEAD = 2
#: About how long a group lasts: much longer than the host needs to send the next one, shorter than a reader notices.
GROUP_S = 0.016


class Pace:
    """How many steps make up a group: one at first, then as many as take `GROUP_S`, `most` at most.

    A group takes no longer than passes from the arrival of the one before to its own. Where the host is what takes
    that long, longer groups let it keep up, since each costs it something beside its steps.
    """

    def __init__(self, most: int, steps: int = 1):
        """steps: what the groups behind the first have, for a start: 1 where nothing is known."""
        self.steps, self._most = steps, most
        self._last: float | None = None

    def begins(self) -> None:
        """The device had nothing to do, and gets a group now."""
        self._last = time.perf_counter()

    def arrived(self, steps: int) -> None:
        """A group of so many steps came back."""
        now = time.perf_counter()
        if self._last is not None:
            step_s = (now - self._last) / steps
            self.steps = max(1, min(self._most, 2 * self.steps, round(GROUP_S / max(step_s, 1e-6))))
        self._last = now


class Readbacks:
    """Buffers for readbacks, used again and again."""

    def __init__(self, device: Any):
        self._device = device
        self._free: list[Readback] = []
        self._abandoned: list[Readback] = []

    def __len__(self) -> int:
        """How many are not in use."""
        return len(self._free) + len(self._abandoned)

    def take(self, size: int) -> Readback:
        """One of at least so many bytes, rounded up so that groups of few steps and of many share them."""
        for each in [each for each in self._abandoned if each.arrived]:
            self._abandoned.remove(each)
            each.clear()
            self._free.append(each)
        found = next((each for each in self._free if each.size >= size), None)
        if found is None:
            return Readback(self._device.wgpu, -(-size // 1024) * 1024)
        self._free.remove(found)
        return found

    def give(self, readback: Readback) -> None:
        self._free.append(readback)

    def abandon(self, readback: Readback) -> None:
        """Nobody waits for it: it is used again when it has arrived."""
        self._abandoned.append(readback)


class Flight:
    """Groups of steps of one head that are on the device, the oldest first. The rows of the first step have their
    tokens from the host, those of all others from the step before."""

    def __init__(self, executor: Any, head: str, step: Step, cache: Any):
        self._executor, self._head, self._step, self._cache = executor, head, step, cache
        self.rows = executor.size_of(step, cache)
        self._groups: deque[tuple[int, Readback]] = deque()
        self.sent = 0
        with executor.device.lock:
            refuse_inside(executor)
            executor.write_inputs(cache, self.rows, step)

    def __len__(self) -> int:
        return len(self._groups)

    def pace(self) -> Pace:
        """How large groups of these steps may be; the last stream of such steps knows more than one token tells."""
        return Pace(self._executor.steps, self._executor.paces.get((self._head, self.rows), 1))

    def remember(self, pace: Pace) -> None:
        """For the next stream."""
        self._executor.paces[self._head, self.rows] = pace.steps

    def send(self, steps: int) -> None:
        """Submit steps behind those that were sent.

        A submit costs the device about 40 us between two steps (H200), so steps share one, and a pass: as many as the
        group in front has, since the device is busy with that while they are recorded; one by one if there is none.
        """
        together = self._groups[-1][0] if self._groups else 1
        executor, device, head, cache = self._executor, self._executor.device, self._head, self._cache
        with device.lock, device.errors():
            refuse_inside(executor)
            recorder = executor.recorder(head, self.rows, cache, ())
            moved = replace(self._step, positions=self._step.positions + self.sent)
            for sequence, position in zip(moved.sequences.tolist(), moved.positions.tolist(), strict=True):
                cache.reach(position, steps, sequence)
            executor.write_state(cache, self.rows, moved)
            for left in range(steps, 0, -together):
                encoder = device.wgpu.create_command_encoder()
                compute = encoder.begin_compute_pass(label=f"{head}, {self.rows} token(s)")
                for _ in range(min(together, left)):
                    recorder.encode(compute)
                compute.end()
                if left > together:
                    device.wgpu.queue.submit([encoder.finish()])
            wanted = list(_wanted(cache, head, steps, self.rows, executor.config.vocab_size))
            readback = executor.readbacks.take(sum(nbytes for _, _, nbytes in wanted))
            for name, offset, nbytes in wanted:
                readback.copy(encoder, cache.buffers[name], offset, nbytes)
            readback.submit(encoder)
        self._groups.append((steps, readback))
        self.sent += steps

    def land(self) -> tuple[bytes, int]:
        """What the oldest group leaves, as soon as it is done, and its steps."""
        steps, readback = self._groups.popleft()
        with self._executor.device.errors():
            data = readback.wait()
        self._executor.readbacks.give(readback)
        return data, steps

    def abandon(self) -> None:
        """Nobody waits for what is on the device."""
        for _, readback in self._groups:
            self._executor.readbacks.abandon(readback)
        self._groups.clear()


def groups(flight: Flight, count: int, *, ahead: bool = True) -> Iterator[tuple[bytes, int]]:
    """`count` steps, group by group: what each leaves, and its steps. ahead: as `stream` has it."""
    given, pace = 0, flight.pace()
    most = AHEAD if ahead else 1

    def fill() -> None:
        while flight.sent < count and len(flight) < most:
            # one at first, so that its token comes soon, and no more than the device is busy for with those in front
            flight.send(min(pace.steps, flight.sent + 1, count - flight.sent))

    try:
        while given < count:
            if not ahead:
                pace.begins()
            fill()
            data, steps = flight.land()
            pace.arrived(steps)
            given += steps
            if ahead:
                fill()  # before the consumer takes its time
            yield data, steps
    finally:
        flight.abandon()
        flight.remember(pace)


def stream(
    executor: Any,
    head: str,
    first: int,
    count: int,
    cache: Any,
    options: Any = None,
    seen: Any = None,
    *,
    ahead: bool = True,
) -> Iterator[list[Drawn]]:
    """The `count` tokens that follow token `first`, which is the next input, a group at a time.

    head: "greedy", or "draw" or "told" with options (words) and seen (`make_seen`). The cache's position stays where it
    is: whoever takes tokens moves it. ahead: False for one group at a time, and none while nobody waits. Raises
    `NonFiniteError` for logits that are not usable, `CacheFullError`, `DeviceLostError`.
    """
    cache.require(count)
    device, position = executor.device, cache.position
    flight = Flight(executor, head, Step.following(np.array([first]), position), cache)
    if options is not None:
        with device.lock:
            device.write(cache.buffers["options"], options.numpy())
            device.write(cache.buffers["seen"], seen)
    for data, steps in groups(flight, count, ahead=ahead):
        position += steps
        yield read_group(data, head, steps, executor.config.vocab_size, position)


def greedy_rows(executor: Any, step: Step, count: int, cache: Any) -> np.ndarray:
    """Tokens [count, rows]: what follows each row of a step, greedily, one behind the other."""
    cache.take(step, count)
    flight = Flight(executor, "greedy", step, cache)
    found = [
        np.frombuffer(data, np.uint32).reshape(steps, flight.rows)[:, : len(step)].astype(np.int64)
        for data, steps in groups(flight, count)
    ]
    return np.concatenate(found)


def _wanted(cache: Any, head: str, steps: int, rows: int, vocab_size: int) -> Iterator[tuple[str, int, int]]:
    """(buffer, offset, bytes) of what a group leaves, in the order of `read_group`."""
    yield "history", 0, 4 * steps * rows
    if head == "greedy":
        return
    yield "seen", 4 * (cache.seen_words - 1), 4
    if head == "told":
        count = min(LIKELY, vocab_size)
        yield "told", 0, 4 * steps * (count + 1)
        yield "told_ids", 0, 4 * steps * count


def read_group(data: bytes, head: str, steps: int, vocab_size: int, until: int) -> list[Drawn]:
    """The tokens of a group, of what its steps left. until: the position behind them."""
    words = np.frombuffer(data, np.uint32)
    tokens = words[:steps].tolist()
    if head == "greedy":
        return [Drawn(token) for token in tokens]
    if words[steps]:
        raise NonFiniteError(f"sampling: the logits are not finite at or before position {until}")
    if head == "draw":
        return [Drawn(token) for token in tokens]
    count, start = min(LIKELY, vocab_size), steps + 1
    told = words[start : start + steps * (count + 1)].view(np.float32).reshape(steps, -1).tolist()
    ids = words[start + steps * (count + 1) :].reshape(steps, -1).tolist()
    return [
        Drawn(token, row[0], tuple(zip(likely, row[1:], strict=True)))
        for token, row, likely in zip(tokens, told, ids, strict=True)
    ]
