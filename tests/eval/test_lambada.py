"""Last words: against `transformers`, paired by hand, and from every kind of file."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import transformers

import workbench
from eval import lambada
from eval.documents import split_documents
from eval.lambada import LastWords, Passages, last_words, load_passages, pairs
from eval.texts import Dataset, load_text
from workbench.assets import STORY_SEPARATOR, demo_model_path, evaluation_text
from workbench.errors import ProtocolError


@pytest.fixture(scope="module")
def sentences() -> Passages:
    """First sentences of stories, which the embedded model sometimes knows how to end."""
    stories = split_documents(load_text(evaluation_text()).content, STORY_SEPARATOR)[:16]
    return Passages(tuple(story.partition(".")[0].replace("\n", " ") for story in stories), "sentences")


@pytest.fixture(scope="module")
def expected(sentences) -> list[bool]:
    """By `transformers`, each passage tokenized whole, the argmax at each token of the last word."""
    model = transformers.AutoModelForCausalLM.from_pretrained(demo_model_path(), dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(demo_model_path())
    found = []
    for text in sentences.texts:
        ids = tokenizer(text)["input_ids"]
        first = len(tokenizer(text.rsplit(" ", 1)[0])["input_ids"])
        with torch.no_grad():
            said = model(torch.tensor([ids])).logits[0].argmax(-1).tolist()
        found.append(said[first - 1 : -1] == ids[first:])
    return found


@pytest.mark.parametrize("backend", ["torch", "wgpu"])
def test_last_words_are_those_of_transformers(sentences, expected, backend, request):
    if backend == "wgpu":
        request.getfixturevalue("adapter")
    found = last_words(workbench.load(demo_model_path(), backend=backend), sentences)
    assert found.correct.tolist() == expected and 0 < sum(expected) < len(expected)
    assert found.accuracy == sum(expected) / 16 and found.truncated == 0
    share = found.accuracy
    assert found.se == pytest.approx(np.sqrt(share * (1 - share) / 15))


def test_what_does_not_fit_is_cut_on_the_left(sentences):
    model = workbench.load(demo_model_path(), backend="torch", max_tokens=6)
    found = last_words(model, sentences)
    cut = [([*context[-(7 - len(word)) :]], word) for context, word in pairs(model.tokenizer, sentences)]
    assert found.truncated == sum(len(c) + len(w) > 7 for c, w in pairs(model.tokenizer, sentences)) > 0
    assert found.correct.tolist() == last_words(model, sentences, cut).correct.tolist()
    with pytest.raises(
        ProtocolError, match="number 0: the last word has 9 tokens, more than the context of 6"
    ):
        last_words(model, Passages(("a word",)), [([1], list(range(1, 10)))])


def test_pairing_is_mcnemars():
    passages = Passages(("one two", "three four", "five six", "seven eight", "nine ten"))
    a, b = (LastWords(np.array(hits, bool), passages, 0, 0.0) for hits in ([1, 1, 1, 0, 0], [1, 0, 0, 1, 0]))
    found = a.against(b)
    assert (found.gained, found.lost, found.difference) == (2, 1, pytest.approx(0.2))
    assert found.se == pytest.approx(np.sqrt(((2 + 1) / 5 - 0.2**2) / 4)), (
        "(b + c - (b - c)^2 / n) / n / (n - 1)"
    )
    itself = a.against(a)
    assert (itself.difference, itself.se, itself.gained, itself.lost) == (0, 0, 0, 0)
    assert a.to_json(b)["baseline"]["difference"] == found.difference
    with pytest.raises(ProtocolError, match="cannot be paired"):
        a.against(LastWords(np.ones(1, bool), Passages(("one two",)), 0, 0.0))


def test_files_of_lines_and_of_json(tmp_path):
    texts = ["The owl sang", 'He said:\n\n"über" twice', "a | b"]
    (tmp_path / "p.jsonl").write_text(
        "\n".join(json.dumps({"text": text}) for text in texts) + "\n\n", "utf-8"
    )
    found = load_passages(tmp_path / "p.jsonl")
    assert found.texts == tuple(texts) and (found.name, found.available) == ("p.jsonl", 3)
    (tmp_path / "p.txt").write_text("The owl sang\r\n\n a | b\n", "utf-8")
    assert load_passages(tmp_path / "p.txt").texts == ("The owl sang", "a | b")
    first = load_passages(tmp_path / "p.jsonl", 1)
    assert first.texts == ("The owl sang",) and "1 passages, the first of 3" in str(first)
    assert first.sha256 == load_passages(tmp_path / "p.txt", 1).sha256 != found.sha256


@pytest.mark.parametrize(
    "content, error",
    [
        ('{"text": "a b"}\n{"txt": 1}', "line 2: is no JSON object with"),
        ("[1", "line 1: is no JSON object with"),
        ('{"text": 5}', "number 0: is a int"),
        ('{"text": "word"}', "number 0: a passage ends with a space and a word to predict, not 'word'"),
        ('{"text": "a "}', "number 0: a passage ends with"),
        ("\n\n{}", "line 3"),
    ],
)
def test_damaged_files_say_where(tmp_path, content, error):
    (tmp_path / "p.jsonl").write_text(content, "utf-8")
    with pytest.raises((ProtocolError, workbench.errors.TextError), match=error):
        load_passages(tmp_path / "p.jsonl")


def test_what_is_neither_a_file_nor_the_dataset_is_refused(tmp_path):
    with pytest.raises(
        ProtocolError, match="there is no such file; allowed: a file, or the dataset 'lambada'"
    ):
        load_passages(tmp_path / "lambda")
    with pytest.raises(ProtocolError, match="0 passages; allowed: at least 1"):
        load_passages(tmp_path / "lambda", 0)


def test_the_dataset_through_datasets(tmp_path, monkeypatch):
    """From a parquet file in a folder, in place of the hub's repository."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows").mkdir()
    rows = datasets.Dataset.from_dict({"text": ["one two", "three\n\nfour five", "six seven"]})
    rows.to_parquet(tmp_path / "rows" / "test-00000-of-00001.parquet")
    monkeypatch.setattr(lambada, "DATASET", Dataset(str(tmp_path / "rows"), None, "test", "text", ""))
    found = load_passages("lambada", 2)
    assert found.texts == ("one two", "three\n\nfour five") and found.to_json()["split"] == "test"


def test_lambada_itself(shared):
    """The published file has 5,153 passages, and each ends with a word."""
    found = load_passages(shared / "data" / "lambada_test.jsonl")
    assert len(found.texts) == 5153
