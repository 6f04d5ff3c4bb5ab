"""Generating for many prompts: a sequence that ends makes room for the next prompt."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from workbench.errors import PromptTooLongError

from .batch import Batch
from .sampling import Sampler, SamplingOptions
from .textstream import TextEnd

#: Greedy tokens that rows take before the host looks at them; a sequence that has ended meanwhile has computed in vain.
LOOK_AFTER = 8


class Job(Protocol):
    """A prompt and what becomes of the tokens behind it.

    ids: of the prompt. limit: tokens at most. options: how they are chosen. finish_reason: "length" or "context" where
    the job did not end itself.
    """

    ids: Sequence[int]
    limit: int
    options: SamplingOptions
    finish_reason: str | None

    def take(self, token: int) -> bool:
        """A token; False if it ends the sequence."""
        ...


@dataclass
class _Running:
    job: Job
    sampler: Sampler
    fed: list[int] = field(default_factory=list)
    token: int = 0
    taken: int = 0

    def accept(self, token: int, capacity: int) -> bool:
        """Whether the sequence goes on behind this token."""
        self.token, self.taken = token, self.taken + 1
        if not self.job.take(token):
            return False
        if self.taken >= self.job.limit:
            self.job.finish_reason = "length"
        elif len(self.fed) >= capacity:
            self.job.finish_reason = "context"
        return self.job.finish_reason is None


def run_jobs(batch: Batch, jobs: Sequence[Job]) -> None:
    """Give every job its tokens. Raises `PromptTooLongError` before anything runs, and as `Batch.feed` does."""
    for job in jobs:
        if len(job.ids) > batch.capacity:
            raise PromptTooLongError(
                f"a prompt of {len(job.ids)} tokens does not fit into {batch.capacity} positions"
            )
    waiting, running = deque(job for job in jobs if job.limit > 0), dict[int, _Running]()
    for job in jobs:
        if job.limit <= 0:
            job.finish_reason = "length"
    while waiting or running:
        _begin(batch, waiting, running)
        if running:
            _go_on(batch, running)


def _begin(batch: Batch, waiting: deque, running: dict[int, _Running]) -> None:
    """New sequences in the places that are free, their prompts together."""
    free = [n for n in range(batch.sequences) if n not in running]
    new = {}
    while free and waiting:
        job, sequence = waiting.popleft(), free.pop(0)
        batch.reset(sequence)
        new[sequence] = _Running(job, Sampler(job.options), list(job.ids))
    if new:
        logits = batch.feed({sequence: each.fed for sequence, each in new.items()})
        running |= new
        _draw(batch, logits, running)


def _draw(batch: Batch, logits: dict[int, np.ndarray], running: dict[int, _Running]) -> None:
    for sequence, row in logits.items():
        each = running[sequence]
        token = each.sampler.drawn(row, len(each.fed), each.fed).id
        if not each.accept(token, batch.capacity):
            del running[sequence]


def _go_on(batch: Batch, running: dict[int, _Running]) -> None:
    if not all(each.job.options.plain for each in running.values()):
        for each in running.values():
            each.fed.append(each.token)
        _draw(batch, batch.feed({n: [each.token] for n, each in running.items()}), running)
        return
    count = min(
        LOOK_AFTER,
        max(each.job.limit - each.taken for each in running.values()),
        *(batch.capacity - len(each.fed) for each in running.values()),
    )
    found = batch.greedy_after({n: each.token for n, each in running.items()}, count)
    for sequence, tokens in found.items():
        each = running[sequence]
        for token in tokens:
            each.fed.append(each.token)
            if not each.accept(token, batch.capacity):
                del running[sequence]
                break


@dataclass(frozen=True)
class Generated:
    """What follows a prompt: text, the token ids behind it, and why it ended, as `Stream.finish_reason` says."""

    text: str
    ids: tuple[int, ...]
    finish_reason: str


class TextJob:
    """A job whose tokens become text."""

    def __init__(
        self,
        tokenizer: Any,
        ids: Sequence[int],
        limit: int,
        options: SamplingOptions,
        stop: Sequence[str],
        ends,
    ):
        self.ids, self.limit, self.options = ids, limit, options
        self.finish_reason: str | None = None
        self._end = TextEnd(tokenizer, stop, ends, ids)
        self._pieces: list[str] = []
        self._taken: list[int] = []

    def take(self, token: int) -> bool:
        self._taken.append(token)
        self._pieces.append(self._end.push(token))
        self.finish_reason = self._end.reason
        return self._end.reason is None

    def generated(self) -> Generated:
        self._pieces.append(self._end.finish())
        reason = self._end.reason or self.finish_reason or "length"
        return Generated("".join(self._pieces), tuple(self._taken), reason)


def generate_batch(  # many parameters: what each prompt shares, all of it optional
    model: Any,
    prompts: Sequence[str],
    max_new_tokens: int,
    options: SamplingOptions,
    stop: Sequence[str],
    chat: bool,
    sequences: int,
) -> list[Generated]:
    """See `Model.generate_batch`."""
    ids = [model.encode_prompt(prompt, chat) for prompt in prompts]
    jobs = [TextJob(model.tokenizer, each, max_new_tokens, options, stop, model.eos_ids) for each in ids]
    with closing(model.batch(max(1, min(sequences, len(jobs))))) as batch:
        run_jobs(batch, jobs)
    return [job.generated() for job in jobs]
