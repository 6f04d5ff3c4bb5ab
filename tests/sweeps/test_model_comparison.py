"""Versions of one model side by side: a model against itself, planted differences, and the command."""

from __future__ import annotations

import csv
import io
import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.text import Text
from safetensors.torch import load_file, save_file

import workbench
from eval.lambada import Passages
from eval.texts import load_text
from tests.eval.conftest import byte_tokenizer
from workbench import cli
from workbench.commands.compare_models import named
from workbench.convert.convert import convert
from workbench.convert.options import ConvertOptions
from workbench.errors import ProtocolError, SweepError
from workbench.formats.spec import WeightFormat
from workbench.model_bench.measure import Settings
from workbench.runtime.device import adapter_missing
from workbench.show.figures import Bounds
from workbench.sweeps.rows import rows_of
from workbench.sweeps.table import table

SETTINGS = Settings("disjoint-32", windows=24, prompt_tokens=16, decode_tokens=4, repetitions=2)
PASSAGES = Passages(tuple(f"the owl sang and the river sang {word}" for word in ("a", "owl", "stone", "and")))


@pytest.fixture(scope="module")
def versions(materials, tmp_path_factory):
    """The random checkpoint as it is, a copy of it, and in two formats."""
    folder = tmp_path_factory.mktemp("versions")
    shutil.copytree(materials.model, folder / "copy")
    for dtype in ("int8", "int2"):
        options = ConvertOptions(WeightFormat(dtype, block_size=32))
        convert(materials.model, folder / dtype, options)
    return {"base": materials.model, **{name: folder / name for name in ("copy", "int8", "int2")}}


@pytest.fixture(scope="module")
def found(versions, materials, one_thread):
    text = load_text(materials.text)
    return workbench.compare_models(versions, "base", text, SETTINGS, passages=PASSAGES, backend="torch")


def test_a_model_against_itself_is_exactly_nothing(found):
    copy = found.versions[1]
    paired = copy.result.baseline
    assert copy.name == "copy" and copy.note == ""
    assert paired.ln_ratio == paired.ln_ratio_se == paired.difference_rms == paired.delta_p_rms == 0
    assert set(paired.kl.values()) == set(paired.delta_p_quantiles.values()) == {0}
    assert paired.same_top1 == 1
    words = copy.last_words.against(found.baseline.last_words)
    assert (words.difference, words.se, words.gained, words.lost) == (0, 0, 0, 0)


def test_quantiles_are_those_of_the_tokens(found):
    base, int2 = found.baseline.result, found.versions[3].result
    change = np.exp(-int2.token_nll) - np.exp(-base.token_nll)
    for name, share in (("p0.1", 0.001), ("median", 0.5), ("p99.9", 0.999)):
        assert int2.baseline.delta_p_quantiles[name] == pytest.approx(np.quantile(change, share), abs=1e-12)


def test_fewer_bits_lose_more(found):
    _, _, eight, two = found.versions
    assert eight.bits_per_weight > two.bits_per_weight and eight.file_bytes > two.file_bytes
    for name in ("median", "p90", "p99", "max"):
        assert two.result.baseline.kl[name] > 10 * eight.result.baseline.kl[name] > 0
    assert two.result.baseline.delta_p_rms > eight.result.baseline.delta_p_rms > 0


def test_a_planted_difference_is_found(versions, materials, tmp_path, one_thread):
    """A model made to know the last word of a passage gains exactly that, and is noted as another one."""
    planted = tmp_path / "planted"
    shutil.copytree(materials.model, planted)
    weights = load_file(planted / "model.safetensors")
    base = workbench.load(materials.model, backend="torch")
    ids = [int(t) for t in base.tokenizer("the owl sang a").input_ids]
    states = base.forward(ids, keep=["final"]).kept["final"]
    for place in (-3, -2):  # the space and the letter: rows of the LM head that point where the state does
        weights["lm_head.weight"][ids[place + 1]] = torch.from_numpy(states[place] * 100)
    save_file(weights, planted / "model.safetensors")
    found = workbench.compare_models(
        {"base": materials.model, "planted": planted},
        "base",
        load_text(materials.text),
        Settings("disjoint-32", windows=2),
        passages=Passages(("the owl sang a",) * 3),
        speed=False,
        backend="torch",
    )
    words = found.versions[1].last_words.against(found.baseline.last_words)
    assert (words.difference, words.gained, words.lost) == (1, 3, 0)
    assert found.versions[1].note == "other weights than those of base; nothing says what they were made from"


def test_one_table_in_every_format(found, tmp_path):
    found.save(tmp_path / "found.json")
    kept = table(tmp_path / "found.json", detailed=True)
    shown = found.table()
    assert {row.model for row in kept.rows} == {row.model for row in shown.rows}
    assert all(f"| {head}" in str(shown) for head in ("KL p99.9, nats", "Δp RMS, %", "its paired change"))
    assert "KL p99" not in table(tmp_path / "found.json").markdown()
    [int2] = [row for row in csv.DictReader(io.StringIO(shown.format("csv"))) if row["model"] == "int2"]
    figures = found.versions[3].result.baseline
    assert (
        float(int2["kl_p99.9"]) == figures.kl["p99.9"] and float(int2["delta_p_rms"]) == figures.delta_p_rms
    )
    assert float(int2["last_word_accuracy"]) == found.versions[3].last_words.accuracy
    assert json.loads(shown.format("json"))["rows"][3]["delta_p_p0.1"] == figures.delta_p_quantiles["p0.1"]
    assert list(found.data().model) == ["base", "copy", "int8", "int2"]
    assert "<table onclick" in found._repr_html_() and r"$\Delta$p RMS" in shown.format("latex")
    assert "4 passages; times are a CPU's, not a GPU's" in shown.caption
    assert all(row.decode > 0 and row.on_cpu for row in shown.rows)
    record = json.loads((tmp_path / "found.json").read_text("utf-8"))
    assert record["models"][2]["perplexity"]["provenance"]["source"]["quantizer"] == "rtn"
    assert record["models"][0]["model_sha256"]["model.safetensors"] and record["host"]


