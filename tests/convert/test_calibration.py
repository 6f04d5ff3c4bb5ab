"""Calibration windows: drawn, clipped with a note, and known again by their record."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from eval.texts import encode, load_text
from tests.convert.conftest import TEXT
from tests.eval.conftest import byte_tokenizer
from workbench.convert.calibration import CalibrationOptions, load_calibration
from workbench.convert.methods import METHODS
from workbench.convert.options import ConvertOptions
from workbench.errors import WorkbenchError
from workbench.formats.spec import WeightFormat


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
    for name, method in METHODS.items():
        options = ConvertOptions(WeightFormat("int4"), quantizer=name)
        assert (options.calibration == CalibrationOptions()) == method.calibrated
        assert ("calibration" in options.to_json()) == method.calibrated
    with pytest.raises(WorkbenchError, match="steps are of quantizers that train"):
        ConvertOptions(WeightFormat("int4"), steps=10)
    with pytest.raises(WorkbenchError, match="calibration_inputs = 'both'; allowed: quantized, float"):
        ConvertOptions(WeightFormat("int4"), calibration_inputs="both")
