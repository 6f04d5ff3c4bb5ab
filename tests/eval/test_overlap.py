"""Calibration text is known again in the text that is scored, and only there."""

from __future__ import annotations

import base64
from dataclasses import replace

import numpy as np

from eval.overlap import MAX_HASHES, NGRAM, calibration_records, fingerprint, ngram_hashes, shared_windows
from eval.perplexity import perplexity
from eval.result import PerplexityResult
from eval.texts import Text, encode, load_text
from tests.eval.conftest import byte_tokenizer
from workbench.assets import calibration_text, evaluation_text

DRAWN = np.random.default_rng(0)


def test_hashes_are_of_the_ngrams_alone():
    ids = DRAWN.integers(0, 30_000, 500)
    hashes = ngram_hashes(ids)
    assert hashes.dtype == np.uint64 and len(hashes) == len(set(hashes.tolist())) == 500 - NGRAM + 1
    assert np.array_equal(ngram_hashes(ids[100:200]), hashes[100 : 201 - NGRAM])
    assert len(ngram_hashes(ids[: NGRAM - 1])) == 0
    swapped = ids[:NGRAM].copy()
    swapped[[3, 4]] = swapped[[4, 3]]
    assert ngram_hashes(swapped)[0] != hashes[0]


def test_shared_runs_are_found_wherever_they_stand():
    known = DRAWN.integers(0, 30_000, (40, 512))
    found = fingerprint(known)
    other = DRAWN.integers(0, 30_000, (5, 512))
    other[1, 7:407] = known[20, 100:500]
    other[4, -NGRAM + 1 :] = known[3, : NGRAM - 1]  # one token too few
    assert shared_windows(found, other) == [1]
    assert shared_windows(found, known) == list(range(40))


def test_fingerprints_stay_small():
    found = fingerprint(DRAWN.integers(0, 30_000, (64, 2048)))
    assert found["one_in"] in (64, 128)
    assert 0.4 * MAX_HASHES < len(base64.b64decode(found["hashes"])) / 8 <= MAX_HASHES
    assert fingerprint([[1, 2, 3]]) == {"ngram": NGRAM, "one_in": 1, "hashes": ""}


def test_the_embedded_texts_share_nothing():
    tokenizer = byte_tokenizer()
    # Bytes are the strictest tokens: 32 of them are a few words, so that more are taken to an n-gram.
    windows = [
        encode(tokenizer, load_text(path()), "disjoint-512", separator="<|endoftext|>").ids
        for path in (calibration_text, evaluation_text)
    ]
    assert shared_windows(fingerprint(windows[:1], n=128), windows[1:]) == []


def calibrated_on(text: Text, tokenizer) -> dict:
    tokens = encode(tokenizer, text, "disjoint-64")
    return {
        "text": text.to_json(),
        "tokenizer_sha256": tokens.tokenizer_sha256,
        "fingerprint": fingerprint(tokens.ids[: len(tokens) // 64 * 64].reshape(-1, 64)),
    }


def text_of(start: int, name: str) -> Text:
    return Text("".join(f"{n} squared is {n * n}. " for n in range(start, start + 60)), name=name)


def test_perplexities_carry_the_warning(tiny, tmp_path, monkeypatch):
    scored, other = text_of(0, "scored"), text_of(500, "other")
    for text, expected in ((other, 0), (replace(scored, content=scored.content + "."), 1), (scored, 2)):
        record = {"source": {"calibration": calibrated_on(text, tiny.tokenizer)}}
        monkeypatch.setattr(tiny, "describe_provenance", lambda record=record: record)
        result = perplexity(tiny, scored, "disjoint-64")
        assert len(result.warnings) == expected, result.warnings
        assert result.to_json()["warnings"] == list(result.warnings)
        result.save(tmp_path / "result.npz")
        assert PerplexityResult.load(tmp_path / "result.npz").warnings == result.warnings
    assert f"{result.windows} of {result.windows} windows share" in result.warnings[1]
    assert "calibrated on the text that is scored" in result.summary()


def test_another_tokenizer_is_said(tiny, monkeypatch):
    record = {"calibration": calibrated_on(text_of(500, "other"), byte_tokenizer(bos=False))}
    monkeypatch.setattr(tiny, "describe_provenance", lambda: {"source": record})
    [warning] = perplexity(tiny, text_of(0, "scored"), "disjoint-64").warnings
    assert "other unknown: it had another tokenizer" in warning


def test_records_are_found_behind_a_second_conversion():
    first = {"calibration": {"text": 1}, "source": {"name": "checkpoint", "sha256": {}}}
    second = {"calibration": {"text": 2}, "source": {"name": "first", "provenance": first}}
    assert [each["text"] for each in calibration_records({"source": second})] == [2, 1]
    assert list(calibration_records({"source": {"files": {}}})) == list(calibration_records({})) == []
