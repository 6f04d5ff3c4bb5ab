"""One answer of a request, as a job of the scheduler: tokens in, pieces of text with what is told of them out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from workbench.runtime.jobs import Job
from workbench.runtime.sampling import Drawn, SamplingOptions
from workbench.runtime.textstream import Detokenizer, TextEnd


@dataclass(frozen=True)
class Told:
    """A token with how likely it was. log_p: None for the first of a prompt. offset: where it begins in the text."""

    id: int
    log_p: float | None
    likely: tuple[tuple[int, float], ...]
    offset: int


@dataclass(frozen=True)
class Piece:
    """The next of an answer's text, and the tokens that begin in it, where they are told."""

    text: str
    tokens: tuple[Told, ...] = ()


@dataclass(frozen=True)
class Prompt:
    """Token ids of a prompt, and what it says. offsets: where each token begins in the text, where asked for."""

    ids: Sequence[int]
    text: str
    offsets: Sequence[int] = ()

    @classmethod
    def of(cls, tokenizer: Any, ids: Sequence[int], text: str | None, *, placed: bool) -> Prompt:
        """text: None for what the ids say. placed: with offsets."""
        if text is not None and not placed:
            return cls(ids, text)
        detokenizer, offsets, pieces, length = Detokenizer(tokenizer), [], [], 0
        for token in ids:
            offsets.append(length)
            pieces.append(detokenizer.push(token))
            length += len(pieces[-1])
        pieces.append(detokenizer.finish())
        return cls(ids, "".join(pieces) if text is None else text, tuple(offsets))


@dataclass(frozen=True)
class Ends:
    """What ends a text: token ids, and strings that are cut off."""

    ids: Collection[int]
    stop: Sequence[str]


#: Called as deliver(choice, piece), from the engine's thread; without a piece nothing more comes.
Deliver = Callable[["Choice", Piece | None], None]


class Choice(Job):
    """index: of the answer in its request. likely: as in `Job`. echo: the prompt is a part of the text, and where
    `likely` is a number its tokens are told like others."""

    def __init__(  # many parameters: what each answer of a request has of its own and shares
        self,
        index: int,
        prompt: Prompt,
        limit: int,
        options: SamplingOptions,
        likely: int | None,
        echo: bool,
        ends: Ends,
        tokenizer: Any,
        deliver: Deliver,
    ) -> None:
        super().__init__(prompt.ids, limit, options)
        self.index, self.prompt, self.likely, self.echo = index, prompt, likely, echo
        self.scored = echo and likely is not None
        self.taken = 0
        self._deliver = deliver
        self._end = TextEnd(tokenizer, ends.stop, ends.ids, prompt.ids)
        self._start = len(prompt.text) if echo else 0
        self._length = 0  # characters given behind the prompt
        self._held: list[Told] = []
        self._scores: list[Drawn] = []
        self._echoed = False

    def score(self, told: Sequence[Drawn]) -> None:
        """See `Job.score`."""
        self._scores += told

    def take(self, drawn: Drawn) -> bool:
        """See `Job.take`."""
        self._echo()
        self.taken += 1
        offset = self._start + self._end.decoded
        piece = self._end.push(drawn.id)
        if self.likely is not None:
            self._held.append(Told(drawn.id, drawn.log_p, drawn.likely, offset))
        self._give(piece)
        if self._end.reason is not None:
            self.finish_reason = "stop"
        return self._end.reason is None

    def end(self, error: Exception | None = None) -> None:
        """See `Job.end`."""
        super().end(error)
        try:
            if error is None and not self.cancelled:
                self._echo()
                self._give(self._end.finish(), last=self._end.reason != "stop")
        except Exception as raised:  # whoever waits for this answer must be told, whatever its text was
            self.error = raised
        self._deliver(self, None)

    def _give(self, text: str, *, last: bool = False) -> None:
        """Text that is certain, with the tokens that begin in it; with all of them where it is the last, as those of a
        stop string are not a part of the answer."""
        self._length += len(text)
        until = self._start + self._length
        ready = len(self._held) if last else sum(each.offset < until for each in self._held)
        tokens, self._held = tuple(self._held[:ready]), self._held[ready:]
        if text or tokens:
            self._deliver(self, Piece(text, tokens))

    def _echo(self) -> None:
        if self._echoed or not self.echo:
            return
        self._echoed = True
        tokens = ()
        if self.scored:
            told = [Drawn(self.prompt.ids[0]), *self._scores]
            tokens = tuple(
                Told(each.id, each.log_p, each.likely, offset)
                for each, offset in zip(told, self.prompt.offsets, strict=True)
            )
        self._deliver(self, Piece(self.prompt.text, tokens))
