"""Turning token ids into text while they arrive.

A token is not a piece of text: a character may be spread over several byte tokens, and SentencePiece writes a
space into the token after it, which decoding strips at the start of a text. So a piece is the difference of
two decodings that start at the same earlier token: of what has been given out, and of that with the new
tokens. The window holds the last piece's tokens and the pending ones, so a token costs the same at any length
of the text.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any

from workbench.errors import WorkbenchError
from workbench.utf8 import checked

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
CONTEXT_TOKENS = 8  # of the prompt, so that the first piece knows whether a space precedes it
CHARACTER_TOKENS = 4  # that a character is spread over at most: one for each byte
PENDING_TOKENS = 16  # more than this without a character are no text, and are given out


class Detokenizer:
    """Text pieces from token ids; special tokens are left out.

    For ids of any text, the pieces together are `decode(prompt + ids)` without `decode(prompt)`. Bytes that
    are no text come out as replacement characters, after PENDING_TOKENS at the latest.
    """

    def __init__(self, tokenizer: Any, prompt_ids: Sequence[int] = ()):
        self._tokenizer = tokenizer
        self._special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        shown = (int(i) for i in reversed(prompt_ids) if int(i) not in self._special)
        # no more than it takes to find the beginning of a character: what has none there is no text, however long
        prompt = list(itertools.islice(shown, CONTEXT_TOKENS + CHARACTER_TOKENS - 1))[::-1]
        start = max(0, len(prompt) - CONTEXT_TOKENS)
        while start > 0 and self._decode(prompt[start:]).startswith(REPLACEMENT):
            start -= 1  # the window would begin inside a character
        self._ids = prompt[start:]
        self._given = len(self._ids)  # tokens of the window whose text has been given out

    def push(self, token: int) -> str:
        """The text that is certain with this token; empty inside a character."""
        if int(token) in self._special:
            return ""
        self._ids.append(int(token))
        return self._advance(hold=len(self._ids) - self._given <= PENDING_TOKENS)

    def finish(self) -> str:
        """What is still pending, complete or not."""
        return self._advance(hold=False)

    def _advance(self, hold: bool) -> str:
        before = self._decode(self._ids[: self._given])
        text = self._decode(self._ids)
        if hold and (len(text) <= len(before) or text.endswith(REPLACEMENT)):
            return ""
        pending = self._ids[self._given :]
        # Bytes that are no text can make a decoder read those before them anew, which have been given out.
        piece = text[len(before) :] if text.startswith(before) else self._decode(pending)
        if pending:
            self._ids, self._given = pending, len(pending)
        return piece

    def _decode(self, ids: list[int]) -> str:
        if not ids:
            return ""
        return self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


class StopStrings:
    """Holds text back while it may begin a stop string, and ends it before the first one completed."""

    def __init__(self, stop: Sequence[str] = ()):
        given = (stop,) if isinstance(stop, str) else stop
        self._stop = [s for s in (checked(s, "a stop string") for s in given) if s]
        self._held = ""
        self.stopped: str | None = None

    def push(self, text: str) -> str:
        """The part of the text that is certain; after a stop string (`stopped` names it) always empty."""
        if self.stopped is not None:
            return ""
        self._held += text
        # Of several, the one that ends first counts, as if characters came singly; then the longest.
        found = [(self._held.find(s), s) for s in self._stop if s in self._held]
        if found:
            start, self.stopped = min(found, key=lambda f: (f[0] + len(f[1]), f[0]))
            certain, self._held = self._held[:start], ""
            return certain
        keep = max((self._overlap(s) for s in self._stop), default=0)
        cut = len(self._held) - keep
        certain, self._held = self._held[:cut], self._held[cut:]
        return certain

    def finish(self) -> str:
        """What was held back, when no more text comes."""
        certain, self._held = self._held, ""
        return certain

    def _overlap(self, stop: str) -> int:
        """Length of the longest end of the held text that begins `stop`."""
        longest = min(len(stop) - 1, len(self._held))
        return next((n for n in range(longest, 0, -1) if self._held.endswith(stop[:n])), 0)


def stop_texts(stop: str | Sequence[str]) -> Sequence[str]:
    """One stop string, or several, as several. Raises `WorkbenchError` for anything else."""
    stops = (stop,) if isinstance(stop, str) else stop
    if not isinstance(stops, Sequence) or not all(isinstance(each, str) for each in stops):
        raise WorkbenchError(f"stop = {stop!r}; allowed: a text or a sequence of texts")
    return stops


class Stream(Iterator[Any]):
    """What is generated, as it comes, and why it ended.

    finish_reason: None while more may come; then "length" (as many tokens as were asked for), "context" (the cache is
    full), "eos" (an end-of-text token came) or "stop" (a stop string did). `close` ends it early, and computes nothing
    more.
    """

    def __init__(self, items: Generator[Any, None, str]):
        self._items = items
        self.finish_reason: str | None = None

    def __next__(self) -> Any:
        try:
            return next(self._items)
        except StopIteration as end:
            self.finish_reason = self.finish_reason or end.value
            raise StopIteration from None

    def close(self) -> None:
        self._items.close()


def stream_text(
    tokenizer: Any,
    tokens: Iterable[int],
    stop: Sequence[str] = (),
    eos_ids: Iterable[int] = (),
    prompt_ids: Sequence[int] = (),
) -> Stream:
    """Non-empty text pieces for token ids that follow `prompt_ids`.

    Ends with the tokens, at a token of `eos_ids` (not given out) or before a stop string; then `tokens` is
    closed where it can be, so that no further token is computed.
    """
    return Stream(_pieces(tokenizer, tokens, stop, frozenset(eos_ids), prompt_ids))


class TextEnd:
    """Text of tokens that are pushed one by one, until it ends. reason: "eos" or "stop" when it has. decoded:
    characters of the text so far, with those that are held back since they may begin a stop string."""

    def __init__(
        self, tokenizer: Any, stop: Sequence[str], ends: Iterable[int], prompt_ids: Sequence[int] = ()
    ) -> None:
        self._detokenizer, self._stops = Detokenizer(tokenizer, prompt_ids), StopStrings(stop)
        self._ends = frozenset(ends)
        self.reason: str | None = None
        self.decoded = 0

    def push(self, token: int) -> str:
        """The text that is certain with this token."""
        if int(token) in self._ends:
            self.reason = "eos"
            return ""
        return self._certain(self._detokenizer.push(token))

    def finish(self) -> str:
        """What was held back, when no more tokens come."""
        if self.reason == "stop":
            return ""
        return self._certain(self._detokenizer.finish()) + self._stops.finish()

    def _certain(self, text: str) -> str:
        self.decoded += len(text)
        piece = self._stops.push(text)
        if self._stops.stopped is not None:
            self.reason = "stop"
        return piece


def _pieces(
    tokenizer: Any,
    tokens: Iterable[int],
    stop: Sequence[str],
    ends: frozenset[int],
    prompt_ids: Sequence[int],
) -> Generator[str, None, str]:
    end = TextEnd(tokenizer, stop, ends, prompt_ids)
    try:
        for token in tokens:
            if piece := end.push(token):
                yield piece
            if end.reason is not None:
                break
    finally:
        if (close := getattr(tokens, "close", None)) is not None:
            close()
    if piece := end.finish():
        yield piece
    return end.reason or getattr(tokens, "finish_reason", None) or "length"
