"""Tokens as a stream: the device runs ahead while earlier tokens are on their way back.

Steps go out in groups, each with one small readback behind it. Two groups are on the device at a time: while the host
waits for one, reads it and hands its tokens out, the other runs. So the device never waits for a consumer that keeps
up, and computes at most these groups for one that does not. What was computed for nobody is not taken back on the
device: a step writes keys and values only at its own position, and the position is the host's.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
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
GROUP_S = 0.008


class Pace:
    """How many steps make up a group: one at first, then as many as take `GROUP_S`, `most` at most."""

    def __init__(self, most: int):
        self.steps, self._most = 1, most
        self._last: float | None = None

    def begins(self) -> None:
        """The device had nothing to do, and gets a group now."""
        self._last = time.perf_counter()

    def arrived(self, steps: int, *, waited: bool) -> None:
        """A group came back. Where this one and the one before were waited for, the time between is what it took."""
        now = time.perf_counter()
        if waited and self._last is not None:
            step_s = (now - self._last) / steps
            self.steps = max(1, min(self._most, 2 * self.steps, round(GROUP_S / max(step_s, 1e-6))))
        self._last = now if waited else None


class Readbacks:
    """Buffers for readbacks, of one size, used again and again."""

    def __init__(self, device: Any, size: int):
        self._device, self._size = device, size
        self._free: list[Readback] = []
        self._abandoned: list[Readback] = []

    def __len__(self) -> int:
        """How many are not in use."""
        return len(self._free) + len(self._abandoned)

    def take(self) -> Readback:
        for each in [each for each in self._abandoned if each.arrived]:
            self._abandoned.remove(each)
            each.clear()
            self._free.append(each)
        return self._free.pop() if self._free else Readback(self._device.wgpu, self._size)

    def give(self, readback: Readback) -> None:
        self._free.append(readback)

    def abandon(self, readback: Readback) -> None:
        """Nobody waits for it: it is used again when it has arrived."""
        self._abandoned.append(readback)


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
    device, start = executor.device, cache.position
    with device.lock:
        refuse_inside(executor)
        executor.write_inputs(cache, 1, Step.following(np.array([first]), start))
        if options is not None:
            device.write(cache.buffers["options"], options.numpy())
            device.write(cache.buffers["seen"], seen)
    pace, pending, sent, given = Pace(executor.steps), deque(), 0, 0

    def fill() -> None:
        nonlocal sent
        while sent < count and len(pending) < (AHEAD if ahead else 1):
            steps = min(pace.steps, count - sent)
            pending.append((steps, _send(executor, head, cache, start + sent, steps)))
            sent += steps

    try:
        while given < count:
            if not ahead:
                pace.begins()
            fill()
            steps, readback = pending.popleft()
            with device.errors():
                waited = not readback.poll()
                data = readback.wait()
            executor.readbacks.give(readback)
            pace.arrived(steps, waited=waited)
            given += steps
            if ahead:
                fill()  # before the consumer takes its time
            yield read_group(data, head, steps, executor.config.vocab_size, start + given)
    finally:
        for _, readback in pending:
            executor.readbacks.abandon(readback)


def _send(executor: Any, head: str, cache: Any, position: int, steps: int) -> Readback:
    """Submit steps, one by one, so that the device begins with the first while the next is being recorded."""
    device = executor.device
    with device.lock, device.errors():
        refuse_inside(executor)
        cache.reach(position, steps)
        recorder = executor.recorder(head, 1, cache, ())
        device.write(
            cache.buffers["state"], np.array([position, 1 + cache.adapters[0], 0, 0], dtype=np.uint32)
        )
        for step in range(steps):
            encoder = device.wgpu.create_command_encoder()
            compute = encoder.begin_compute_pass(label=f"{head}, 1 token(s)")
            recorder.encode(compute)
            compute.end()
            if step + 1 < steps:
                device.wgpu.queue.submit([encoder.finish()])
        readback = executor.readbacks.take()
        for name, offset, nbytes in _wanted(cache, head, steps, executor.config.vocab_size):
            readback.copy(encoder, cache.buffers[name], offset, nbytes)
        readback.submit(encoder)
    return readback


def _wanted(cache: Any, head: str, steps: int, vocab_size: int) -> Iterator[tuple[str, int, int]]:
    """(buffer, offset, bytes) of what a group leaves, in the order of `read_group`."""
    yield "history", 0, 4 * steps
    if head == "greedy":
        return
    yield "seen", 4 * (cache.seen_words - 1), 4
    if head == "told":
        count = min(LIKELY, vocab_size)
        yield "told", 0, 4 * steps * (count + 1)
        yield "told_ids", 0, 4 * steps * count


def readback_bytes(steps: int) -> int:
    """The most that a group of so many steps leaves."""
    return 4 * (steps * (2 + 2 * LIKELY) + 1)


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
