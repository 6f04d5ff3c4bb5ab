"""Tokenizers: loaded from local files alone, with what decides BOS, the end of a text, and the identity."""

from __future__ import annotations

import json
import shutil

import pytest

from workbench.errors import CheckpointError
from workbench.models.tokenizer import end_of_text_ids, load_tokenizer, prepends_bos, tokenizer_hash


@pytest.fixture(scope="module")
def stories(shared):
    return shared / "models" / "stories260K-hf"


def test_ids_are_those_of_sentencepiece(stories):
    import sentencepiece

    original = sentencepiece.SentencePieceProcessor(model_file=str(stories / "tokenizer.model"))
    text = "Once upon a time, Lily saw a café. 🎉"
    assert load_tokenizer(stories)(text).input_ids == [original.bos_id(), *original.encode(text)]


def test_bos_is_seen_in_what_the_tokenizer_does(stories, tmp_path):
    assert prepends_bos(load_tokenizer(stories))
    data = json.loads((stories / "tokenizer.json").read_text())
    data["post_processor"] = None
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "add_bos_token": False})
    )
    assert not prepends_bos(load_tokenizer(tmp_path))


@pytest.mark.parametrize(
    ("generation", "config", "expected"),
    [
        ({"eos_token_id": [5, 6]}, {"eos_token_id": 2}, {5, 6}),
        ({}, {"eos_token_id": 7}, {7}),
        (None, {"eos_token_id": [7, 8]}, {7, 8}),
        (None, {}, {2}),
        ({"eos_token_id": 0}, {"eos_token_id": 3}, {0}),
    ],
)
def test_ends_of_a_text(stories, tmp_path, generation, config, expected):
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    assert end_of_text_ids(tmp_path, config, load_tokenizer(stories)) == expected


def test_hash_follows_the_defining_files_alone(stories, tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(stories / name, tmp_path / name)
    first = tokenizer_hash(tmp_path)
    (tmp_path / "generation_config.json").write_text("{}")
    assert tokenizer_hash(tmp_path) == first
    (tmp_path / "tokenizer.json").write_text((tmp_path / "tokenizer.json").read_text() + " ")
    assert tokenizer_hash(tmp_path) != first


def test_missing_and_broken_files_are_named(tmp_path):
    with pytest.raises(CheckpointError, match="no tokenizer files"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_tokenizer(tmp_path)
