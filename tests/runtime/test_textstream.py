"""Text pieces: together they are the decoded text, whatever the tokenizer, the cuts and the stop strings."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from workbench.models.tokenizer import load_tokenizer
from workbench.runtime.textstream import PENDING_TOKENS, Detokenizer, StopStrings, stream_text

TEXTS = [
    "Once upon a time, there was a little girl named Lily.",
    " leading and  double   spaces \n\n and lines\n",
    "🎉🎊 family: 👨‍👩‍👧‍👦, flag 🇩🇪, naïve café, 中文字符, عربى",
    "tab\tand, punctuation . ! ? 'quoted' \"text\" don't",
    "🎉",
    "",
]


@pytest.fixture(scope="session")
def byte_level(tmp_path_factory):
    """A tokenizer of the kind of Llama 3: byte-level BPE, trained here, with a BOS template and special
    tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<|begin|>", "<|end|>", "<|turn|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=specials, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", tokenizer.token_to_id("<|begin|>"))]
    )
    folder = tmp_path_factory.mktemp("byte-level")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|begin|>", eos_token="<|end|>")
    fast.save_pretrained(folder)
    return load_tokenizer(folder)


@pytest.fixture(scope="session", params=["byte-level", "stories260K-hf", "babyllama105-hf"])
def tokenizer(request):
    if request.param == "byte-level":
        return request.getfixturevalue("byte_level")
    return load_tokenizer(request.getfixturevalue("shared") / "models" / request.param)


def decoded(tokenizer, ids) -> str:
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_together_are_the_text(tokenizer, text):
    ids = tokenizer(text).input_ids
    pieces = list(stream_text(tokenizer, iter(ids)))
    assert "".join(pieces) == decoded(tokenizer, ids)
    assert all(pieces), "an empty piece was given out"


@pytest.mark.parametrize("text", TEXTS[:4])
def test_pieces_continue_every_prompt(tokenizer, text):
    ids = tokenizer(text).input_ids
    whole = decoded(tokenizer, ids)
    for cut in range(len(ids) + 1):
        before = decoded(tokenizer, ids[:cut])
        if before.endswith("\N{REPLACEMENT CHARACTER}"):
            continue  # the prompt ends inside a character: it is no text
        assert before + "".join(stream_text(tokenizer, ids[cut:], prompt_ids=ids[:cut])) == whole


def test_text_comes_early(tokenizer):
    """A piece comes with its token: nothing is held back but the bytes of an unfinished character."""
    detokenizer = Detokenizer(tokenizer)
    for token in tokenizer("the little dog ran").input_ids[1:]:
        detokenizer.push(token)
        assert detokenizer.finish() == ""


letters = st.characters(exclude_categories=["Cs"], exclude_characters="\N{REPLACEMENT CHARACTER}")
emoji = st.sampled_from(list("🎉😀👩🏽‍🚀🇫🇷é中́ \n"))


@settings(max_examples=150, deadline=None)
@example(text="🎉🎉🎉 \n🎉", cut=0)
@given(text=st.text(st.one_of(letters, emoji), max_size=40), cut=st.integers(0, 20))
def test_any_text_survives_streaming(tokenizer, text, cut):
    ids = tokenizer(text).input_ids
    before = decoded(tokenizer, ids[:cut])
    if before.endswith("\N{REPLACEMENT CHARACTER}"):
        cut, before = 0, ""
    assert before + "".join(stream_text(tokenizer, ids[cut:], prompt_ids=ids[:cut])) == decoded(
        tokenizer, ids
    )


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_ids_give_text_in_a_bounded_window(tokenizer, data):
    ids = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=120))
    detokenizer = Detokenizer(tokenizer)
    for token in ids:
        assert isinstance(detokenizer.push(token), str)
        assert len(detokenizer._ids) <= 2 * PENDING_TOKENS + 2
    detokenizer.finish()


def test_a_prompt_that_is_no_text_costs_what_any_prompt_does(byte_level, monkeypatch):
    """Pieces continue one that has no beginning of a character for long; a server is asked so by whoever likes."""
    prompt = [
        byte_level.convert_tokens_to_ids("\u0122")
    ] * 300  # how byte-level tokenizers spell the byte 0x80
    decoding = []
    decode = byte_level.decode
    monkeypatch.setattr(
        byte_level, "decode", lambda ids, **how: decoding.append(len(ids)) or decode(ids, **how)
    )
    found = Detokenizer(byte_level, prompt)
    assert sum(decoding) < 100
    assert "".join(map(found.push, byte_level(" was", add_special_tokens=False).input_ids)) == " was"


def test_special_tokens_give_no_text_and_eos_ends(tokenizer):
    ids = tokenizer("One day", add_special_tokens=False).input_ids
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    assert "".join(stream_text(tokenizer, [bos, *ids, bos])) == "One day"
    assert "".join(stream_text(tokenizer, [*ids, eos, *ids], eos_ids=[eos])) == "One day"


def test_stopping_closes_the_source(tokenizer):
    made = []

    def source():
        try:
            for token in tokenizer("One day. A dog ran.", add_special_tokens=False).input_ids * 5:
                made.append(token)
                yield token
        finally:
            made.append("closed")

    tokens = source()
    assert "".join(stream_text(tokenizer, tokens, stop=["dog"])) == "One day. A "
    assert made[-1] == "closed" and len(made) < 30


def reference_stop(text: str, stops: list[str]) -> str:
    """Character by character: cut when the text so far ends with a stop string, the longest of several."""
    for end in range(len(text) + 1):
        hits = [s for s in stops if text[:end].endswith(s)]
        if hits:
            return text[: end - max(map(len, hits))]
    return text


@settings(max_examples=400, deadline=None)
@given(
    pieces=st.lists(st.text("abc", max_size=4), max_size=12),
    stops=st.lists(st.text("abc", min_size=1, max_size=5), max_size=3),
)
def test_stop_strings_are_cut_however_the_text_is_split(pieces, stops):
    stream = StopStrings(stops)
    given_out = [stream.push(p) for p in pieces]
    for count in range(1, len(given_out) + 1):  # what was given out is never taken back
        so_far = "".join(given_out[:count])
        assert reference_stop("".join(pieces), stops).startswith(so_far)
    assert "".join(given_out) + stream.finish() == reference_stop("".join(pieces), stops)


def test_stop_strings_hold_back_no_more_than_they_must():
    stream = StopStrings(["\n\nUser:"])
    assert stream.push("Hi\n") == "Hi"
    assert stream.push("there") == "\nthere"
    assert stream.push("\n\nUse") == ""
    assert stream.push("r: more") == "" and stream.stopped == "\n\nUser:"
    assert stream.push("text") == stream.finish() == ""
