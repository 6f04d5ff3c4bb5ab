"""Jobs of a batch: a prompt and what takes the tokens behind it, and the row that one has while it runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

from .sampling import Drawn, Sampler, SamplingOptions


class Job(ABC):
    """A prompt, and what becomes of the tokens behind it.

    ids: of the prompt, one at least. limit: tokens at most; 0 asks for nothing but the prompt. options: how they are
    chosen. adapter: of those that the model was loaded with, by name. likely: of each token ln p and so many of the
    likeliest come along, at temperature 1, without penalty and filters; None for neither. scored: of the prompt's
    tokens, too, for which `likely` is a number.

    reused: of the prompt's tokens, those that were not read, since a sequence held them.

    finish_reason: None until it has ended; then what `take` has put there, "length", "context" (its sequence is full)
    or "cancelled". error: what ended it otherwise. cancelled: set by anyone at any time; the job ends before the next
    step.
    """

    adapter: str | None = None
    likely: int | None = None
    scored: bool = False

    def __init__(self, ids: Sequence[int], limit: int, options: SamplingOptions) -> None:
        self.ids, self.limit, self.options = ids, limit, options
        self.finish_reason: str | None = None
        self.error: Exception | None = None
        self.cancelled = False
        self.reused = 0

    @abstractmethod
    def take(self, drawn: Drawn) -> bool:
        """A token; False if it ends the job."""

    def score(self, told: Sequence[Drawn]) -> None:
        """The next of the prompt's tokens behind its first, with how likely they were; where `scored`."""
        raise NotImplementedError(f"{type(self).__name__} takes no scores of its prompt")

    def end(self, error: Exception | None = None) -> None:
        """Nothing more comes; called once."""
        self.error = error


@dataclass
class Row:
    """A sequence at work. fed: tokens that it holds. begun: whether it has been looked for what others hold of its
    prompt. token: the one that was drawn last and is to be fed, None while the prompt is read."""

    job: Job
    sampler: Sampler
    fed: list[int] = field(default_factory=list)
    begun: bool = False
    token: int | None = None
    taken: int = 0

    @property
    def left(self) -> int:
        """Tokens of the prompt that are not fed yet."""
        return max(0, len(self.job.ids) - len(self.fed))

    @property
    def reading(self) -> bool:
        """Whether tokens of its prompt are fed in steps of all."""
        return self.begun and self.left > 0 and not self.scoring

    @property
    def alike(self) -> list[int]:
        """What another sequence may hold of it: its prompt but for the last token, whose logits are wanted; of one that
        is scored those of all are."""
        return [] if self.job.scored else list(self.job.ids[:-1])

    @property
    def scoring(self) -> bool:
        """Whether how likely the next of the prompt's tokens are is still to be told; its last one predicts none."""
        return self.job.scored and self.left > 1

    @property
    def plain(self) -> bool:
        """Whether all that is needed of a step is the argmax of the logits."""
        return self.job.options.plain and self.job.likely is None

    def piece(self, count: int) -> Sequence[int]:
        """The next tokens of the prompt."""
        return self.job.ids[len(self.fed) : len(self.fed) + count]

    def accept(self, drawn: Drawn, capacity: int) -> bool:
        """Whether the job goes on behind this token."""
        self.token, self.taken = drawn.id, self.taken + 1
        if not self.job.take(drawn):
            return False
        if self.taken >= self.job.limit:
            self.job.finish_reason = "length"
        elif len(self.fed) >= capacity:
            self.job.finish_reason = "context"
        return self.job.finish_reason is None


def finish(job: Job, reason: str | None = None, error: Exception | None = None) -> None:
    """End a job, with an error or with a reason where it has none of its own. What its `end` raises is its error, and
    nobody else's."""
    if error is None:
        job.finish_reason = job.finish_reason or reason
    try:
        job.end(error)
    except Exception as raised:  # of this job's own code
        job.error = job.error or raised
