"""What a study takes from its model: what fits stays, what does not is cut and said; models share no folder."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from eval.protocols import protocol
from workbench.assets import demo_model_path
from workbench.errors import ProtocolError
from workbench.formats.text import parse_format
from workbench.model_bench.measure import Settings
from workbench.models.source import open_source
from workbench.studies.fitting import Study, fingerprint, fitted_protocol

NAMES = ["f16", "int8", "int4/32", "int4", "int4/256", "int2"]


@pytest.fixture
def narrow(tmp_path):
    """A study of a model with a context of 96 and rows of 64: of its configuration alone."""
    study = Study(demo_model_path(), "s", tmp_path)
    study.config = replace(study.config, context_length=96)
    study.narrowest = 64
    return study


@pytest.mark.parametrize(
    "name, fitting",
    [
        ("disjoint-512", "disjoint-96"),
        ("wikitext2-gptq-2048", "wikitext2-gptq-96"),
        ("hf-strided-512-256", "hf-strided-96-96"),
        ("hf-strided-512-32", "hf-strided-96-32"),
        ("llamacpp-512", "llamacpp-96"),
        ("disjoint-64", "disjoint-64"),
        ("lm-eval-wikitext", "lm-eval-wikitext-96"),
    ],
)
def test_windows_fit_the_context(name, fitting):
    found, note = fitted_protocol(name, 96)
    assert found == protocol(fitting) == found.within(96)
    expected = f"{fitting} in place of {name}: the model's context is 96 tokens"
    assert note == ("" if name in (fitting, "lm-eval-wikitext") else expected)


def test_an_odd_context_and_none():
    assert fitted_protocol("llamacpp-512", 97)[0].name == "llamacpp-96"
    with pytest.raises(ProtocolError, match="holds no window"):
        fitted_protocol("disjoint-512", 1)


def test_what_fits_stays_as_it_is():
    study = Study(demo_model_path(), "s")
    formats = list(map(parse_format, NAMES))
    wanted = Settings("disjoint-512", windows=3)
    assert study.settings(wanted) == wanted and study.formats(formats) == formats
    assert study.blocks([32, 256]) == [32, 256] and study.tokens(256, 32) == 256
    assert study.notes == [] and study.dtype == "f16" and study.middle_layer == 3
    assert str(study).startswith(
        "demo-model: 8 layers, hidden 256, context 512; results in runs/s/demo-model-"
    )


def test_what_does_not_fit_is_cut_and_said(narrow):
    settings = narrow.settings(Settings("disjoint-512", stream_tokens=40))
    assert (settings.scheme, settings.prompt_tokens) == ("disjoint-96", 56)
    assert [str(each) for each in narrow.formats(list(map(parse_format, NAMES)))] == [
        str(parse_format(name)) for name in NAMES if name != "int4/256"
    ]
    assert narrow.blocks([32, 64, 128, 256]) == [32, 64] and narrow.blocks([128, 256]) == [128]
    assert narrow.tokens(1000) == 96 and narrow.tokens(8, 500) == 1
    said = "\n".join(narrow.notes)
    for part in (
        "disjoint-96 in place",
        "56 tokens with 40 after them in place of 256",
        "without int4/256",
        "blocks of 32, 64 only",
    ):
        assert part in said and part in str(narrow)


def test_another_model_has_another_folder(tmp_path):
    copies = [tmp_path / name / "m" for name in ("a", "b", "c", "d")]
    for copy in copies:
        shutil.copytree(demo_model_path(), copy)
    weights = bytearray((copies[1] / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copies[1] / "model.safetensors").write_bytes(weights)
    weights[-1] ^= 1
    weights[len(weights) // 2 : len(weights) // 2 + (1 << 20)] = bytes(1 << 20)
    (copies[2] / "model.safetensors").write_bytes(weights)
    config = copies[3] / "config.json"
    config.write_text(config.read_text().replace('"rms_norm_eps": 1e-05', '"rms_norm_eps": 1e-06'))
    hashes = [fingerprint(open_source(copy)) for copy in copies]
    assert len(set(hashes)) == 4 and hashes[0] == fingerprint(open_source(demo_model_path()))
    assert Study(copies[0], "s", tmp_path).folder == tmp_path / "s" / f"m-{hashes[0][:8]}"
    assert Study(str(copies[1]), "s", tmp_path).folder.name == f"m-{hashes[1][:8]}"
