from __future__ import annotations

import hashlib
import logging
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval import inputs, texts
from eval.protocols import protocol
from eval.texts import (
    WIKITEXT2_JOINED_SHA256,
    Text,
    encode,
    join_rows,
    load_dataset_text,
    load_text,
    split_documents,
    tokenizer_sha256,
)
from tests.eval.conftest import byte_tokenizer
from workbench.errors import ProtocolError

ROWS = ["", " = Title = \n", "", " First row . \n", " Second row \u2028 goes on . \n"]


def test_a_file_is_read_as_it_is(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes("Zeile\r\nüber\n".encode())
    text = load_text(path)
    assert text.content == "Zeile\r\nüber\n"
    assert text.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (text.name, text.bytes, text.dataset) == ("text.txt", 13, None)


def test_unreadable_files_say_why(tmp_path):
    with pytest.raises(ProtocolError, match=r"none\.txt: cannot be read"):
        load_text(tmp_path / "none.txt")
    (tmp_path / "latin.txt").write_bytes("größer".encode("latin-1"))
    with pytest.raises(ProtocolError, match=r"byte 2 \(0xF6\) is not UTF-8"):
        load_text(tmp_path / "latin.txt")
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(ProtocolError, match="is empty"):
        load_text(tmp_path / "empty.txt")


def test_joining_a_file_of_rows_is_joining_the_rows():
    raw = "".join(row or " \n" for row in ROWS)
    assert join_rows(raw) == "\n\n".join(ROWS)


def test_a_dataset_and_its_file_give_one_text(tmp_path, monkeypatch):
    """Through `datasets` itself, from a parquet file in a folder."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "rows").mkdir()
    datasets.Dataset.from_dict({"text": ROWS}).to_parquet(tmp_path / "rows" / "test-00000-of-00001.parquet")
    spec = texts.Dataset(str(tmp_path / "rows"), None, "test", "text", "\n\n")
    monkeypatch.setitem(texts.DATASETS, "rows", spec)
    text = load_dataset_text("rows")
    assert text.content == join_rows("".join(row or " \n" for row in ROWS))
    assert text.joined and text.split == "test"
    with pytest.raises(ProtocolError, match="allowed: rows, tinystories, wikitext2"):
        load_dataset_text("wikitext3")
    (tmp_path / "empty").mkdir()
    monkeypatch.setitem(
        texts.DATASETS, "gone", texts.Dataset(str(tmp_path / "empty"), None, "test", "text", "")
    )
    with pytest.raises(ProtocolError, match="could not be loaded"):
        load_dataset_text("gone")


def test_wikitext2_is_joined_once_and_recognised(shared, wikitext2_tokens):
    raw, tokens = load_text(shared / "data" / "wiki.test.raw"), wikitext2_tokens
    assert len(tokens) == 815_066
    assert tokens.text["sha256"] == WIKITEXT2_JOINED_SHA256
    assert (tokens.text["dataset"], tokens.text["split"]) == ("Salesforce/wikitext/wikitext-2-raw-v1", "test")
    assert tokens.token_bytes.sum() == tokens.text["bytes"] == 1_296_370
    joined = Text(join_rows(raw.content))
    assert joined.joined and joined.sha256 == WIKITEXT2_JOINED_SHA256


def test_the_protocol_decides_whether_rows_are_joined():
    raw = "".join(row or " \n" for row in ROWS)
    plain = encode(byte_tokenizer(), raw, "disjoint-8")
    joined = encode(byte_tokenizer(), raw, "wikitext2-gptq-8")
    assert len(plain) == 1 + len(raw.encode())
    assert len(joined) == 1 + len("\n\n".join(ROWS).encode())
    rejoined = encode(byte_tokenizer(), Text("\n\n".join(ROWS), joined=True), "wikitext2-gptq-8")
    assert np.array_equal(joined.ids, rejoined.ids)


def test_a_text_longer_than_the_context_is_tokenized_without_a_word(prose, caplog):
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        tokens = encode(byte_tokenizer(), prose, "disjoint-32")
        assert not caplog.records
        byte_tokenizer()(prose)
        assert "longer than the specified maximum" in caplog.text, "the plain call is what would have warned"
    finally:
        logger.removeHandler(caplog.handler)
    assert len(tokens) == 1 + len(prose.encode())


def test_bos_stands_where_the_tokenizer_puts_it(prose):
    with_bos, without = byte_tokenizer(), byte_tokenizer(bos=False)
    first = encode(with_bos, prose, "disjoint-32")
    assert first.ids[0] == 0 and np.count_nonzero(first.ids == 0) == 1
    assert first.bos_policy == "once, by the tokenizer"
    second = encode(without, prose, "disjoint-32")
    assert np.array_equal(second.ids, first.ids[1:])
    assert second.bos_policy == "none"
    each = encode(with_bos, prose, "llamacpp-32")
    assert (each.bos, each.bos_policy) == (0, "in place of the first token of each window")


def test_llamacpp_writes_bos_only_where_the_tokenizer_adds_one(prose):
    """As llama.cpp's `add_bos`: a tokenizer may have a BOS token and not use it (SmolLM2's has)."""
    unused = byte_tokenizer(bos=False)
    unused.add_special_tokens({"bos_token": "<s>"})
    for scheme in ("llamacpp-32", "disjoint-32"):  # tokens made for another protocol are read alike
        tokens = inputs.tokens(
            SimpleNamespace(tokenizer=unused), encode(unused, prose, scheme), protocol("llamacpp-32"), None
        )
        assert (tokens.bos, tokens.bos_policy) == (None, "none")
        windows = protocol("llamacpp-32").windows(tokens.ids, bos=tokens.bos)
        assert [w.ids[0] for w in windows] == [tokens.ids[w.start] for w in windows]
    with_bos = encode(byte_tokenizer(), prose, "disjoint-32").for_windows_of(protocol("llamacpp-32"))
    assert (with_bos.bos, with_bos.bos_policy) == (0, "in place of the first token of each window")


def test_documents_are_stripped_begin_with_bos_and_follow_each_other():
    tokenizer = byte_tokenizer()
    content = "\n one tale\n<|x|>\n\n<|x|>über \n<|x|>three"
    tokens = encode(tokenizer, content, "disjoint-4", separator="<|x|>")
    expected = []
    for document in ("one tale", "über", "three"):
        expected += [0, *tokenizer(document, add_special_tokens=False)["input_ids"]]
    assert tokens.ids.tolist() == expected
    assert (tokens.documents, tokens.separator, tokens.bos_policy) == (3, "<|x|>", "before each document")
    assert tokens.token_bytes.sum() == len("one taleüberthree".encode())
    assert tokens.token_bytes[tokens.ids == 0].sum() == 0


def test_separators_are_refused_where_they_mean_nothing(prose):
    tokenizer = byte_tokenizer()
    for name in ("wikitext2-gptq-8", "llamacpp-8"):
        with pytest.raises(ProtocolError, match="takes no document separator; allowed: disjoint-L"):
            encode(tokenizer, prose, name, separator=" ")
    with pytest.raises(ProtocolError, match="no BOS token"):
        encode(byte_tokenizer(bos=False), prose, "disjoint-8", separator=" ")
    with pytest.raises(ProtocolError, match="'<none>' does not occur"):
        encode(tokenizer, prose, "disjoint-8", separator="<none>")
    with pytest.raises(ProtocolError, match="holds no document"):
        encode(tokenizer, " | | ", "disjoint-8", separator="|")
    with pytest.raises(ProtocolError, match="separator is empty"):
        split_documents(prose, "")


@settings(max_examples=60, deadline=None)
@given(content=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60))
def test_token_bytes_add_up_to_the_text(content):
    tokens = encode(byte_tokenizer(), content, "disjoint-4")
    assert len(tokens) == 1 + len(content.encode())
    # The first byte token of each character carries all its bytes.
    expected = [0] + [s for c in content for s in [len(c.encode())] + [0] * (len(c.encode()) - 1)]
    assert tokens.token_bytes.tolist() == expected


def test_token_bytes_of_a_trained_tokenizer(stories260k, prose):
    tokens = encode(stories260k.tokenizer, prose, "disjoint-4")
    assert tokens.token_bytes.sum() == len(prose.encode())
    assert (tokens.token_bytes >= 0).all() and tokens.token_bytes[0] == 0


def test_a_tokenizer_is_known_by_what_it_does():
    one, other = byte_tokenizer(), byte_tokenizer()
    other("some text", truncation=True, max_length=3)  # leaves its truncation behind in the backend
    assert tokenizer_sha256(one) == tokenizer_sha256(other)
    assert tokenizer_sha256(one) != tokenizer_sha256(byte_tokenizer(bos=False))


def test_a_text_that_knows_its_separator_is_cut_into_documents():
    tokenizer = byte_tokenizer()
    content = "Once upon a time.\n<|endoftext|>\nThere was a dog."
    known = encode(tokenizer, Text(content, separator="<|endoftext|>"), "disjoint-8")
    given = encode(tokenizer, Text(content), "disjoint-8", separator="<|endoftext|>")
    assert known.ids.tolist() == given.ids.tolist()
    assert known.ids.tolist() != encode(tokenizer, Text(content), "disjoint-8").ids.tolist()
