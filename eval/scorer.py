"""What can be evaluated: a loaded model, or anything else that scores token ids as it does."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np


class TokenScores(Protocol):
    """Of n ids. nll: f64 [n - 1], -ln p(ids[i + 1] | ids[: i + 1]); top1: int64 [n - 1], the likeliest token there."""

    @property
    def nll(self) -> np.ndarray: ...

    @property
    def top1(self) -> np.ndarray: ...


class WithLogits(Protocol):
    """logits: f32 [n, vocab], behind each of n ids."""

    @property
    def logits(self) -> np.ndarray: ...


class Vocabulary(Protocol):
    """Which tokens a model takes. tokenizer: as of transformers; only texts ask for it. context_length: the most tokens
    of a sequence."""

    @property
    def tokenizer(self) -> Any: ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def context_length(self) -> int: ...


class Scorer(Vocabulary, Protocol):
    """A language model that scores a sequence from an empty cache (`workbench.runtime.model.Model` is one).

    backend: what computes, for tables. Only comparisons with a baseline call `forward`.
    """

    @property
    def backend(self) -> str: ...

    def score(self, ids: np.ndarray, /) -> TokenScores:
        """The losses of int64 ids [n], n > 1."""
        ...

    def forward(self, ids: np.ndarray, /) -> WithLogits:
        """The logits of int64 ids [n]."""
        ...

    def describe_provenance(self) -> dict[str, Any]:
        """What a number needs beside it to be repeated, as JSON values."""
        ...
