"""Generated tokens as data: what each adds to the text, how likely it was, what else could have come."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from workbench.models.llama import LIKELY
from workbench.runtime.sampling import softmax

#: The most likely tokens that are kept beside each token: those that come with it.
ALTERNATIVES = LIKELY


@dataclass(frozen=True)
class Alternative:
    """A token that a model thinks likely, with its probability at temperature 1 without filters."""

    id: int
    text: str
    probability: float


@dataclass(frozen=True)
class Token:
    """One generated token. text: what it adds to the text, empty inside a character or for a special token; name: its
    own spelling. probability: the writing model's at temperature 1, without filters; None until it is measured.

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
    only the time that this one took. reason: why it ended, None while it has not."""

    label: str
    device: str
    tokens: list[Token] = field(default_factory=list)
    first_s: float | None = None
    rest_s: float = 0.0
    reason: str | None = None

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
    """Spellings of token ids by themselves, with the space that decoding strips at the start of a text."""

    def __init__(self, tokenizer: Any):
        self._tokenizer, self._known = tokenizer, {}

    def __call__(self, token: int) -> str:
        if token not in self._known:
            text = self._tokenizer.decode([token], clean_up_tokenization_spaces=False)
            piece = str(self._tokenizer.convert_ids_to_tokens(token))
            if piece.startswith("\u2581") and not text.startswith(" "):
                text = " " + text
            self._known[token] = piece if not text or "\N{REPLACEMENT CHARACTER}" in text else text
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
    if found.reason:
        said.append(f"ended: {found.reason}")
    return said


def strength(token: Token) -> float:
    """How strongly a token is coloured, 0 to 1: by KL from 0.001 to 1 nat on a logarithmic scale where two models were
    compared, else by -ln p up to 5 nats."""
    if token.kl is not None:
        return min(1.0, max(0.0, 1 + float(np.log10(token.kl + 1e-12)) / 3))
    return 0.0 if token.probability is None else min(1.0, -float(np.log(max(token.probability, 1e-9))) / 5)


def spelled(text: str) -> str:
    """Text for HTML: escaped, with control and direction characters written out."""
    return html.escape("".join(c if c.isprintable() or c == "\n" else f"\\u{ord(c):04x}" for c in text))
