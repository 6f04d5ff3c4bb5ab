"""Tokenizers: loaded from local files alone, with what decides BOS, the end of a text, and the identity."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys

import pytest

from workbench.errors import CheckpointError, UnsupportedModelError
from workbench.models.tokenizer import (
    SENTENCEPIECE,
    end_of_text_ids,
    load_tokenizer,
    prepends_bos,
    tokenizer_hash,
)


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


DEEP: list = []
for _ in range(200):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    "value", ["</s>", [[2]], [2, "3"], 2.0, True, [True], {"a": 1}, 2**70, DEEP], ids=str
)
def test_ends_of_another_type_are_refused_by_name(tmp_path, value):
    with pytest.raises(UnsupportedModelError, match=r"config.json: eos_token_id is .* allowed: a token id"):
        end_of_text_ids(tmp_path, {"eos_token_id": value})
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": value}))
    with pytest.raises(
        UnsupportedModelError, match=r"generation_config.json: eos_token_id is .* a list of token"
    ):
        end_of_text_ids(tmp_path, {})


@pytest.mark.parametrize(
    "content",
    [b"[]", b"{", b"2", b"", b"\xff\xfe", b"null", b"[" * 100_000, b'{"eos_token_id": ' + b"9" * 5000 + b"}"],
)
def test_generation_settings_that_are_no_object_are_refused_by_name(tmp_path, content):
    (tmp_path / "generation_config.json").write_bytes(content)
    with pytest.raises(
        CheckpointError, match=r"generation_config.json: (not readable as JSON|expected a JSON object)"
    ):
        end_of_text_ids(tmp_path, {})


@pytest.mark.parametrize(
    "change",
    [
        {"tokenizer_class": "LlamaTokenizer"},
        {"tokenizer_class": "LlamaTokenizerFast"},
        {"tokenizer_class": "PreTrainedTokenizerFast"},
        {"tokenizer_class": None},
    ],
    ids=str,
)
@pytest.mark.parametrize("with_config", [True, False])
def test_sentencepiece_alone_gives_its_ids(stories, tmp_path, change, with_config):
    import sentencepiece

    for name in ("tokenizer.model", *(("config.json",) if with_config else ())):
        shutil.copy(stories / name, tmp_path / name)
    config = json.loads((stories / "tokenizer_config.json").read_text()) | change
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({k: v for k, v in config.items() if v is not None})
    )
    original = sentencepiece.SentencePieceProcessor(model_file=str(stories / "tokenizer.model"))
    text = "Once upon a time, Lily saw a café. 🎉"
    assert load_tokenizer(tmp_path)(text).input_ids == [original.bos_id(), *original.encode(text)]


@pytest.mark.parametrize("package", SENTENCEPIECE)
def test_sentencepiece_alone_says_what_is_missing(tmp_path, monkeypatch, package):
    (tmp_path / "tokenizer.model").write_bytes(b"not read")
    monkeypatch.setitem(sys.modules, SENTENCEPIECE[package], None)
    with pytest.raises(CheckpointError, match=rf"missing: {package} \(pip install {package}\)"):
        load_tokenizer(tmp_path)


MARKING = """
from pathlib import Path
Path({mark!r}).touch()
from transformers import LlamaConfig, PreTrainedTokenizerFast
class Mine(PreTrainedTokenizerFast): pass
class Config(LlamaConfig): model_type = "mine"
"""


@pytest.mark.parametrize("answer", ["y", "yes", EOFError()])
@pytest.mark.parametrize(
    "files",
    [
        {
            "tokenizer_config.json": {
                "tokenizer_class": "Mine",
                "auto_map": {"AutoTokenizer": ["mine.Mine", None]},
            }
        },
        {"tokenizer_config.json": {"tokenizer_class": "Mine", "auto_map": ["mine.Mine", "mine.Mine"]}},
        {
            "tokenizer_config.json": {
                "tokenizer_class": "Mine",
                "auto_map": {"AutoTokenizer": [None, "mine.Mine"]},
            },
            "tokenizer.json": None,
        },
        {
            "config.json": {
                "model_type": "mine",
                "auto_map": {"AutoConfig": "mine.Config", "AutoTokenizer": ["mine.Mine", None]},
            }
        },
        {
            "config.json": {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}},
            "tokenizer.json": None,
        },
    ],
    ids=str,
)
def test_code_that_comes_with_a_tokenizer_is_never_run(stories, tmp_path, monkeypatch, files, answer):
    """Whether the tokenizer loads without it or is refused: nobody is asked, and no mark is left."""
    folder, mark, asked = tmp_path / "model", tmp_path / "mark", []
    folder.mkdir()
    shutil.copy(stories / "tokenizer.model", folder)
    for name, content in files.items():
        if content is None:
            shutil.copy(stories / name, folder)
        else:
            (folder / name).write_text(json.dumps(content))
    (folder / "mine.py").write_text(MARKING.format(mark=str(mark)))

    def ask(prompt=""):
        asked.append(prompt)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr("builtins.input", ask)
    with contextlib.suppress(CheckpointError):
        assert load_tokenizer(folder)("Once").input_ids
    assert not asked and not mark.exists()


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


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},  # a panic in Rust
        {"normalizer": {"type": "Replace", "pattern": {"Regex": "("}, "content": ""}},
        {"model": {"type": "Unigram", "vocab": [], "unk_id": 0}},
        {
            "post_processor": {  # loads, and panics at the first text
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}],
                "pair": [],
                "special_tokens": {},
            }
        },
    ],
    ids=str,
)
def test_tokenizers_that_break_inside_are_named(stories, tmp_path, change):
    data = json.loads((stories / "tokenizer.json").read_text()) | change
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with pytest.raises(CheckpointError, match=f"{tmp_path}: the tokenizer cannot be loaded"):
        load_tokenizer(tmp_path)
