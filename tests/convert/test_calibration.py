"""Calibration windows: drawn, clipped with a note, and known again by their record."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re

import numpy as np
import pytest

import workbench
from eval.statistics import clustered_se, divergence
from eval.texts import encode, load_text
from tests.convert.conftest import TEXT, small_checkpoint
from tests.eval.conftest import byte_tokenizer
from workbench.assets import demo_model_path
from workbench.convert.calibration import CalibrationOptions, load_calibration, of_other_words
from workbench.convert.check import Verdict
from workbench.convert.convert import convert
from workbench.convert.options import ConvertOptions
from workbench.errors import WorkbenchError, WorkbenchWarning
from workbench.formats.spec import WeightFormat
from workbench.formats.text import parse_format
from workbench.quantizers import QUANTIZERS


def test_windows_are_drawn_from_the_disjoint_ones_of_the_text(text):
    stream = encode(byte_tokenizer(), load_text(text), "disjoint-32").ids
    disjoint = {tuple(stream[i : i + 32]) for i in range(0, len(stream) - 31, 32)}
    found = load_calibration(CalibrationOptions(str(text), 10, 32, seed=5), byte_tokenizer(), 64)
    assert found.ids.shape == (10, 32) and found.notes == ()
    assert len({tuple(window) for window in found.ids} & disjoint) == 10
    again = load_calibration(CalibrationOptions(str(text), 10, 32, seed=5), byte_tokenizer(), 64)
    other = load_calibration(CalibrationOptions(str(text), 10, 32, seed=6), byte_tokenizer(), 64)
    assert np.array_equal(found.ids, again.ids) and not np.array_equal(found.ids, other.ids)
    record = found.record
    assert record["text"]["sha256"] == hashlib.sha256(TEXT.encode()).hexdigest()
    assert record["tokens_sha256"] == hashlib.sha256(found.ids.astype("<i8").tobytes()).hexdigest()
    assert record["windows"] == 10 and record["windows_available"] == len(stream) // 32


def test_what_is_clipped_is_said(text, tmp_path):
    found = load_calibration(CalibrationOptions(str(text), 10_000, 2048), byte_tokenizer(), 64)
    assert found.ids.shape[1] == 64 and found.ids.shape[0] == found.record["windows_available"]
    assert "the model's context" in found.notes[0] and "all of the text" in found.notes[1]
    (tmp_path / "short.txt").write_text("ten chars.")
    found = load_calibration(CalibrationOptions(str(tmp_path / "short.txt"), 1, 32), byte_tokenizer(), 64)
    assert found.ids.shape == (1, 11) and "the whole text" in found.notes[0]
    assert found.record["notes"] == list(found.notes)


def test_documents_begin_with_bos():
    found = load_calibration(CalibrationOptions(windows=50, length=64), byte_tokenizer(), 64)
    assert found.record["separator"] == "<|endoftext|>" and (found.ids == 0).sum() > 1


def test_embedded_stories_are_said_to_suit_the_embedded_model_and_waits_are_told(tmp_path, capsys):
    """Before the first layer, which a tied embedding has wait for a run of the whole model."""
    stories = CalibrationOptions(windows=2, length=16)
    source = small_checkpoint(tmp_path / "source", tie_word_embeddings=True)
    options = ConvertOptions(parse_format("int4/32"), quantizer="gptq", calibration=stories)
    with pytest.warns(WorkbenchWarning, match="embedded text 'calibration', children's stories"):
        convert(source, tmp_path / "out", options, progress=True)
    assert "embedding, which is the LM head too: unquantized layer 2/2" in capsys.readouterr().err
    assert of_other_words(stories, demo_model_path()) is None
    assert of_other_words(CalibrationOptions(str(tmp_path / "mine.txt")), source) is None


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"windows": 0}, "windows = 0"),
        ({"length": 1}, "length = 1"),
        ({"seed": -1}, "seed = -1"),
        ({"windows": 2.5}, "windows = 2.5"),
    ],
)
def test_options_are_checked(options, match):
    with pytest.raises(WorkbenchError, match=match):
        CalibrationOptions(**options)


def test_texts_are_checked(tmp_path):
    with pytest.raises(
        WorkbenchError, match="neither a file nor an embedded text; allowed: a file, calibration"
    ):
        load_calibration(CalibrationOptions(str(tmp_path / "none.txt")), byte_tokenizer(), 64)
    (tmp_path / "blank.txt").write_text(" \n")
    with pytest.raises(WorkbenchError, match="is empty"):
        load_calibration(CalibrationOptions(str(tmp_path / "blank.txt")), byte_tokenizer(), 64)


def test_methods_that_need_data_get_the_embedded_text():
    for name, method in QUANTIZERS.items():
        options = ConvertOptions(WeightFormat("int4"), quantizer=name)
        assert (options.calibration == CalibrationOptions()) == bool(method.needs)
        assert ("calibration" in options.to_json()) == bool(method.needs)
    with pytest.raises(WorkbenchError, match="steps are of quantizers that train"):
        ConvertOptions(WeightFormat("int4"), steps=10)
    with pytest.raises(WorkbenchError, match="calibration_inputs = 'both'; allowed: quantized, float"):
        ConvertOptions(WeightFormat("int4"), calibration_inputs="both")


def test_ids_beyond_the_vocabulary_are_refused_by_every_quantizer_that_learns(tmp_path, text):
    source = small_checkpoint(tmp_path / "source", vocab_size=200)  # the tokenizer has 259
    for name, method in QUANTIZERS.items():
        if method.needs:
            options = ConvertOptions(
                WeightFormat("int4"), quantizer=name, calibration=CalibrationOptions(str(text))
            )
            with pytest.raises(
                WorkbenchError, match=r"calibration: token id \d+ at place \d+ is outside the vocab.* of 200"
            ):
                convert(source, tmp_path / "out", options)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_one_id_beyond_the_vocabulary_is_enough(tmp_path):
    """Also in the windows that only judge the outcome."""
    source = small_checkpoint(tmp_path / "source", vocab_size=258)
    file = tmp_path / "text.txt"
    file.write_text("plain text, " * 20 + "\N{LATIN SMALL LETTER I WITH ACUTE}" + " and more text" * 3)
    assert byte_tokenizer()(file.read_text())["input_ids"].count(258) == 1
    for windows in (1, 1000):
        options = CalibrationOptions(str(file), windows=windows, length=16)
        with pytest.raises(
            WorkbenchError, match=r"token id 258 at place \d+ is outside the vocabulary of 258"
        ):
            convert(
                source, tmp_path / "out", ConvertOptions(WeightFormat("int4"), "gptq", calibration=options)
            )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a" * 400, r"all \d+ tokens are alike \(id \d+\)"),
        ("abc " * 100, r"its tokens repeat themselves \(\d different runs of 8 among"),
        ("".join(f"{n} squared is {n * n}. " for n in range(40)), None),
    ],
)
def test_a_text_that_says_the_same_over_and_over_is_noted(tmp_path, text, said):
    (tmp_path / "text.txt").write_text(text)
    found = load_calibration(CalibrationOptions(str(tmp_path / "text.txt"), 10, 32), byte_tokenizer(), 64)
    notes = [note for note in found.notes if "holds for no other text" in note]
    assert bool(notes) == (said is not None)
    if said:
        assert re.search(said, notes[0]) and notes == [
            note for note in found.record["notes"] if note in notes
        ]


def test_windows_that_were_not_drawn_judge_the_outcome(text):
    found = load_calibration(CalibrationOptions(str(text), 10, 32), byte_tokenizer(), 64)
    assert found.check.shape == (16, 32)  # 512 tokens
    assert not {tuple(window) for window in found.check} & {tuple(window) for window in found.ids}
    short = load_calibration(CalibrationOptions(str(text), 10_000, 64), byte_tokenizer(), 64)
    assert {tuple(window) for window in short.check} <= {tuple(window) for window in short.ids}


@pytest.mark.parametrize(
    ("tied", "quantizer", "inputs"), [(False, "awq", "quantized"), (True, "gptq", "float")]
)
def test_the_outcome_is_that_of_the_models_beside_each_other(tmp_path, calibration, tied, quantizer, inputs):
    source = small_checkpoint(tmp_path / "source", tie_word_embeddings=tied)
    fmt = WeightFormat("int4", block_size=32)
    options = ConvertOptions(fmt, quantizer=quantizer, calibration=calibration, calibration_inputs=inputs)
    convert(source, tmp_path / "learned", options)
    convert(source, tmp_path / "nearest", ConvertOptions(fmt))
    manifest = json.loads((tmp_path / "learned" / "manifest.json").read_text())
    told = manifest["provenance"]["calibration"]["against_rtn"]
    check = load_calibration(calibration, byte_tokenizer(), 32).check
    models = [
        workbench.load(path, backend="torch") for path in (source, tmp_path / "learned", tmp_path / "nearest")
    ]
    logits = [np.concatenate([each.forward(window).logits for window in check]) for each in models]
    unread = np.zeros(check.size, np.int64)
    kl, plain = (divergence(each, logits[0], unread).kl for each in logits[1:])
    assert told["kl"] == pytest.approx(kl.mean(), rel=1e-4)
    assert told["kl_nearest"] == pytest.approx(plain.mean(), rel=1e-4)
    assert told["excess"] == pytest.approx((kl - plain).mean(), rel=1e-3)
    assert told["tokens"] == check.size and told["quantizer"] == quantizer
    window = np.repeat(np.arange(len(check)), check.shape[1])
    assert len(check) > 1 and told["excess_se_clustered"] == pytest.approx(
        clustered_se(kl - plain, window), rel=1e-3
    )


def test_ending_worse_than_round_to_nearest_is_noted():
    worse = Verdict("awq", 512, kl=0.31, kl_nearest=0.25, excess=0.06, excess_se=0.01)
    assert worse.note.startswith(
        "awq ends worse than round to nearest would: a KL of 0.31 nats a token in place of 0.25"
    )
    assert dataclasses.replace(worse, excess=-0.06).note is None
    assert "+0.06 ± 0.02 on" in (dataclasses.replace(worse, excess_se_clustered=0.02).note or "")
    for error in ("excess_se", "excess_se_clustered"):
        assert dataclasses.replace(worse, **{error: 0.1}).note is None  # no more than chance
