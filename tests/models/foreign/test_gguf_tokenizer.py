"""Tokenizers of GGUF files against those that they come from: SentencePiece itself, and its rule written out."""

from __future__ import annotations

import io
import random
from itertools import pairwise

import pytest
import sentencepiece
from tokenizers import Tokenizer

from workbench.assets import calibration_text
from workbench.errors import UnsupportedModelError
from workbench.models.foreign import gguf_tokenizer
from workbench.models.foreign.gguf_tokenizer import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED

SPECIAL = ["<unk>", "<s>", "</s>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
#: What texts are made of beside words: runs of spaces, digits and signs, other scripts, bytes that look like tokens.
ODD = [" ", "  ", "    ", "\n", "\n\n", "\t", "\r\n", "é", "e\u0301", "日本", "🙂", "\u00a0", "ﬁ", "\u200b", "<0x0A>",
       "a" * 5, "." * 9, "0" * 7, "=" * 6, "▁", "\x00"]  # fmt: skip


def metadata(tokens, scores, kinds, **changes):
    values = {"model": "llama", "tokens": tokens, "scores": scores, "token_type": kinds}
    ids = {"unknown_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return {f"tokenizer.ggml.{name}": value for name, value in (values | ids | changes).items()}


def built(found) -> Tokenizer:
    return Tokenizer.from_str(gguf_tokenizer.files_of(found, "file")["tokenizer.json"].decode())


def joined(text: str, tokens: list[str], scores: list[float]) -> list[int]:
    """SentencePiece's rule, slowly: of all neighbours whose text is a token the best is joined, the one further left of
    equal ones; what is then no token is given byte by byte."""
    known = {token: at for at, token in enumerate(tokens)}
    parts = list("▁" + text.replace(" ", "▁"))
    while True:
        pairs = [
            (-scores[known[left + right]], place)
            for place, (left, right) in enumerate(pairwise(parts))
            if left + right in known
        ]
        if not pairs:
            break
        _, place = min(pairs)
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    ids = [[known[part]] if part in known else [3 + byte for byte in part.encode()] for part in parts]
    return [each for part in ids for each in part]


def drawn_vocabulary(seed: int) -> tuple[list[str], list[float], list[int]]:
    """Words over two letters and the space, all of them joined of others, in many ways."""
    generator = random.Random(seed)
    pieces = list("ab▁")
    while len(pieces) < 22:
        piece = generator.choice(pieces) + generator.choice(pieces)
        if len(piece) < 9 and piece not in pieces:
            pieces.append(piece)
    generator.shuffle(pieces)
    tokens = [*SPECIAL, *BYTES, *pieces]
    kinds = [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, *generator.choices((NORMAL, UNUSED), (4, 1), k=22)]
    return tokens, [0.0] * 259 + [-float(at) for at in range(22)], kinds


@pytest.mark.parametrize("seed", range(8))
def test_pairs_are_joined_by_their_scores(seed):
    tokens, scores, kinds = drawn_vocabulary(seed)
    tokenizer, generator = built(metadata(tokens, scores, kinds)), random.Random(seed)
    for _ in range(60):
        text = "".join(generator.choices("ab é", (5, 4, 3, 1), k=generator.randint(1, 40)))
        assert tokenizer.encode(text).ids == [1, *joined(text, tokens, scores)], text


def test_what_llama_cpp_gives():
    """Ids of llama.cpp (libllama of node-llama-cpp 3.22.1) for this vocabulary: spaces at ends and doubled ones stay, a
    space stands before a text and behind each control token, and characters without a token are their bytes."""
    pieces = ["▁", "a", "b", "▁a", "ab", "▁▁", "▁ab"]
    tokens, kinds = [*SPECIAL, *BYTES, *pieces], [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, *[NORMAL] * 7]
    tokenizer = built(metadata(tokens, [0.0] * 262 + [-1.0, -2.0, -3.0, -4.0], kinds))
    for text, ids in LLAMA_CPP.items():
        assert tokenizer.encode(text).ids == ids, text


LLAMA_CPP = {
    "": [1],
    "ab": [1, 265],
    "abab aab": [1, 265, 263, 262, 263],
    "    ": [1, 264, 264, 259],
    "  ab  a ": [1, 264, 265, 259, 262, 259],
    "a  b   ab": [1, 262, 264, 261, 264, 265],
    "</s>ab</s> a": [1, 2, 265, 2, 259, 262],
    "aé\nb": [1, 262, 198, 172, 13, 261],
    "<0x0A>a": [1, 259, 63, 51, 123, 51, 68, 65, 260],
}


@pytest.fixture(scope="module")
def trained():
    """SentencePiece's BPE of 700 tokens, which changes nothing of a text."""
    written = io.BytesIO()
    sentences = calibration_text().read_text("utf-8")[:150_000].split("\n")
    sentences += [f"{'=' * n} {'0' * n}{' ' * n}{'.' * n}" for n in range(1, 20)] * 9
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences), model_writer=written, model_type="bpe", vocab_size=700,
        byte_fallback=True, character_coverage=0.999, remove_extra_whitespaces=False,
        normalization_rule_name="identity", allow_whitespace_only_pieces=True, minloglevel=2,
    )  # fmt: skip
    return sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())


def test_ids_are_sentencepieces_own(trained):
    """On words, runs of signs and spaces, other scripts, and pieces of tokens in any order."""
    places = range(trained.get_piece_size())
    tokens = [trained.id_to_piece(at) for at in places]
    kinds = [UNKNOWN if trained.is_unknown(at) else CONTROL if trained.is_control(at) else BYTE
             if trained.is_byte(at) else NORMAL for at in places]  # fmt: skip
    tokenizer = built(metadata(tokens, [trained.get_score(at) for at in places], kinds))
    plain = [token.replace("▁", " ") for token, kind in zip(tokens, kinds, strict=True) if kind == NORMAL]
    generator = random.Random(0)
    for _ in range(400):
        text = "".join(generator.choices(plain + 20 * ODD, k=generator.randint(1, 30)))
        assert tokenizer.encode(text, add_special_tokens=False).ids == trained.encode(text), ascii(text)


def test_scores_that_tokens_share_are_refused():
    """By SentencePiece "abb" is ab, b and "bab" ba, b where both are as good: no order of merges does so."""
    tokens, kinds = (
        [*SPECIAL, *BYTES, *"ab▁", "ab", "ba"],
        [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, *[NORMAL] * 5],
    )
    scores = [0.0] * 259 + [-9.0] * 3
    with pytest.raises(
        UnsupportedModelError, match=r"file: .*scores of the tokens 'ab' and 'ba' are both -1000; "
    ):
        built(metadata(tokens, [*scores, -1000.0, -1000.0], kinds))
    kinds[-1] = USER_DEFINED  # which is cut out of a text before
    tokenizer = built(metadata(tokens, [*scores, -1000.0, -1000.0], kinds))
    assert tokenizer.encode("abba", add_special_tokens=False).tokens == ["▁", "ab", "ba"]
