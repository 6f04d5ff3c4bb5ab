"""Tokens that are pieces of characters: spelled by their bytes, and a character with the probability of all of its."""

from __future__ import annotations

import json
import math

import pytest

from tests.runtime.models import Shape, write_random
from workbench.assets import demo_model_path
from workbench.models.tokenizer import load_tokenizer
from workbench.runtime.loading import load
from workbench.runtime.model import Model
from workbench.runtime.sampling import SamplingOptions
from workbench.runtime.textstream import Detokenizer
from workbench.studies.continuation import continue_prompt
from workbench.studies.tokens import Names, Token, character, probability, spelled_bytes, strength
from workbench.widgets import Generator

TEXT = "hi 你好 😀 é naïve 👩‍👧"
#: 你 in two tokens of GPT-2's spelling, and a letter.
PIECES = {"<unk>": 0, "a": 1, "ä½": 2, "ł": 3}
ANYTHING = SamplingOptions(temperature=20.0, seed=1)


def sentencepiece():
    """BPE that falls back to bytes, as SentencePiece's models do."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    words = [
        "<unk>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "\u2581",
        "h",
        "i",
        "n",
        "a",
        "v",
        "e",
        "é",
    ]
    vocabulary = {word: at for at, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(steps)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def tokens_of(tokenizer, text: str) -> list[Token]:
    names, detokenizer = Names(tokenizer), Detokenizer(tokenizer)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return [Token(i, detokenizer.push(i), names(i), 1 / (2 + at)) for at, i in enumerate(ids)]


@pytest.mark.parametrize(
    "make", [lambda: load_tokenizer(demo_model_path()), sentencepiece], ids=["bytes", "fallback"]
)
def test_pieces_are_bytes_and_make_up_the_character(make):
    tokens = tokens_of(make(), TEXT)
    assert "".join(token.text for token in tokens) == TEXT
    spelled = [token.name for token in tokens]
    assert {"<0xA0>", "<0xBD>"} <= set(spelled) and not any("ä" in name or "ð" in name for name in spelled)
    at = next(at for at, token in enumerate(tokens) if token.text == "你")
    assert (
        tokens[at - 1].text == ""
        and "".join(spelled[place] for place in character(tokens, at)) == "<0xE4><0xBD><0xA0>"
    )
    product = math.prod(tokens[place].probability for place in character(tokens, at))
    for place in character(tokens, at):  # any of them leads to all
        assert character(tokens, place) == character(tokens, at)
        assert probability(tokens, place) == pytest.approx(product)
    assert strength(tokens, at) == pytest.approx(min(1, -math.log(product) / 5))
    first = tokens[0]
    assert character(tokens, 0) == range(1) and probability(tokens, 0) == first.probability
    unmeasured = [Token(t.id, t.text, t.name, None) if i == at - 1 else t for i, t in enumerate(tokens)]
    assert probability(unmeasured, at) is None and strength(unmeasured, at) == 0


def test_no_name_of_a_vocabulary_is_mojibake():
    tokenizer = load_tokenizer(demo_model_path())
    names = Names(tokenizer)
    for token in range(len(tokenizer)):
        text = tokenizer.decode([token], clean_up_tokenization_spaces=False)
        if "\N{REPLACEMENT CHARACTER}" in text:
            assert "<0x" in names(token)
        elif text:
            assert names(token) == text


def test_bytes_are_spelled_where_they_are_no_text():
    assert spelled_bytes("é😀".encode()) == "é😀"
    assert spelled_bytes(b" \xf0\x9f\x98") == " <0xF0><0x9F><0x98>"
    assert spelled_bytes(b"\x80a\xe4\xbd") == "<0x80>a<0xE4><0xBD>"
    assert spelled_bytes("\N{REPLACEMENT CHARACTER}".encode()) == "\N{REPLACEMENT CHARACTER}"


@pytest.fixture(scope="module")
def pieces(tmp_path_factory) -> Model:
    """A random model over `PIECES`, on the references."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(PIECES, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    folder = tmp_path_factory.mktemp("pieces") / "pieces"
    write_random(folder, Shape("pieces", 32, 44, 4, 2, 8, vocab=len(PIECES)))
    for name in ("config.json", "generation_config.json"):  # nothing ends a text
        values = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(values | {"eos_token_id": None}))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(folder)
    return load(folder, backend="torch", max_tokens=64)


def whole_characters(tokens) -> list[int]:
    return [at for at, token in enumerate(tokens) if token.text == "你" and len(character(tokens, at)) == 2]


def test_a_text_as_html_has_the_probability_of_whole_characters(pieces):
    run = continue_prompt(pieces, "a", max_new_tokens=60, sampling=ANYTHING)
    tokens = run.continuations[0].tokens
    page = run._repr_html_()
    assert whole_characters(tokens) and "ä½" not in page
    for at in whole_characters(tokens):
        p = tokens[at - 1].probability * tokens[at].probability
        assert f"title='{p:.1%}'>你<" in page


@pytest.mark.browser
def test_the_page_shows_bytes_and_whole_characters(shown, pieces):
    widget = Generator(pieces, prompt="a", temperature=20, seed=1, max_new_tokens=60)
    with shown(widget) as bridge:
        page = bridge.page
        page.get_by_role("button", name="Generate").click()
        bridge.until("document.querySelector('.wb').dataset.state === 'done'")
        tokens = widget.run.continuations[0].tokens
        at = whole_characters(tokens)[0]
        together = f"{100 * tokens[at - 1].probability * tokens[at].probability:.1f} %"
        span = page.locator(f"[data-at='{at}']")
        assert span.get_attribute("aria-label") == f"你, {together}"
        for place, name in ((at, "<0xA0>"), (at - 1, "<0xE4><0xBD>")):
            page.locator(f"[data-at='{place}']").hover()
            assert page.locator(".wb-name").inner_text() == name
            says = page.locator(".wb-what").inner_text()
            assert f"part of 你, tokens {at - 1} to {at}, together {together}" in says
            assert f"probability {100 * tokens[place].probability:.1f} %" in says
        assert {"<0xE4><0xBD>", "<0xA0>", "a"} <= set(page.locator(".wb-likely bdi").all_inner_texts())
        assert "ä½" not in page.locator(".wb").inner_text()
