"""What single tokens stand for: bytes, since a character may be spread over several tokens."""

from __future__ import annotations

import re
from typing import Any

#: How SentencePiece spells a token that is one byte.
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


class TokenBytes:
    """Bytes of token ids by themselves, with the space that decoding strips at the start of a text.

    Tokenizers over bytes (GPT-2's, and SentencePiece's for what it does not know) cut characters into tokens, whose
    bytes are then no UTF-8. Special tokens are spelled as they are named. Looked up once an id.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._added = tokenizer.added_tokens_decoder
        self._alphabet = _byte_alphabet(tokenizer)
        self._known: dict[int, bytes] = {}

    def __call__(self, token: int) -> bytes:
        if token not in self._known:
            self._known[token] = self._found(token)
        return self._known[token]

    def _found(self, token: int) -> bytes:
        piece = self._tokenizer.convert_ids_to_tokens(token)
        if piece is None:  # the model's vocabulary may be padded beyond the tokenizer's
            return f"<token {token}>".encode()
        if token not in self._added:
            if self._alphabet and set(piece) <= set(self._alphabet):
                return bytes(self._alphabet[character] for character in piece)
            if byte := _BYTE.fullmatch(piece):
                return bytes.fromhex(byte[1])
        text = self._tokenizer.decode([token], clean_up_tokenization_spaces=False)
        if piece.startswith("\u2581") and not text.startswith(" "):
            text = " " + text
        return (piece if not text or "\N{REPLACEMENT CHARACTER}" in text else text).encode()


def _byte_alphabet(tokenizer: Any) -> dict[str, int]:
    """The byte that each character of a token stands for, where tokens are spelled like GPT-2's; else nothing."""
    decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    if decoder is None or b'"ByteLevel"' not in decoder.__getstate__():
        return {}
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return {character: byte for byte, character in bytes_to_unicode().items()}