def test_a_row_says_what_is_stored_in_another_format(found):
    """Two models of one format differ where one keeps its embedding."""
    record = found.record()
    options = record["models"][3]["perplexity"]["provenance"]["source"]["options"]
    assert rows_of(Path("a"), record)[3].quantizer == "rtn"
    options["embedding"] = WeightFormat("f16").to_json()
    assert rows_of(Path("a"), record)[3].quantizer == "rtn embedding=f16"
    options["overrides"] = {"layers.0.*": WeightFormat("int8", block_size=32).to_json()}
    assert rows_of(Path("a"), record)[3].quantizer == "rtn embedding=f16 overrides={layers.0.*=int8/32}"
    options["overrides"] = {f"layers.{layer}.*": WeightFormat("f16").to_json() for layer in range(9)}
    [row] = [row for row in rows_of(Path("a"), record) if row.model == "int2"]
    assert row.quantizer.endswith("overrides={9 patterns}") and row.format == "int2/32"


def test_the_picture_has_a_line_and_a_point_a_version(found, tmp_path):
    picture = found.plot(tmp_path / "found.png")
    left, right = picture.axes
    assert [line.get_label() for line in left.lines] == ["copy", "int8", "int2"]
    assert {text.get_text() for text in right.texts} == {
        "copy",
        "int8",
        "int2",
    }  # two of which nearly coincide
    renderer = picture.figure.canvas.get_renderer()
    boxes = [Bounds(*Text.get_window_extent(text, renderer).extents) for text in right.texts]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    assert (tmp_path / "found.png").read_bytes().startswith(b"\x89PNG")


def test_passages_of_two_kinds_make_no_table(found):
    rows = found.table().rows
    with pytest.raises(SweepError, match=r"last words are of .* and of others"):
        replace(found.table(), rows=(rows[0], replace(rows[1], passages="others")))


def test_another_checkpoint_is_noted_and_another_tokenizer_refused(versions, materials, tmp_path, one_thread):
    other = tmp_path / "other"
    shutil.copytree(materials.model, other)
    weights = load_file(other / "model.safetensors")
    save_file({name: each * 1.01 for name, each in weights.items()}, other / "model.safetensors")
    convert(other, tmp_path / "int8", ConvertOptions(WeightFormat("int8", block_size=32)))
    convert(materials.model, tmp_path / "f16", ConvertOptions(WeightFormat("f16")))
    convert(tmp_path / "f16", tmp_path / "again", ConvertOptions(WeightFormat("int2", block_size=32)))
    common = load_text(materials.text), Settings("disjoint-32", windows=1)
    models = {"base": materials.model, "int8": tmp_path / "int8", "again": tmp_path / "again"}
    found = workbench.compare_models(models, "base", *common, speed=False, backend="torch")
    note = "quantized from another checkpoint than base: from other, whose weights are others"
    assert [each.note for each in found.versions] == ["", note, ""], "again was made of it, by way of f16"
    assert f"int8: {note}" in found.table().caption
    byte_tokenizer(bos=False).save_pretrained(other)
    with pytest.raises(ProtocolError, match="model 'one' and model 'two' have different tokenizers"):
        workbench.compare_models({"one": materials.model, "two": other}, "one", *common, backend="torch")
    with pytest.raises(SweepError, match="baseline 'none' is none of the models; allowed: base"):
        workbench.compare_models({"base": materials.model}, "none", *common)


def test_models_are_named_by_what_tells_them_apart():
    assert named(["a/x", "b/y", "a/x"]) == {"x": "a/x", "y": "b/y"}
    assert named(["a/x", "b/x", "owner/z"]) == {"a/x": "a/x", "b/x": "b/x", "z": "owner/z"}


def test_the_command(versions, materials, tmp_path, capsys):
    (tmp_path / "passages.txt").write_text("\n".join(PASSAGES.texts), "utf-8")
    arguments = ["compare-models", versions["int8"], versions["int2"], "--baseline", materials.model]
    arguments += ["--text", materials.text, "--protocol", "disjoint-32", "--windows", 4, "--no-speed"]
    more = ["--lambada", tmp_path / "passages.txt", "--examples", 2, "--json", tmp_path / "found.json"]
    backend = "torch" if adapter_missing() else "wgpu"
    status = cli.main(
        [str(each) for each in [*arguments, *more, "--plot", tmp_path / "p.svg", "--backend", backend]]
    )
    said = capsys.readouterr().out
    assert status == 0 and [line.split(" | ")[0].strip("| ") for line in said.splitlines()[2:5]] == [
        materials.model.name,
        "int8",
        "int2",
    ]
    assert "2 passages, the first of 4" in said and (tmp_path / "p.svg").stat().st_size > 5000
    assert cli.main(["table", str(tmp_path / "found.json"), "--detailed"]) == 0
    assert "KL p99.9" in capsys.readouterr().out
    assert cli.main([str(each) for each in [*arguments, "--examples", 3]]) == 2
    assert "--examples counts the passages of --lambada" in capsys.readouterr().err
