"""Texts made of documents, and `lm-eval-wikitext`'s way of reading WikiText.

lm-evaluation-harness (task `wikitext`, version 2, data `EleutherAI/wikitext_document_level`) scores each article on
its own: the raw file is cut before every line that is a title (` = Title = `), the page is detokenized, and the
log-likelihood of that is divided by the words, or the UTF-8 bytes, of the page *before* detokenization. Its cut is
reproduced with what follows from it: two lines of formulas in the test split look like titles, so its 60 articles
are 62 documents.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from workbench.errors import ProtocolError

# What `detokenize` replaces, in this order. The second rule's slashes are part of its pattern in the harness.
_RULES: tuple[tuple[str, str, bool], ...] = (
    ("s '", "s'", False),
    (r"/' [0-9]/", r"/'[0-9]/", True),
    (" @-@ ", "-", False),
    (" @,@ ", ",", False),
    (" @.@ ", ".", False),
    *((f" {mark} ", f"{mark} ", False) for mark in ":;.!?,"),
    (r"\(\s*([^\)]*?)\s*\)", r"(\1)", True),
    (r"\[\s*([^\]]*?)\s*\]", r"[\1]", True),
    (r"{\s*([^}]*?)\s*}", r"{\1}", True),
    (r"\"\s*([^\"]*?)\s*\"", r'"\1"', True),
    (r"'\s*([^']*?)\s*'", r"'\1'", True),
    ("= = = =", "====", False),
    ("= = =", "===", False),
    ("= =", "==", False),
    (" ° ", "°", False),
    (" \n", "\n", False),
    ("\n ", "\n", False),
    (" N ", " 1 ", False),
    (" 's", "'s", False),
)


def detokenize(page: str) -> str:
    """A page of WikiText as ordinary text: spaces around punctuation and the `@-@` marks go."""
    for pattern, replacement, regular in _RULES:
        page = re.sub(pattern, replacement, page) if regular else page.replace(pattern, replacement)
    return page


def words(page: str) -> int:
    """Words as lm-eval counts them: parts between runs of white space, empty ones at the ends included."""
    return len(re.split(r"\s+", page))


def pages(raw: str) -> list[str]:
    """The documents of a raw WikiText file, cut before each title line; one where there is no title."""
    found, lines = [], []
    for line in raw.split("\n"):
        title = line.replace("= = =", "===").replace("= =", "==").strip()
        if title.startswith("= ") and title.endswith(" ="):
            found.append("\n".join(lines))
            lines = []
        lines.append(line)
    return [page for page in [*found, "\n".join(lines)] if page.strip()]


def split_documents(content: str, separator: str) -> list[str]:
    """The documents of a text, stripped, without empty ones. ProtocolError if the separator never occurs."""
    if not separator:
        raise ProtocolError("the document separator is empty")
    if separator not in content:
        raise ProtocolError(f"the document separator {separator!r} does not occur in the text")
    return [document for part in content.split(separator) if (document := part.strip())]


def join_rows(raw: str) -> str:
    """A file of one row a line, as the rows that `datasets` gives for WikiText-2 raw, joined by two newlines.

    An empty row is stored as one space; every other row keeps its newline. The newline that ends the file
    ends its last row and starts no further one.
    """
    lines = raw.split("\n")
    if lines[-1] == "":
        lines.pop()
    return "\n\n".join("" if line == " " else line + "\n" for line in lines)


def unjoin_rows(joined: str) -> str:
    """The inverse of `join_rows`: the raw file. Raises ProtocolError for a text that is not so joined."""
    lines, at = [], 0
    while at <= len(joined):
        empty = at == len(joined) or joined.startswith("\n\n", at)
        newline = at if empty else joined.find("\n", at)
        end = at if empty else newline + 1
        if newline < 0 or (end < len(joined) and not joined.startswith("\n\n", end)):
            raise ProtocolError(f"the text is not rows joined with two newlines (at character {at})")
        lines.append(joined[at:end] or " \n")
        at = end + 2
    return "".join(lines)


@dataclass(frozen=True)
class DocumentSizes:
    """Of each document of a text, in order: words and UTF-8 bytes that a score is divided by, and its windows."""

    words: tuple[int, ...]
    bytes: tuple[int, ...]
    windows: tuple[int, ...]

    def complete(self, windows: int) -> int:
        """How many documents the first so many windows score in full."""
        return int(np.searchsorted(np.cumsum(self.windows), windows, side="right"))

    def sums(self, token_nll: np.ndarray, window_index: np.ndarray, complete: int) -> np.ndarray:
        """Total nll of each of the first `complete` documents, f64 [complete]."""
        document = np.repeat(np.arange(len(self.windows)), self.windows)[window_index]
        return np.bincount(document, weights=token_nll, minlength=complete)[:complete]

    def to_json(self) -> dict[str, list[int]]:
        return {"words": list(self.words), "bytes": list(self.bytes), "windows": list(self.windows)}

    @classmethod
    def from_json(cls, values: dict[str, Sequence[int]]) -> DocumentSizes:
        return cls(*(tuple(int(v) for v in values[name]) for name in ("words", "bytes", "windows")))
