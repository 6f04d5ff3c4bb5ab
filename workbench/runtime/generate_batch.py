"""Generating for many prompts: a sequence that ends makes room for the next prompt (`workbench.runtime.scheduler`)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from workbench.errors import WorkbenchError

from .jobs import Job
from .sampling import Drawn, SamplingOptions
from .scheduler import run_jobs
from .textstream import TextEnd


@dataclass(frozen=True)
class Generated:
    """What follows a prompt: text, the token ids behind it, and why it ended, as `Stream.finish_reason` says."""

    text: str
    ids: tuple[int, ...]
    finish_reason: str


class TextJob(Job):
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
        super().__init__(ids, limit, options)
        self._end = TextEnd(tokenizer, stop, ends, ids)
        self._pieces: list[str] = []
        self._taken: list[int] = []

    def take(self, drawn: Drawn) -> bool:
        self._taken.append(drawn.id)
        self._pieces.append(self._end.push(drawn.id))
        self.finish_reason = self._end.reason
        return self._end.reason is None

    def generated(self) -> Generated:
        self._pieces.append(self._end.finish())
        reason = self._end.reason or self.finish_reason or "length"
        return Generated("".join(self._pieces), tuple(self._taken), reason)


def generate_batch(
    model: Any,
    prompts: Sequence[str],
    max_new_tokens: int,
    options: SamplingOptions,
    stop: Sequence[str],
    chat: bool,
    sequences: int,
    adapter: str | Sequence[str | None] | None = None,
) -> list[Generated]:
    """See `Model.generate_batch`."""
    chosen = [adapter] * len(prompts) if adapter is None or isinstance(adapter, str) else list(adapter)
    if len(chosen) != len(prompts):
        raise WorkbenchError(
            f"{len(chosen)} adapters for {len(prompts)} prompts; allowed: one, or one for each"
        )
    ids = [model.encode_prompt(prompt, chat) for prompt in prompts]
    jobs = [TextJob(model.tokenizer, each, max_new_tokens, options, stop, model.eos_ids) for each in ids]
    for job, name in zip(jobs, chosen, strict=True):
        job.adapter = name
    with closing(model.batch(max(1, min(sequences, len(jobs))))) as batch:
        run_jobs(batch, jobs)
    return [job.generated() for job in jobs]
