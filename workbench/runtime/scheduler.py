"""Continuous batching: jobs join the sequences of a batch and leave them between two tokens.

A step has a row for the next token of every sequence that writes, and behind these a piece of the prompts that are
still being read, so that a long prompt delays the others by a piece at a time. A sequence that has ended takes the next
job that waits, and what its prompt has in common with what sequences hold is not read again (`prefixes`). Where all
that is to be done is greedy, several tokens are computed between two looks of the host.

Each job draws from logits of its own rows, with its own options and seed, at its own positions: what it gets is what it
gets alone, up to what programs of other sizes round otherwise.
"""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from workbench.errors import DeviceLostError, PromptTooLongError, WorkbenchError
from workbench.known import known

from .batch import Batch
from .jobs import Job, Row, finish
from .prefixes import WORTH, Prefixes, common
from .sampling import Drawn, Sampler

#: Greedy tokens that rows take before the host looks at them, at most; a sequence that has ended meanwhile has computed
#: in vain.
LOOK_AFTER = 8
#: From vocabularies of this size on, sequences are drawn for in threads: of 128,256 tokens a draw takes 10 ms and more,
#: longer than a step of eight sequences on a large GPU.
WIDE = 4096


class Scheduler:
    """Gives jobs their tokens, in the sequences of a batch that is nobody else's; for one thread.

    chunk: rows of prompts in a step that others wait for, by default as many as a step takes. group_s: about how many
    seconds greedy tokens may be computed without being looked at, `LOOK_AFTER` of them at most. reuse: False to read
    every prompt from its first token on.
    """

    def __init__(
        self, batch: Batch, *, chunk: int | None = None, group_s: float = math.inf, reuse: bool = True
    ) -> None:
        self.batch, self.chunk, self.group_s = batch, min(chunk or batch.most_rows, batch.most_rows), group_s
        self._waiting: deque[Job] = deque()
        self._prefixes = Prefixes(batch, reuse)
        self._rows: dict[int, Row] = {}  # in the order in which they began
        self._step_s: float | None = None  # what a greedy step took
        self._threads = ThreadPoolExecutor(
            min(batch.sequences, os.cpu_count() or 1), "draws"
        )  # begun as needed

    @property
    def running(self) -> int:
        """Jobs that have a sequence."""
        return len(self._rows)

    @property
    def free(self) -> int:
        """Sequences that no job has or waits for."""
        return max(0, self.batch.sequences - len(self._rows) - len(self._waiting))

    @property
    def busy(self) -> bool:
        """Whether there is anything to be done."""
        return bool(self._waiting or self._rows)

    def submit(self, job: Job) -> None:
        """Let a job wait for a sequence. Raises `PromptTooLongError`, and `WorkbenchError` for one that contradicts
        itself, or names an adapter that is not there."""
        self.batch.number_of(job.adapter)
        if job.scored and job.likely is None:
            raise WorkbenchError(
                "a job with scored says how many of the likeliest tokens it is told, by likely"
            )
        if len(job.ids) > self.batch.capacity:
            raise PromptTooLongError(
                f"a prompt of {len(job.ids)} tokens does not fit into {self.batch.capacity} positions"
            )
        self._waiting.append(job)

    def step(self) -> None:
        """One token of every sequence that writes, or a few greedy ones, and a piece of the prompts.

        What goes wrong with one job ends that one, with its error. Raises `DeviceLostError`, and whatever no job is to
        blame for; nothing that a sequence holds can be relied on then: `end_all`, and go on with another batch.
        """
        self._leave()
        self._join()
        self._begin()
        self._score()
        self._advance()

    def end_all(self, error: Exception | None = None) -> None:
        """End every job, with an error or as cancelled."""
        ended = [*(row.job for row in self._rows.values()), *self._waiting]
        for sequence in self._rows:
            self._prefixes.free(sequence, None)
        self._rows.clear()
        self._waiting.clear()
        for job in ended:
            finish(job, "cancelled" if error is None else None, error)

    # ---- joining and leaving -----------------------------------------------------------------------------------

    def _leave(self) -> None:
        for sequence, row in list(self._rows.items()):
            if row.job.cancelled:
                self._end(sequence, "cancelled")
        gone = [job for job in self._waiting if job.cancelled]
        for job in gone:
            self._waiting.remove(job)
            finish(job, "cancelled")

    def _join(self) -> None:
        while len(self._prefixes) and self._waiting:
            job = self._waiting.popleft()
            if job.limit < 1 and not (job.scored and len(job.ids) > 1):
                finish(job, "length")
                continue
            row = Row(job, Sampler(job.options))
            sequence, kept = self._prefixes.take(row.alike, job.adapter)
            row.fed += job.ids[:kept]
            self._rows[sequence] = row

    def _begin(self) -> None:
        """Let rows that have joined take what others hold of their prompts, or wait for one that joined before them and
        is reading it."""
        before: list[Row] = []
        for sequence, row in self._rows.items():
            if not row.begun:
                self._begin_one(sequence, row, before)
            before.append(row)

    def _begin_one(self, sequence: int, row: Row, before: Sequence[Row]) -> None:
        wanted = row.alike
        if self._prefixes.reuse and len(wanted) - len(row.fed) >= WORTH:
            at_work = {n: other.fed for n, other in self._rows.items() if other.begun}
            count, source = self._prefixes.best(wanted, sequence, at_work)
            reading = (other for other in before if other.left and other.job.adapter == row.job.adapter)
            soon = max((common(list(other.job.ids), wanted) for other in reading), default=0)
            if soon >= max(count, len(row.fed)) + WORTH:
                return
            worth = source is not None and count >= len(row.fed) + WORTH
            if worth and self._prefixes.copy(known(source), sequence, count):
                row.fed = wanted[:count]
        row.begun, row.job.reused = True, len(row.fed)

    def _end(self, sequence: int, reason: str | None = None, error: Exception | None = None) -> None:
        row = self._rows.pop(sequence)
        self._prefixes.free(sequence, row.fed if error is None else None)
        finish(row.job, reason, error)

    # ---- steps -------------------------------------------------------------------------------------------------

    @property
    def _writing(self) -> dict[int, Row]:
        return {sequence: row for sequence, row in self._rows.items() if row.token is not None}

    def _pieces(self, rows: Mapping[int, Row], keep: int, room: int) -> dict[int, Sequence[int]]:
        """The next tokens of prompts, all but `keep` of each, `room` in all; who began first has the first of them. No
        more of one than a step takes: what has run of a call that fails behind its first step may be lost."""
        found = {}
        for sequence, row in rows.items():
            count = min(row.left - keep, room, self.batch.longest)
            if count > 0:
                found[sequence] = row.piece(count)
                room -= count
        return found

    def _score(self) -> None:
        """Pieces of prompts of whose tokens is told how likely they were: steps of their own, in turn with the others,
        since another head of the plan gives these results."""
        rows = {sequence: row for sequence, row in self._rows.items() if row.begun and row.scoring}
        if not rows:
            return
        room = self.chunk if len(rows) < len(self._rows) else self.batch.most_rows
        texts = {}
        for sequence, piece in self._pieces(rows, 1, room).items():
            behind = len(rows[sequence].fed) + 1
            texts[sequence] = piece, rows[sequence].job.ids[behind : behind + len(piece)]
        likely = max(known(rows[sequence].job.likely) for sequence in texts)
        for sequence, told in self._shared(lambda given: self.batch.score(given, likely), texts).items():
            row, count = rows[sequence], known(rows[sequence].job.likely)
            row.fed += texts[sequence][0]
            if not self._told(sequence, [each._replace(likely=each.likely[:count]) for each in told]):
                continue
            if row.left == 1 and row.job.limit < 1:
                self._end(sequence, "length")

    def _told(self, sequence: int, told: Sequence[Drawn]) -> bool:
        """Hand scores to a job; False if that failed."""
        try:
            self._rows[sequence].job.score(told)
        except Exception as error:  # of this job's own code
            self._end(sequence, error=error)
            return False
        return True

    def _advance(self) -> None:
        writing = self._writing
        reading = {n: row for n, row in self._rows.items() if row.reading}
        if writing and not reading and all(row.plain for row in writing.values()) and self._greedy(writing):
            return
        room = max(1, self.chunk - len(writing)) if writing else self.batch.most_rows
        texts: dict[int, Sequence[int]] = {n: [known(row.token)] for n, row in writing.items()}
        texts |= self._pieces(reading, 0, room)
        if not texts:
            return
        ready = {}
        for sequence, logits in self._shared(self.batch.feed, texts).items():
            row = self._rows[sequence]
            row.fed += texts[sequence]
            if not row.left:
                ready[sequence] = logits
        self._draw(ready)

    def _draw(self, logits: Mapping[int, np.ndarray]) -> None:
        """Draw a token for each, side by side where that takes longer than to ask a thread for it."""

        def drawn(sequence: int) -> Drawn | WorkbenchError:
            row = self._rows[sequence]
            told, likely = row.job.likely is not None, row.job.likely or 0
            try:
                return row.sampler.drawn(logits[sequence], len(row.fed), row.fed, told=told, likely=likely)
            except WorkbenchError as error:
                return error

        wide = len(logits) > 1 and len(next(iter(logits.values()))) >= WIDE
        found = list(self._threads.map(drawn, logits) if wide else map(drawn, logits))
        for sequence, each in zip(logits, found, strict=True):
            if isinstance(each, WorkbenchError):
                self._end(sequence, error=each)
            else:
                self._take(sequence, self._rows[sequence], each)

    def _take(self, sequence: int, row: Row, drawn: Drawn) -> bool:
        """Hand a token to its job; False if that was its last one."""
        try:
            if row.accept(drawn, self.batch.capacity):
                return True
        except Exception as error:  # of this job's own code
            self._end(sequence, error=error)
        else:
            self._end(sequence)
        return False

    def _greedy(self, rows: Mapping[int, Row]) -> bool:
        """Several tokens of each; False if that could not be, and nothing has changed."""
        count = min(
            self._group(),
            max(row.job.limit - row.taken for row in rows.values()),
            *(self.batch.capacity - len(row.fed) for row in rows.values()),
        )
        began = time.perf_counter()
        try:
            found = self.batch.greedy_after({n: known(row.token) for n, row in rows.items()}, count)
        except DeviceLostError:
            raise
        except WorkbenchError:
            return False  # a step for each will find whose it is
        self._step_s = (time.perf_counter() - began) / count
        for sequence, tokens in found.items():
            row = rows[sequence]
            for token in tokens:
                row.fed.append(known(row.token))
                if not self._take(sequence, row, Drawn(token)):
                    break
        return True

    def _group(self) -> int:
        """How many greedy tokens may be computed without being looked at."""
        if math.isinf(self.group_s):
            return LOOK_AFTER
        if self._step_s is None:
            return 1
        return max(1, min(LOOK_AFTER, int(self.group_s / max(self._step_s, 1e-6))))

    def _shared(self, call: Callable[[dict], dict], texts: Mapping[int, Any]) -> dict[int, Any]:
        """What a call gives for sequences that share its steps. Where it raises, each is tried alone, so that only the
        job whose own failure it is ends; a call that raises leaves the sequences as they were."""
        try:
            return call(dict(texts))
        except DeviceLostError:
            raise
        except WorkbenchError as error:
            if len(texts) == 1:
                self._end(next(iter(texts)), error=error)
                return {}
        found: dict[int, Any] = {}
        for sequence, text in texts.items():
            found |= self._shared(call, {sequence: text})
        return found


def run_jobs(batch: Batch, jobs: Sequence[Job]) -> None:
    """Give every job its tokens. Raises `PromptTooLongError` before anything runs, and what went wrong with the first
    job of which anything did, as `Batch.feed` does."""
    scheduler = Scheduler(batch)
    for job in jobs:
        scheduler.submit(job)
    while scheduler.busy:
        scheduler.step()
        for job in jobs:
            if job.error is not None:
                raise job.error
