"""LAMBADA: how often the last word of a passage is what a model says next (Paperno et al. 2016, arXiv:1606.06031).

As lm-evaluation-harness scores `lambada_openai`: the context is what stands before the last space, the target that
space and the word behind it, and a model is right if each token of the target is the likeliest in its place. Two
models are compared passage by passage, so that the error of the difference counts only those on which they disagree.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from eval import statistics
from eval.prefix_scoring import PrefixScorer
from eval.texts import Dataset, dataset_rows, load_text
from workbench import utf8
from workbench.errors import ProtocolError

NAME = "lambada"
#: The passages as OpenAI prepared them, which the harness scores too.
DATASET = Dataset("EleutherAI/lambada_openai", "default", "test", "text", "\n\n")

#: Token ids of a context, and of the word that follows it.
Pair = tuple[list[int], list[int]]


@dataclass(frozen=True)
class Passages:
    """texts: whole passages. available: how many there were before some were left out; None where unknown.

    Raises ProtocolError for none at all, and for a passage without a word behind a space.
    """

    texts: tuple[str, ...] = field(repr=False)
    name: str = "passages"
    available: int | None = None
    dataset: str | None = None
    revision: str | None = None
    split: str | None = None

    def __post_init__(self) -> None:
        if not self.texts:
            raise ProtocolError(f"passages {self.name}: there are none")
        for index, text in enumerate(self.texts):
            context, _, word = utf8.checked(text, f"passages {self.name}, number {index}").rpartition(" ")
            if not context.strip() or not word.strip():
                raise ProtocolError(
                    f"passages {self.name}, number {index}: a passage ends with a space and a word to predict, not "
                    f"{text[-40:]!r}"
                )

    @property
    def sha256(self) -> str:
        """Of the passages' UTF-8 bytes, a NUL behind each."""
        return hashlib.sha256("".join(f"{text}\0" for text in self.texts).encode()).hexdigest()

    def __str__(self) -> str:
        part = "" if self.available in (None, len(self.texts)) else f", the first of {self.available:,}"
        return f"{self.name} (sha256 {self.sha256[:12]}), {len(self.texts):,} passages{part}"

    def to_json(self) -> dict[str, Any]:
        names = ("name", "dataset", "revision", "split", "sha256", "available")
        return {
            "described": str(self),
            "count": len(self.texts),
            **{key: getattr(self, key) for key in names},
        }


def load_passages(file_or_dataset: str | Path, count: int | None = None) -> Passages:
    """The first `count` passages (None: all) of a file, or of the dataset "lambada" through `datasets`.

    A file has one passage a line, or in a file that ends in `.jsonl` an object with "text"; blank lines do not count.
    Raises ProtocolError for what cannot be read, fetched or understood.
    """
    if count is not None and count < 1:
        raise ProtocolError(f"{count} passages; allowed: at least 1, or None for all")
    path, origin = Path(file_or_dataset), {}
    name = path.name
    if str(file_or_dataset) == NAME and not path.exists():
        texts, origin = dataset_rows(NAME, DATASET)
    elif not path.exists():
        raise ProtocolError(
            f"passages {path}: there is no such file; allowed: a file, or the dataset {NAME!r}"
        )
    else:
        lines = [(n, line) for n, line in enumerate(load_text(path).content.split("\n"), 1) if line.strip()]
        as_json = path.suffix == ".jsonl"
        texts = [_text_of(line, f"{path}, line {n}") if as_json else line.strip() for n, line in lines]
    return Passages(tuple(texts[:count]), name, len(texts), **origin)


def _text_of(line: str, where: str) -> str:
    try:
        return json.loads(line)["text"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ProtocolError(
            f'{where}: is no JSON object with "text" ({type(error).__name__}: {error})'
        ) from error


def pairs(tokenizer: Any, passages: Passages) -> list[Pair]:
    """The passages' tokens, cut where the context's own tokens end, as the harness cuts them.

    Raises ProtocolError where a tokenizer has no token before the last word, or none for it.
    """
    found = []
    for index, text in enumerate(passages.texts):
        context = text[: text.rindex(" ")].rstrip()
        whole, before = (list(tokenizer(part, verbose=False)["input_ids"]) for part in (text, context))
        found.append((before, whole[len(before) :]))
        if not all(found[-1]):
            raise ProtocolError(
                f"passages {passages.name}, number {index}: the tokenizer gives {len(before)} tokens of context and "
                f"{len(whole) - len(before)} of the last word; both need one"
            )
    return found


@dataclass(frozen=True)
class PairedAccuracy:
    """difference: of the accuracy to the baseline's, se: its standard error from the passages' paired differences
    (0, 1 or -1 each; the variance is McNemar's). gained, lost: passages that the model alone, the baseline alone got
    right."""

    difference: float
    se: float
    gained: int
    lost: int

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass(frozen=True, eq=False)
class LastWords:
    """What `last_words` found. correct: bool [passages]. truncated: contexts that were cut on the left to fit.
    seconds: wall time."""

    correct: np.ndarray = field(repr=False)
    passages: Passages
    truncated: int
    seconds: float

    @property
    def accuracy(self) -> float:
        return float(self.correct.mean())

    @property
    def se(self) -> float:
        """Standard error of the accuracy, passages taken as independent."""
        return statistics.binomial_se(self.accuracy, len(self.correct))

    def against(self, baseline: LastWords) -> PairedAccuracy:
        """Raises ProtocolError unless both are of the same passages."""
        if self.passages.sha256 != baseline.passages.sha256:
            raise ProtocolError(
                f"accuracies cannot be paired: passages are {self.passages} and {baseline.passages}"
            )
        d = self.correct.astype(np.float64) - baseline.correct
        return PairedAccuracy(float(d.mean()), statistics.mean_se(d), int((d > 0).sum()), int((d < 0).sum()))

    def to_json(self, baseline: LastWords | None = None) -> dict[str, Any]:
        return {
            "accuracy": self.accuracy,
            "se": self.se,
            "baseline": None if baseline is None else self.against(baseline).to_json(),
            "passages": self.passages.to_json(),
            "truncated": self.truncated,
            "seconds": self.seconds,
        }


def last_words(model: Any, passages: Passages, tokens: Sequence[Pair] | None = None) -> LastWords:
    """Whether a loaded model, on either backend, predicts each passage's last word.

    tokens: what `pairs` gave for another model of the same tokenizer. A context is cut on the left where it does not
    fit; no logits leave the device, and one cache serves all. Raises ProtocolError for a word longer than the context.
    """
    tokens = pairs(model.tokenizer, passages) if tokens is None else tokens
    most, truncated, correct = min(model.context_length, model.max_tokens), 0, []
    began, scorer = time.perf_counter(), PrefixScorer(model)
    try:
        for index, (context, word) in enumerate(tokens):
            room = most + 1 - len(word)
            if room < 1:
                raise ProtocolError(
                    f"passages {passages.name}, number {index}: the last word has {len(word)} tokens, more than the "
                    f"context of {most} holds"
                )
            truncated += len(context) > room
            correct.append(bool(scorer.score(context[-room:], word)[1].all()))
    finally:
        scorer.close()
    return LastWords(np.array(correct), passages, truncated, time.perf_counter() - began)
