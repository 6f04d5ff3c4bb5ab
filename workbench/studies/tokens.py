"""Generated tokens as data: what each adds to the text, how likely it was, what else could have come."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from workbench.models.endings import LIKELY
from workbench.models.token_bytes import TokenBytes
from workbench.runtime.sampling import softmax

#: The most likely tokens that are kept beside each token: those that come with it.
ALTERNATIVES = LIKELY
#: A byte of a token that is no whole character, as it is spelled.
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


@dataclass(frozen=True)
class Alternative:
    """A token that a model thinks likely, with its probability at temperature 1 without filters."""

    id: int
    text: str
    probability: float


@dataclass(frozen=True)
class Token:
    """One generated token. text: what it adds to the text, empty inside a character or for a special token; name: its
    own spelling, bytes that are no whole character as <0xE6>. probability: the writing model's at temperature 1,
    without filters; None until it is measured.

    With two models, on this text up to here: kl is KL(first || second) in nats, likely the other model's most likely
    tokens, flip whether the two differ in the most likely one. None, or empty, until measured.
    """

    id: int
    text: str
    name: str
    probability: float | None = None
    alternatives: tuple[Alternative, ...] = ()
    kl: float | None = None
    likely: tuple[Alternative, ...] = ()
    flip: bool | None = None


@dataclass
class Continuation:
    """What one model wrote. first_s: seconds until the first token. rest_s: from it to the last one; with two models
    only the time that this one took. reason: why it ended, None while it has not. logit_difference: between the same
    model on two engines, the largest on this text, over the largest logit; None for anything else."""

    label: str
    device: str
    tokens: list[Token] = field(default_factory=list)
    first_s: float | None = None
    rest_s: float = 0.0
    reason: str | None = None
    logit_difference: float | None = None

    @property
    def text(self) -> str:
        return "".join(token.text for token in self.tokens)

    @property
    def tokens_per_second(self) -> float | None:
        """Of decoding: tokens after the first one over the time that they took."""
        return (len(self.tokens) - 1) / self.rest_s if len(self.tokens) > 1 and self.rest_s > 0 else None

    @property
    def mean_kl(self) -> float | None:
        """Mean of the tokens' `kl` where it was measured, nats."""
        known = [token.kl for token in self.tokens if token.kl is not None]
        return float(np.mean(known)) if known else None

    @property
    def flips(self) -> int | None:
        """Tokens at which the two models differ in the most likely one."""
        known = [token.flip for token in self.tokens if token.flip is not None]
        return sum(known) if known else None

    def data(self) -> Any:
        """A pandas DataFrame, one row a token."""
        import pandas

        columns = ("id", "text", "probability", "kl", "flip")
        return pandas.DataFrame([{name: getattr(token, name) for name in columns} for token in self.tokens])


class Names:
    """Spellings of token ids by themselves, with the space that decoding strips at the start of a text.

    Tokenizers over bytes (GPT-2's, and SentencePiece's for what it does not know) cut characters into tokens: bytes
    that are no whole character are spelled <0xE6>.
    """

    def __init__(self, tokenizer: Any):
        self._bytes, self._known = TokenBytes(tokenizer), {}

    def __call__(self, token: int) -> str:
        if token not in self._known:
            self._known[token] = spelled_bytes(self._bytes(token))
        return self._known[token]

    def likely(self, logits: np.ndarray) -> tuple[Alternative, ...]:
        """The most likely tokens for logits [vocab], best first."""
        p = softmax(logits)
        best = np.argpartition(-p, min(ALTERNATIVES, p.size - 1))[:ALTERNATIVES]
        best = best[np.argsort(-p[best], kind="stable")]
        return tuple(Alternative(int(i), self(int(i)), float(p[i])) for i in best)

    def alternatives(self, likely: Sequence[tuple[int, float]]) -> tuple[Alternative, ...]:
        """The same, of (id, ln p)."""
        return tuple(Alternative(i, self(i), math.exp(log_p)) for i, log_p in likely)


def spelled_bytes(data: bytes) -> str:
    """UTF-8 as text; bytes that belong to no whole character as <0xE6>."""
    text = data.decode("utf-8", "surrogateescape")
    return "".join(f"<0x{ord(c) - 0xDC00:02X}>" if "\udc80" <= c <= "\udcff" else c for c in text)


def character(tokens: Sequence[Token], at: int) -> range:
    """The places of the tokens that write one text together with the token at `at`: several where a character is spread
    over them, of which only the last one has the text; else `at` alone."""

    def inside(place: int) -> bool:
        return not tokens[place].text and _BYTE.search(tokens[place].name) is not None

    first, last = at, at
    while first > 0 and inside(first - 1):
        first -= 1
    while last + 1 < len(tokens) and inside(last):
        last += 1
    return range(first, last + 1)


def probability(tokens: Sequence[Token], at: int) -> float | None:
    """Of the whole `character` that the token at `at` belongs to: the product of its tokens' probabilities. None until
    all are measured."""
    found = [tokens[place].probability for place in character(tokens, at)]
    measured = [each for each in found if each is not None]
    return math.prod(measured) if len(measured) == len(found) else None


def facts(found: Continuation) -> list[str]:
    """What there is to say about a continuation in few words."""
    said = [f"{len(found.tokens)} tokens"]
    if (rate := found.tokens_per_second) is not None:
        said.append(f"{rate:.1f} tokens/s")
    if found.first_s is not None:
        said.append(f"first after {1e3 * found.first_s:.0f} ms")
    if found.mean_kl is not None:
        said.append(f"mean KL {found.mean_kl:.4f} nats")
        said.append(f"{found.flips} flips of the most likely token")
    if found.logit_difference is not None:
        said.append(f"logits differ by {found.logit_difference:.1e} of the largest")
    if found.reason:
        said.append(f"ended: {found.reason}")
    return said


def strength(tokens: Sequence[Token], at: int) -> float:
    """How strongly the text of the token at `at` is coloured, 0 to 1: by KL from 0.001 to 1 nat on a logarithmic scale
    where two models were compared, else by -ln p up to 5 nats; both of the whole `character`."""
    places = character(tokens, at)
    divergences = [kl for place in places if (kl := tokens[place].kl) is not None]
    if len(divergences) == len(places):
        return min(1.0, max(0.0, 1 + math.log10(sum(divergences) + 1e-12) / 3))
    p = probability(tokens, at)
    return 0.0 if p is None else min(1.0, -math.log(max(p, 1e-9)) / 5)


def spelled(text: str) -> str:
    """Text for HTML: escaped, with control and direction characters written out."""
    return html.escape("".join(c if c.isprintable() or c == "\n" else f"\\u{ord(c):04x}" for c in text))
