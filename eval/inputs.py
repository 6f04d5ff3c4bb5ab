"""What a perplexity run is given, checked: protocol, tokens and models must fit each other. Errors: ProtocolError."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from eval.documents import DocumentSizes
from eval.protocols import Protocol, Window
from eval.scorer import Vocabulary
from eval.texts import Text, Tokens, encode, tokenizer_sha256
from workbench.errors import ProtocolError


def label(name: str) -> str:
    """How messages speak of a model."""
    return name if name in ("model", "baseline") else f"model {name!r}"


def fitting(scheme: Protocol, models: Mapping[str, Vocabulary]) -> Protocol:
    """The protocol with a length, at most every model's context."""
    scheme = scheme.at(
        min(
            min(one.context_length, getattr(one, "max_tokens", one.context_length)) for one in models.values()
        )
    )
    for name, one in models.items():
        if scheme.cut[0] > one.context_length:
            raise ProtocolError(
                f"protocol {scheme.name!r} has windows of {scheme.length} tokens, more than "
                f"the {label(name)}'s context of {one.context_length}; allowed: up to {one.context_length}"
            )
    return scheme


def tokens(model: Vocabulary, text: Any, scheme: Protocol, separator: str | None) -> Tokens:
    """The tokens to score; see `eval.perplexity.perplexity` for what `text` may be."""
    if isinstance(text, str | Text):
        return encode(model.tokenizer, text, scheme, separator=separator)
    if separator is not None:
        raise ProtocolError("a separator tells the documents of a text apart; these are tokens already")
    if not isinstance(text, Tokens):
        ids = np.asarray(text)
        if ids.ndim != 1 or ids.dtype.kind not in "iu":
            raise ProtocolError(
                f"text must be a string, Text, Tokens or integers [T], not {ids.dtype} {list(ids.shape)}"
            )
        return Tokens(ids.astype(np.int64))
    if text.tokenizer_sha256 is not None and text.tokenizer_sha256 != tokenizer_sha256(model.tokenizer):
        raise ProtocolError("the tokens were made by another tokenizer than the model's")
    if text.separator is not None and not scheme.takes_separator:
        raise ProtocolError(
            f"protocol {scheme.name!r} takes no document separator, but the tokens were made with one"
        )
    if scheme.by_document and text.document_sizes is None:
        raise ProtocolError(f"protocol {scheme.name!r} scores documents apart; encode the text for it")
    if scheme.joins_rows and text.text is not None and not text.text.get("joined"):
        raise ProtocolError(
            f"protocol {scheme.name!r} joins rows before tokenization; encode the text for it"
        )
    return text.for_windows_of(scheme)


def same_vocabulary(models: Mapping[str, Vocabulary], first: str, other: str, tokens: Tokens) -> None:
    """Raise unless two models give the same meaning to the same ids."""
    one, two = models[first], models[other]
    if one.vocab_size != two.vocab_size:
        raise ProtocolError(
            f"the {label(first)} has {one.vocab_size} tokens, the {label(other)} {two.vocab_size}; "
            "they must agree"
        )
    if tokens.tokenizer_sha256 is not None and tokenizer_sha256(two.tokenizer) != tokens.tokenizer_sha256:
        raise ProtocolError(
            f"{label(first)} and {label(other)} have different tokenizers; per-token differences would "
            "mean nothing"
        )


def known_ids(windows: list[Window], vocabulary: int) -> None:
    """Raise for a token that the model does not have."""
    for index, window in enumerate(windows):
        low, high = int(window.ids.min()), int(window.ids.max())
        if low < 0 or high >= vocabulary:
            bad = low if low < 0 else high
            raise ProtocolError(
                f"window {index}: token {bad} is outside the model's vocabulary, 0 to {vocabulary - 1}"
            )


def described(scheme: Protocol, tokens: Tokens, windows: list[Window], every: list[Window]) -> dict[str, Any]:
    """What the results of all models on these windows, the first of `every`, have in common."""
    sizes = tokens.token_bytes
    return {
        "protocol": scheme,
        "targets": np.concatenate([window.targets for window in windows]),
        "window_index": np.repeat(np.arange(len(windows)), [window.scored for window in windows]),
        "window_start": np.array([window.start for window in windows]),
        "window_first_scored": np.array([window.first_scored for window in windows]),
        "windows_available": len(every),
        "tokens_available": len(tokens),
        "scored_bytes": None
        if sizes is None
        else int(sum(sizes[w.start + w.first_scored : w.start + len(w.ids)].sum() for w in windows)),
        "tokens_sha256": tokens.sha256,
        "tokenizer_sha256": tokens.tokenizer_sha256,
        "text": tokens.text,
        "bos_policy": tokens.bos_policy,
        "separator": tokens.separator,
        "documents": tokens.documents,
        "document_sizes": _document_sizes(tokens, every),
    }


def _document_sizes(tokens: Tokens, windows: list[Window]) -> DocumentSizes | None:
    """Sizes of the documents that are scored apart, with how many windows each has."""
    if tokens.document_sizes is None or tokens.starts is None:
        return None
    places = [window.start + window.first_scored for window in windows]
    document = np.searchsorted(tokens.starts, places, side="right") - 1
    counts = np.bincount(document, minlength=len(tokens.starts))
    words, sizes = zip(*tokens.document_sizes, strict=True)
    return DocumentSizes(words, sizes, tuple(int(c) for c in counts))
