"""A prompt continued by one model, or by two models or settings side by side: the tokens, what else they could have
been, and the speed.

A `Run` is computed step by step, so that whoever shows it can show it growing and can stop it between two steps.
`continue_prompt` computes one to its end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from eval.statistics import divergence
from workbench.errors import PromptTooLongError, WorkbenchError
from workbench.models.tokenizer import tokenizer_hash
from workbench.runtime.sampling import SamplingOptions, as_integer, shown, softmax
from workbench.show.html import columns

from .tokens import Continuation, Token, facts, probability, spelled, strength
from .writers import CPU_PIECE, Alone, Lane, Setting, Together, Writer


class Run:
    """One prompt through one model or two. Made ready by `__init__`, computed by `write` and then `measure`.

    models: label -> Model; two must share their tokenizer. `continuations` grow meanwhile. Two models take turns, with
    the same random numbers at the same places of their texts. settings: label -> how that one writes, by default all
    with `sampling`; one model under two labels writes both texts in one batch. Raises `WorkbenchError` for models that
    cannot be compared, and `PromptTooLongError`.
    """

    def __init__(
        self,
        models: Mapping[str, Any],
        prompt: str,
        *,
        max_new_tokens: int = 200,
        sampling: SamplingOptions | None = None,
        chat: bool = False,
        settings: Mapping[str, Setting] | None = None,
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
        given = dict(settings or {})
        if unknown := [label for label in given if label not in self.models]:
            raise WorkbenchError(f"there is no {unknown[0]!r} to set; allowed: {', '.join(self.models)}")
        plain = Setting(self.sampling)
        self._lanes = [
            Lane(label, model, self.prompt_ids, given.get(label, plain))
            for label, model in self.models.items()
        ]
        edits = [lane.setting.edit or {} for lane in self._lanes]
        #: Whether two lanes compute something else, so that there is something to compare.
        self.compares = bool(others) and (first is not others[0] or edits[0] != edits[1])
        self._same_weights = self.compares and first.source.path == others[0].source.path and not settings
        self._writers: Sequence[Writer]
        if others and first is others[0] and first.backend != "page":
            self._writers = [Together(self._lanes, self.prompt_ids, count)]
        else:
            self._writers = [Alone(lane, self.prompt_ids, count, ahead=not others) for lane in self._lanes]

    @property
    def continuations(self) -> tuple[Continuation, ...]:
        return tuple(lane.found for lane in self._lanes)

    @property
    def parted(self) -> int | None:
        """The first token at which two texts differ; None if they agree as far as they both go."""
        if len(self._lanes) == 1:
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
        """Read what was written once more, many tokens a step, for the probabilities that are still missing and, where
        two compute something else, KL and flips; yields after every step."""
        for own, lane in enumerate(self._lanes):
            tokens = lane.found.tokens
            if not tokens or (not self.compares and tokens[-1].probability is not None):
                continue
            ids = [token.id for token in tokens]
            for start, rows in self._logits(ids, stopped):
                self._note(lane, tokens, start, rows, own)
                yield

    def _logits(self, ids: list[int], stopped) -> Iterator[tuple[int, list[np.ndarray]]]:
        """(first token, logits [n, vocab] of each model that predict the tokens from there), in pieces."""
        inputs = [self.prompt_ids[-1], *ids[:-1]]
        lanes = self._lanes if self.compares else self._lanes[:1]
        sessions = [lane.model.session(lane.setting.edit) for lane in lanes]
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

    def _note(self, lane: Lane, tokens: list[Token], start: int, rows: list[np.ndarray], own: int) -> None:
        targets = np.array([token.id for token in tokens[start : start + len(rows[0])]])
        if self._same_weights:
            difference = float(np.abs(rows[1] - rows[0]).max() / np.abs(rows[0]).max())
            lane.found.logit_difference = max(difference, lane.found.logit_difference or 0.0)
        found = divergence(rows[1], rows[0], targets) if len(rows) == 2 else None
        for at, target in enumerate(targets):
            logits = rows[own if self.compares else 0][at]
            token = replace(
                tokens[start + at],
                probability=float(softmax(logits)[target]),
                alternatives=lane.names.likely(logits),
            )
            if found is not None:
                token = replace(
                    token,
                    kl=float(found.kl[at]),
                    likely=lane.names.likely(rows[1 - own][at]),
                    flip=bool(found.top1[at] != found.top1_baseline[at]),
                )
            tokens[start + at] = token

    def data(self) -> Any:
        """A pandas DataFrame, one row a token of each model (`Continuation.data`)."""
        import pandas

        return pandas.concat(
            {found.label: found.data() for found in self.continuations}, names=["model", "token"]
        )

    def __repr__(self) -> str:
        found = ", ".join(f"{each.label} {len(each.tokens)} tokens" for each in self.continuations)
        parted = "" if self.parted is None else f", parting at token {self.parted}"
        return f"<run of {found}{parted}>"

    def lines(self) -> list[str]:
        """One line a model: how many tokens, how fast, and how far apart the two are."""
        return [f"{found.label}: {', '.join(facts(found))}" for found in self.continuations]

    def __str__(self) -> str:
        texts = [f"[{found.label}] {self.prompt}{found.text}" for found in self.continuations]
        return "\n".join([*texts, *self.lines()])

    def _repr_html_(self) -> str:
        how = "colour: KL from 0.001 to 1 nat; underlined: the most likely token differs; bar: here the texts part"
        if not self.compares:
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
    sampling: SamplingOptions | Mapping[str, Any] | None = None,
    chat: bool = False,
    settings: Mapping[str, Setting] | None = None,
) -> Run:
    """Continue a prompt with one model, or with two side by side, token by token with what else they could have been.

        model, int4 = workbench.load("DIR"), workbench.quantize("DIR", "int4", progress=False)
        how = {"temperature": 0.8, "seed": 6}
        run = workbench.continue_prompt({"f16": model, "int4": int4}, "Once upon", max_new_tokens=8, sampling=how)
        run.parted, run.continuations[0].text, run.continuations[0].tokens[0].alternatives

    models: label -> Model for one or two, or a single Model. sampling: the options of `Model.generate` by name, or
    SamplingOptions; greedy by default. Two models draw with the same random numbers at the same places. settings: label
    -> how that one writes (`workbench.studies.writers.Setting`). Of each token the `Run` has its probability, the most
    likely ones, and with two models KL(first || second) in nats and whether they differ in the most likely one.

    Raises WorkbenchError for options that there are not, and for models that cannot be compared; PromptTooLongError.
    """
    named = models if isinstance(models, Mapping) else {models.source.path.name: models}
    if isinstance(sampling, Mapping):
        allowed = SamplingOptions.__dataclass_fields__
        if unknown := [name for name in sampling if name not in allowed]:
            raise WorkbenchError(f"sampling holds {unknown[0]!r}; allowed: {', '.join(allowed)}")
        sampling = SamplingOptions(**sampling)
    how = {"sampling": sampling, "chat": chat, "settings": settings}
    run = Run(named, prompt, max_new_tokens=max_new_tokens, **how)
    for stage in (run.write(), run.measure()):
        for _ in stage:
            pass
    return run
