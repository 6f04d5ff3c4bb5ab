"""A key changes with everything that decides a result, and with nothing else."""

from __future__ import annotations

import dataclasses
import shutil

import pytest

from eval.texts import Text, load_text
from workbench.convert.options import ConvertOptions
from workbench.errors import ProtocolError, SweepError
from workbench.sweeps import cells
from workbench.sweeps import identity as identities
from workbench.sweeps.cells import Cell, TextSource, convert_options
from workbench.sweeps.identity import Identities, code, conversion, key, require_same_code
from workbench.sweeps.spec import read_spec


@pytest.fixture
def cell(materials) -> Cell:
    return Cell(str(materials.model), "disjoint-32", TextSource(str(materials.text)), {"format": "int4/32"})


def key_of(cell: Cell) -> str:
    return key(Identities().cell(cell))


def test_names_and_places_do_not_matter(cell, materials, tmp_path):
    shutil.copytree(materials.model, tmp_path / "elsewhere")
    shutil.copy(materials.text, tmp_path / "other name.txt")
    text = TextSource(str(tmp_path / "other name.txt"))
    moved = dataclasses.replace(cell, model=str(tmp_path / "elsewhere"), text=text, name="another")
    assert key_of(moved) == key_of(cell)
    # what is left out is what is default
    spelled = {"format": "int4/32", "quantizer": "rtn", "layout": "planar"}
    assert key_of(dataclasses.replace(cell, options=spelled)) == key_of(cell)


@pytest.mark.parametrize(
    "change",
    [
        {"protocol": "disjoint-16"},
        {"options": {"format": "int4/64"}},
        {"options": {"format": "int4/32", "quantizer": "grid"}},
        {"options": {"format": "int4/32", "embedding": "f16"}},
        {"options": {"format": "int4/32", "overrides": {"*mlp*": "int8"}}},
        {"options": None},
        {"max_windows": 1},
        {"backend": "wgpu"},
        {"dtype": "f16"},
        {"baseline_dtype": "f16"},
        {"paired": False},
        {"speed": True},
    ],
    ids=str,
)
def test_whatever_decides_a_result_changes_the_key(cell, change):
    assert key_of(dataclasses.replace(cell, **change)) != key_of(cell)


def test_the_baseline_of_a_cell_is_in_f32_unless_asked(cell):
    rounded = dataclasses.replace(cell, dtype="f16")
    assert rounded.baseline == dataclasses.replace(cell, options=None)
    assert key_of(rounded.baseline) == key_of(cell.baseline) != key_of(rounded)
    asked = dataclasses.replace(rounded, baseline_dtype="f16")
    assert asked.baseline.dtype == "f16" and key_of(asked.baseline) != key_of(cell.baseline)


def test_weights_text_and_separator_change_the_key(cell, materials, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(materials.model, model)
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (model / "model.safetensors").write_bytes(weights)
    text = tmp_path / "text.txt"
    text.write_text(materials.text.read_text() + ".")
    variants = [
        dataclasses.replace(cell, model=str(model)),
        dataclasses.replace(cell, text=TextSource(str(text))),
        dataclasses.replace(cell, text=TextSource(str(materials.text), separator="river")),
    ]
    assert len({key_of(each) for each in [cell, *variants]}) == 4


def test_code_changes_the_key(cell, monkeypatch):
    before = key_of(cell)
    monkeypatch.setattr(identities, "code_sha256", lambda: "0" * 64)
    assert key_of(cell) != before


def test_a_conversion_is_shared_by_protocols_and_backends_alone(cell):
    def converted(**change):
        return key(conversion(Identities().cell(dataclasses.replace(cell, **change))))

    same = [
        converted(),
        converted(protocol="disjoint-16"),
        converted(backend="wgpu"),
        converted(max_windows=3),
    ]
    assert len(set(same)) == 1
    assert converted(options={"format": "int4/64"}) not in same


@dataclasses.dataclass(frozen=True)
class Reading:
    """Options of a text, as calibration has them."""

    text: str
    windows: int = 4

    def read(self) -> Text:
        return load_text(self.text)


@dataclasses.dataclass(frozen=True)
class ReadingOptions(ConvertOptions):
    reading: Reading | None = None


def test_options_that_are_added_count_and_texts_count_by_content(materials, tmp_path, monkeypatch):
    monkeypatch.setattr(cells, "ConvertOptions", ReadingOptions)
    (tmp_path / "own.txt").write_text("first")
    spec = materials.spec(
        tmp_path,
        format='"int4"',
        block_size="32",
        quantizer='[{reading = {text = "own.txt"}}, {reading = {text = "own.txt", windows = 5}}]'.replace(
            "{reading", '{quantizer = "rtn", reading'
        ),
        rest="",
    )
    found = read_spec(spec).cells
    assert [cell.convert_options().reading for cell in found] == [
        Reading(str(tmp_path / "own.txt")),
        Reading(str(tmp_path / "own.txt"), 5),
    ]
    before = [key_of(cell) for cell in found]
    (tmp_path / "own.txt").write_text("second")
    assert len({*before, *map(key_of, found)}) == 4
    with pytest.raises(SweepError, match=r"reading = .*unexpected keyword argument 'window'"):
        convert_options({"format": "int4", "reading": {"text": "x", "window": 5}})


def test_a_worker_with_other_code_refuses():
    require_same_code(code("torch"), "torch")
    with pytest.raises(SweepError, match=r"another torch than the sweep was started with: .*, not 1\.0"):
        require_same_code({**code("torch"), "torch": "1.0"}, "torch")


def test_a_text_that_is_missing_is_named(cell, tmp_path):
    with pytest.raises(ProtocolError, match=r"gone\.txt"):
        key_of(dataclasses.replace(cell, text=TextSource(str(tmp_path / "gone.txt"))))
