"""Models written and read again; files that are complete or absent."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from tests.formats.models import CONFIG, assert_same, random_tensor, tensors, write_model
from workbench.formats import manifest as rules
from workbench.formats.errors import FormatError
from workbench.formats.layout import reorder
from workbench.formats.reader import StoredModel
from workbench.formats.spec import WeightFormat
from workbench.formats.tensor import float_tensor
from workbench.formats.writer import ModelWriter


@pytest.fixture
def small_limits(monkeypatch):
    """Limits small enough that a model of a few kilobytes has many parts and shards."""
    monkeypatch.setattr(rules, "MAX_PLANE", 512)
    monkeypatch.setattr(rules, "MAX_SHARD", 2048)


def planar(tensor):
    return reorder(tensor, "low-first") if tensor.format.is_quantized else tensor


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("layout", ["planar", "interleaved"])
def test_a_model_comes_back(tmp_path, layout, verify):
    model = StoredModel.open(write_model(tmp_path / "model", layout), verify=verify)
    assert model.config == CONFIG
    assert model.manifest["precision"]["block"]["reason"] == "asked for"
    assert model.manifest["provenance"] == {"seed": 1}
    assert (model.tokenizer_path / "tokenizer.json").read_bytes() == b'{"model": {}}'
    assert model.names() == [tensor.name for tensor in tensors()]
    for tensor in map(planar, tensors()):
        assert tensor.name in model
        assert model.describe(tensor.name) == (tensor.shape, tensor.format)
        assert_same(model.tensor(tensor.name), tensor)
    assert "nothing" not in model
    model.check()


@pytest.mark.parametrize("layout", ["planar", "interleaved"])
def test_parts_and_shards_come_back(tmp_path, layout, small_limits):
    path = write_model(tmp_path / "model", layout)
    files = sorted(each.name for each in path.glob("*.wgpu"))
    assert len(files) > 5 and files[0] == "model-00002.wgpu" and files[-1] == "model.wgpu"
    assert all(each.stat().st_size <= 2048 for each in path.glob("*.wgpu"))
    model = StoredModel.open(path)
    for tensor in map(planar, tensors()):
        assert_same(model.tensor(tensor.name), tensor)
        parts = list(model.parts(tensor.name))
        if tensor.shape:
            rows = [start for start, _ in parts]
            assert rows == sorted(set(rows)) and sum(part.shape[0] for _, part in parts) == tensor.shape[0]
            for start, part in parts:
                assert_same(part, tensor.rows(start, start + part.shape[0]))
        for part in model.stored(tensor.name).parts:
            for plane in part.planes.values():
                assert plane.length <= 512 and plane.offset % 256 == 0
    assert len(model.stored("block").parts) > 1
    assert len(model.stored("whole").parts) > 1


def test_a_real_plane_beyond_64_mib_is_split_at_tiles_of_rows(tmp_path):
    tensor = float_tensor("embedding", np.zeros((40_000, 1000), np.float16), "f16")
    tensor.planes["values"][:, 0] = np.arange(40_000) % 2048
    with ModelWriter(tmp_path / "m", config={}) as writer:
        writer.add(tensor)
    model = StoredModel.open(tmp_path / "m", verify=False)
    assert [(part.start, part.stop) for part in model.stored("embedding").parts] == [
        (0, 33536),
        (33536, 40_000),
    ]
    np.testing.assert_array_equal(model.tensor("embedding").planes["values"], tensor.planes["values"])


def test_a_planar_part_is_not_copied(tmp_path):
    model = StoredModel.open(write_model(tmp_path / "model"))
    for name in ("block", "embedding"):
        for plane in model.tensor(name).planes.values():
            assert not plane.flags.owndata and not plane.flags.writeable
    base = model.tensor("block").planes["quants"].ctypes.data
    assert base == model.tensor("block").planes["quants"].ctypes.data  # the same mapped bytes each time


def test_layout_and_order_are_stored_as_asked(tmp_path):
    model = StoredModel.open(write_model(tmp_path / "model", "interleaved"))
    assert model.stored("block.int2").layout == "interleaved"
    assert model.stored("block.int2").format.order == "high-first"
    assert model.stored("embedding").layout == "planar"
    assert model.describe("block.int2")[1].order == "low-first"


def test_the_same_model_has_the_same_bytes(tmp_path):
    left, right = write_model(tmp_path / "a"), write_model(tmp_path / "b")
    for file in ("manifest.json", "model.wgpu"):
        assert (left / file).read_bytes() == (right / file).read_bytes()


def test_an_error_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), ModelWriter(tmp_path / "deep" / "model", config={}) as writer:
        writer.add(tensors()[0])
        raise ZeroDivisionError
    assert list((tmp_path / "deep").iterdir()) == []


@pytest.mark.parametrize(
    ("spoil", "field"),
    [
        (lambda writer: setattr(writer, "provenance", {"x": float("nan")}), "provenance"),
        (lambda writer: setattr(writer, "precision", {"a": {"format": "int4"}}), "precision.a.reason"),
        (lambda writer: setattr(writer, "provenance", {"x": object()}), "provenance"),
        (lambda writer: writer._tensors.clear(), "tensors"),
    ],
)
def test_what_no_reader_would_take_is_not_written(tmp_path, spoil, field):
    with pytest.raises(FormatError) as error, ModelWriter(tmp_path / "model", config={}) as writer:
        writer.add(tensors()[0])
        spoil(writer)
    assert error.value.field == field and error.value.file == "manifest.json"
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fails_leaves_nothing(tmp_path, monkeypatch):
    writer = ModelWriter(tmp_path / "model", config={})
    writer.add(tensors()[0])
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(OSError, match="no space left"), writer:
        pass
    assert list(tmp_path.iterdir()) == []


def test_overwriting(tmp_path):
    path = write_model(tmp_path / "model")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        ModelWriter(path, config={})
    with pytest.raises(ZeroDivisionError), ModelWriter(path, config={}, overwrite=True) as writer:
        writer.add(tensors()[0])
        raise ZeroDivisionError
    assert StoredModel.open(path).config == CONFIG
    with ModelWriter(path, config={"new": 1}, overwrite=True) as writer:
        writer.add(tensors()[0])
    assert StoredModel.open(path).config == {"new": 1}
    assert [each.name for each in tmp_path.iterdir()] == ["model"]


def test_what_is_no_model_is_never_overwritten(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match=r"holds no manifest.json"):
        ModelWriter(home, config={}, overwrite=True)
    with pytest.raises(FileExistsError, match="not a folder"):
        ModelWriter(home / "thesis.txt", config={}, overwrite=True)
    assert (home / "thesis.txt").read_text() == "years of work"


def test_names_and_repetitions_are_checked(tmp_path):
    format = WeightFormat("int4", block_size=32)
    with ModelWriter(tmp_path / "model", config={}) as writer:
        writer.add(random_tensor("a", format, 2, 32))
        with pytest.raises(FormatError, match="already added"):
            writer.add(random_tensor("a", format, 2, 32))
        with pytest.raises(FormatError, match="not a tensor name"):
            writer.add(random_tensor("a\n", format, 2, 32))
        for name in ("../x", "a/b", ".hidden", "", "a\\b", "x\n"):
            with pytest.raises(FormatError, match="not a plain file name"):
                writer.add_file(name, b"")
        writer.add_file("x", b"1")
        with pytest.raises(FormatError, match="already added"):
            writer.add_file("x", b"2")
    assert StoredModel.open(tmp_path / "model").names() == ["a"]
    with pytest.raises(RuntimeError, match="closed"):
        writer.add(random_tensor("b", format, 2, 32))


def test_a_row_larger_than_a_plane_is_refused(tmp_path, small_limits):
    with ModelWriter(tmp_path / "model", config={}) as writer:
        writer.add(float_tensor("small", np.zeros(3, np.float32), "f32"))
        with pytest.raises(FormatError, match="one row has 2000 bytes") as error:
            writer.add(float_tensor("wide", np.zeros((2, 500), np.float32), "f32"))
    assert error.value.tensor == "wide" and error.value.field == "planes.values"


def test_config_must_be_json(tmp_path):
    with pytest.raises(FormatError, match="field 'config'"):
        ModelWriter(tmp_path / "model", config={"x": float("inf")})
    assert list(tmp_path.iterdir()) == []


def test_the_manifest_is_plain_json_of_the_schema(tmp_path):
    import jsonschema

    value = json.loads((write_model(tmp_path / "model") / "manifest.json").read_text("utf-8"))
    schema = rules.schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(value, schema)
    shard, plane = schema["properties"]["shards"]["items"], schema["$defs"]["plane"]
    assert shard["properties"]["length"]["maximum"] == rules.MAX_SHARD == 256 * 2**20
    assert plane["properties"]["length"]["maximum"] == rules.MAX_PLANE == 64 * 2**20
    assert plane["properties"]["offset"]["multipleOf"] == rules.ALIGNMENT == 256
