"""Perplexity protocols by name: how tokens are cut into windows, and which targets of each are scored.

| name | windows |
|---|---|
| `disjoint-L` | floor(T/L) disjoint windows of L tokens, L-1 targets each, the rest of the text dropped |
| `wikitext2-gptq-L` | `disjoint-L` on the test split of WikiText-2 raw, rows joined with two newlines |
| `hf-strided-L-S` | Hugging Face's sliding window: windows of L every S tokens, only new tokens scored |
| `llamacpp-L` | disjoint windows, the first token BOS if the tokenizer adds it, the last L/2 - 1 scored |
| `lm-eval-wikitext-L` | WikiText's documents one by one, detokenized, every token a target of windows of L inputs |

`lm-eval-wikitext` alone takes the model's context for L. Its figure is the perplexity a word (and a byte) of the
text before detokenization, not a token.

Sources: GPTQ's evaluation loop (Frantar et al. 2022, `datautils.py` and `opt.py` of their code); "Perplexity
of fixed-length models" in the documentation of `transformers`; the `perplexity` tool of llama.cpp; task
`wikitext` and `get_rolling_token_windows` of lm-evaluation-harness. A protocol
knows no tokenizer and no model: `eval.texts` makes the tokens, `eval.perplexity` scores the windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from eval.protocol_names import ALLOWED, FORMS, LM_EVAL, parse
from workbench.errors import ProtocolError


@dataclass(frozen=True, eq=False)
class Window:
    """One sequence to score from an empty cache.

    ids: int64 [n], n >= 2. Targets are `ids[first_scored:]`, each predicted from all that stands before it in
    the window; `first_scored` >= 1. start: index of `ids[0]` in the token stream.
    """

    ids: np.ndarray
    first_scored: int
    start: int = 0

    @property
    def targets(self) -> np.ndarray:
        """int64 [scored], the token ids that are scored."""
        return self.ids[self.first_scored :]

    @property
    def scored(self) -> int:
        return len(self.ids) - self.first_scored


@dataclass(frozen=True)
class Protocol:
    """A named way to cut and score; made by `protocol(name)`. length and stride are in tokens; None for an
    `lm-eval-wikitext` that has not met its model (`at`)."""

    kind: str
    length: int | None
    stride: int | None

    def __post_init__(self) -> None:
        if self.kind not in FORMS:
            raise ProtocolError(f"protocol kind {self.kind!r} is unknown; allowed: {', '.join(FORMS)}")
        if self.kind == LM_EVAL and self.length is None and self.stride is None:
            return
        if self.length is None or self.length < 2:
            raise ProtocolError(
                f"protocol {self.name!r}: a window of {self.length} token has no target; allowed: {ALLOWED}"
            )
        if self.stride is None or not 1 <= self.stride <= self.length:
            raise ProtocolError(
                f"protocol {self.name!r}: stride {self.stride} would leave tokens unscored; "
                f"allowed: 1 <= S <= {self.length}"
            )
        if self.kind != "hf-strided" and self.stride != self.length:
            raise ProtocolError(
                f"protocol kind {self.kind!r} has disjoint windows; stride must be {self.length}"
            )
        if self.kind == "llamacpp" and (self.length % 2 or self.length < 4):
            raise ProtocolError(
                f"protocol {self.name!r}: the length must be even and at least 4; allowed: {ALLOWED}"
            )

    @property
    def name(self) -> str:
        if self.length is None:
            return self.kind
        return f"{self.kind}-{self.length}" + (f"-{self.stride}" if self.kind == "hf-strided" else "")

    def at(self, context_length: int) -> Protocol:
        """With the length of a context where the name left it open, else as it is."""
        return self if self.length else replace(self, length=context_length, stride=context_length)

    def within(self, context_length: int) -> Protocol:
        """With windows that a context holds: as it is, or the same kind with its length (and stride) cut to that."""
        fixed = self.at(context_length)
        length, stride = fixed.cut
        if length <= context_length:
            return fixed
        length = context_length - context_length % 2 if self.kind == "llamacpp" else context_length
        return replace(fixed, length=length, stride=min(stride, length))

    @property
    def cut(self) -> tuple[int, int]:
        """(length, stride). Raises ProtocolError where the name leaves them open."""
        if self.length is None or self.stride is None:
            raise ProtocolError(f"protocol {self.name!r} needs a length: use .at(context_length)")
        return self.length, self.stride

    @property
    def joins_rows(self) -> bool:
        """Whether a raw file of one row a line is first joined by `eval.texts.join_rows`."""
        return self.kind == "wikitext2-gptq"

    @property
    def by_document(self) -> bool:
        """Whether documents are scored apart and figures are a word and a byte (see `eval.documents`)."""
        return self.kind == LM_EVAL

    @property
    def takes_separator(self) -> bool:
        """Whether documents may be told apart by a separator; other protocols fix how their text is read."""
        return self.kind in ("disjoint", "hf-strided")

    def __str__(self) -> str:
        return self.name

    def windows(
        self,
        tokens: Sequence[int] | np.ndarray,
        *,
        bos: int | None = None,
        starts: Sequence[int] | np.ndarray = (0,),
    ) -> list[Window]:
        """Cut `tokens` (ints [T]) into windows, in order.

        bos: the token id that `llamacpp-L` puts in place of each window's first token (None: left as it is,
        which is what llama.cpp does for a vocabulary without BOS), and `lm-eval-wikitext-L` in front of each
        document. starts: where documents begin, which only the latter heeds. Raises ProtocolError if the
        text is too short for one target.
        """
        ids = np.asarray(tokens)
        if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
            raise ProtocolError(
                f"tokens must be integers of shape [T], not {ids.dtype} of shape {list(ids.shape)}"
            )
        ids = ids.astype(np.int64, copy=False)
        if self.kind == LM_EVAL:
            return self._rolling(ids, bos, starts)
        length, _ = self.cut
        needed = 2 if self.kind == "hf-strided" else length
        if len(ids) < needed:
            raise ProtocolError(
                f"protocol {self.name!r} needs at least {needed} tokens; the text has {len(ids)}"
            )
        if self.kind == "hf-strided":
            return self._strided(ids)
        count = len(ids) // length
        starts = [w * length for w in range(count)]
        if self.kind != "llamacpp":
            return [Window(ids[s : s + length], 1, s) for s in starts]
        # llama.cpp reads the logits of positions L/2 .. L-2, that is the targets L/2+1 .. L-1.
        windows = []
        for s in starts:
            chunk = ids[s : s + length].copy()
            if bos is not None:
                chunk[0] = bos
            windows.append(Window(chunk, length // 2 + 1, s))
        return windows

    def _rolling(self, ids: np.ndarray, bos: int | None, starts: Sequence[int] | np.ndarray) -> list[Window]:
        """Each document behind `bos`: L targets a window, which starts at the token before its first target.

        Where fewer than L targets remain, the last window reaches back until it has L inputs, so each token is
        a target once. `start` of a document's first window is the place before its first token.
        """
        length, _ = self.cut
        if bos is None:
            raise ProtocolError(
                f"protocol {self.name!r} puts BOS (or EOS) in front; the tokenizer has neither"
            )
        windows = []
        for begin, end in zip(starts, [*starts[1:], len(ids)], strict=True):
            document = np.concatenate([[bos], ids[begin:end]]).astype(np.int64)
            for first in range(1, len(document), length):
                stop = min(first + length, len(document))
                back = max(0, stop - length - 1)
                windows.append(Window(document[back:stop], first - back, int(begin) + back - 1))
        if not windows:
            raise ProtocolError(f"protocol {self.name!r} needs at least 1 token; the text has none")
        return windows

    def _strided(self, ids: np.ndarray) -> list[Window]:
        """Windows [b, min(b + L, T)), b = 0, S, 2S, ... until one ends at T; only targets past the last end.

        The first window has nothing before it and scores all but its first token. With S = L every window is
        like the first. A last window of one token (S = L and T mod L = 1) has no target and is left out.
        """
        (length, stride), windows, previous_end = self.cut, [], 0
        for begin in range(0, len(ids), stride):
            end = min(begin + length, len(ids))
            first = max(previous_end - begin, 1)
            if first < end - begin:
                windows.append(Window(ids[begin:end], first, begin))
            previous_end = end
            if end == len(ids):
                break
        return windows


def protocol(name: str | Protocol) -> Protocol:
    """The protocol of that name (a Protocol is returned as it is). ProtocolError lists what is allowed."""
    if isinstance(name, Protocol):
        return name
    found = parse(name)
    if found is None:
        raise ProtocolError(f"protocol {name!r} is unknown; allowed: {ALLOWED}")
    return Protocol(*found)
