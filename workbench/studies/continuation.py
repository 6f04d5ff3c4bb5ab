"""A prompt continued by one model, or by two side by side: the tokens, what else they could have been, and the speed.

A `Run` is computed step by step, so that whoever shows it can show it growing and can stop it between two steps.
`continue_prompt` computes one to its end.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from eval.statistics import divergence
from workbench.errors import PromptTooLongError, WorkbenchError
from workbench.known import known
from workbench.model_bench.speed import computes_on_cpu
from workbench.models.tokenizer import tokenizer_hash
from workbench.runtime.sampling import Drawn, SamplingOptions, as_integer, shown, softmax
from workbench.runtime.textstream import Detokenizer
from workbench.show.html import columns

from .tokens import Continuation, Names, Token, facts, probability, spelled, strength

#: Tokens between two looks at whether to stop while a prompt is read.
CPU_PIECE, GPU_PIECE = 64, 1024


class _Writer:
    """One model at work on one continuation. ahead: the device may run ahead of what is taken, which is fastest, but
    would be counted as the time of another model that is at work in turns with it."""

    def __init__(
        self, label: str, model: Any, ids: Sequence[int], count: int, options: SamplingOptions, ahead: bool
    ):
        self.model, self.names = model, Names(model.tokenizer)
        self.found = Continuation(label, model.device_name)
        self._detokenizer = Detokenizer(model.tokenizer, ids)
        self._ids, self._count, self._options, self._ahead = list(ids), count, options, ahead
        self._steps = self._written()

    def step(self, stopped: Callable[[], bool]) -> bool:
        """One piece of work, which may give a token or none; False when there is nothing more to do. What a piece gives
        after a stop is not taken."""
        began = time.perf_counter()
        batch = next(self._steps, None)
        took = time.perf_counter() - began
        found = self.found
        if stopped():
            return True
        if batch is None:
            found.reason = found.reason or "length"
            return False
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

    def finish(self, reason: str | None = None) -> None:
        """Give the cache back."""
        self._steps.close()
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

    def _fed(self, session: Any) -> Iterator[bool]:
        """Feed the prompt, piece by piece; whether it is read."""
        piece = CPU_PIECE if computes_on_cpu(self.model) else GPU_PIECE
        for start in range(0, len(self._ids), piece):
            session.feed(self._ids[start : start + piece])
            yield start + piece >= len(self._ids)

    def _written(self) -> Generator[list[Drawn]]:
        """Tokens as the executor gives them, with how likely they were; nothing while the prompt is read."""
        with contextlib.closing(self.model.session()) as session:
            for read in self._fed(session):
                if not read:
                    yield []
            if session.room < self._count:
                self._count, self.found.reason = session.room, "cache full"
            first = session.draw(self._options, told=True)
            yield [first]
            if self._count > 1:
                rest = session.stream(first.id, self._count - 1, self._options, told=True, ahead=self._ahead)
                for drawn in rest:
                    yield [drawn]


class Run:
    """One prompt through one model or two. Made ready by `__init__`, computed by `write` and then `measure`.

    models: label -> Model; two must share their tokenizer. `continuations` grow meanwhile. Two models take turns, with
    the same random numbers at the same places of their texts. Raises `WorkbenchError` for models that cannot be
    compared, and `PromptTooLongError`.
    """

    def __init__(
        self,
        models: Mapping[str, Any],
        prompt: str,
        *,
        max_new_tokens: int = 200,
        sampling: SamplingOptions | None = None,
        chat: bool = False,
    ):
        self.models, self.prompt, self.sampling = dict(models), prompt, sampling or SamplingOptions()
        count = as_integer(max_new_tokens)
        if count is None or count < 1:
            raise WorkbenchError(f"max_new_tokens = {shown(max_new_tokens)}; allowed: an integer >= 1")
        first, *others = check_models(self.models)
        self.prompt_ids = first.encode_prompt(prompt, chat)
        room = min(model.max_tokens for model in self.models.values())
        if len(self.prompt_ids) > room:
            raise PromptTooLongError(
                f"the prompt's {len(self.prompt_ids)} tokens do not fit into a cache of {room}; load the model with a "
                "larger max_tokens"
            )
        alone = not others
        self._same_weights = bool(others) and first.source.path == others[0].source.path
        self._writers = [
            _Writer(label, model, self.prompt_ids, count, self.sampling, ahead=alone)
            for label, model in self.models.items()
        ]

    @property
    def continuations(self) -> tuple[Continuation, ...]:
        return tuple(writer.found for writer in self._writers)

    @property
    def parted(self) -> int | None:
        """The first token at which two texts differ; None if they agree as far as they both go."""
        if len(self._writers) == 1:
            return None
        first, second = (found.tokens for found in self.continuations)
        return next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a.id != b.id), None)

    def write(self, stopped: Callable[[], bool] = lambda: False) -> Iterator[None]:
        """Generate; yields after every step of a model. Ends early once `stopped()` is true."""
        working = list(self._writers)
        try:
            while working:
                for writer in list(working):
                    if stopped():
                        return
                    if not writer.step(stopped):
                        working.remove(writer)
                        writer.finish()
                    yield
        finally:
            for writer in working:
                writer.finish("stopped")

    def measure(self, stopped: Callable[[], bool] = lambda: False) -> Iterator[None]:
        """Read what was written once more, many tokens a step, for the probabilities that are still missing and,
        with two models, KL and flips; yields after every step."""
        for writer in self._writers:
            tokens = writer.found.tokens
            if not tokens or (len(self._writers) == 1 and tokens[-1].probability is not None):
                continue
            ids = [token.id for token in tokens]
            own = self._writers.index(writer)
            for start, rows in self._logits(ids, stopped):
                self._note(writer, tokens, start, rows, own)
                yield

    def _logits(self, ids: list[int], stopped) -> Iterator[tuple[int, list[np.ndarray]]]:
        """(first token, logits [n, vocab] of each model that predict the tokens from there), in pieces."""
        inputs = [self.prompt_ids[-1], *ids[:-1]]
        sessions = [writer.model.session() for writer in self._writers]
        try:
            for start in range(0, len(self.prompt_ids) - 1, CPU_PIECE):
                for session in sessions:
                    if stopped():
                        return
                    session.feed(self.prompt_ids[start : min(start + CPU_PIECE, len(self.prompt_ids) - 1)])
            for start in range(0, len(inputs), CPU_PIECE):
                rows = []
                for session in sessions:
                    if stopped():
                        return
                    rows.append(np.concatenate(list(session.feed_all(inputs[start : start + CPU_PIECE]))))
                yield start, rows
        finally:
            for session in sessions:
                session.close()

    def _note(
        self, writer: _Writer, tokens: list[Token], start: int, rows: list[np.ndarray], own: int
    ) -> None:
        targets = np.array([token.id for token in tokens[start : start + len(rows[0])]])
        if self._same_weights:
            difference = float(np.abs(rows[1] - rows[0]).max() / np.abs(rows[0]).max())
            writer.found.logit_difference = max(difference, writer.found.logit_difference or 0.0)
        found = divergence(rows[1], rows[0], targets) if len(rows) == 2 else None
        for at, target in enumerate(targets):
            logits = rows[own][at]
            token = replace(
                tokens[start + at],
                probability=float(softmax(logits)[target]),
                alternatives=writer.names.likely(logits),
            )
            if found is not None:
                token = replace(
                    token,
                    kl=float(found.kl[at]),
                    likely=writer.names.likely(rows[1 - own][at]),
                    flip=bool(found.top1[at] != found.top1_baseline[at]),
                )
            tokens[start + at] = token

    def lines(self) -> list[str]:
        """One line a model: how many tokens, how fast, and how far apart the two are."""
        return [f"{found.label}: {', '.join(facts(found))}" for found in self.continuations]

    def __str__(self) -> str:
        texts = [f"[{found.label}] {self.prompt}{found.text}" for found in self.continuations]
        return "\n".join([*texts, *self.lines()])

    def _repr_html_(self) -> str:
        how = "colour: KL from 0.001 to 1 nat; underlined: the most likely token differs; bar: here the texts part"
        if len(self._writers) == 1:
            how = "colour: surprise, −ln p up to 5 nats"
        return columns(dict(zip(self.lines(), map(self._html, self.continuations), strict=True)), how)

    def _html(self, found: Continuation) -> str:
        words = [f"<span style='opacity:0.6'>{spelled(self.prompt)}</span>"]
        for at, token in enumerate(found.tokens):
            style = f"background:rgba(217,72,15,{0.6 * strength(found.tokens, at):.2f})"
            if token.flip:
                style += ";text-decoration:underline"
            if at == self.parted:
                style += ";border-left:3px solid"
            p = probability(found.tokens, at)
            says = "" if p is None else f" title='{p:.1%}'"
            words.append(f"<bdi style='{style}'{says}>{spelled(token.text)}</bdi>")
        return "".join(words)


def check_models(models: Mapping[str, Any]) -> list[Any]:
    """The models, if they are one, or two that share vocabulary and tokenizer; raises `WorkbenchError`."""
    found = list(models.values())
    if len(found) not in (1, 2):
        raise WorkbenchError(f"one model or two can write side by side, not {len(found)}")
    if len({model.vocab_size for model in found}) > 1:
        sizes = ", ".join(f"{label}: {model.vocab_size}" for label, model in models.items())
        raise WorkbenchError(f"models that are compared share a vocabulary; sizes here: {sizes}")
    if len({tokenizer_hash(model.source.tokenizer_path) for model in found}) > 1:
        raise WorkbenchError("models that are compared share a tokenizer; these have different ones")
    return found


def continue_prompt(
    models: Mapping[str, Any] | Any,
    prompt: str,
    *,
    max_new_tokens: int = 200,
    sampling: SamplingOptions | None = None,
    chat: bool = False,
) -> Run:
    """A finished and measured `Run`. models: label -> Model for one or two, or a single Model."""
    named = models if isinstance(models, Mapping) else {models.source.path.name: models}
    run = Run(named, prompt, max_new_tokens=max_new_tokens, sampling=sampling, chat=chat)
    for stage in (run.write(), run.measure()):
        for _ in stage:
            pass
    return run
