"""Measured choices of several machines: from the store to a file and back, and side by side."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import pytest

from workbench import cli
from workbench.errors import WorkbenchError
from workbench.formats.errors import FormatError
from workbench.runtime.tuning.cases import Case
from workbench.runtime.tuning.exchange import export, read, side_by_side, stored, take
from workbench.runtime.tuning.store import Store, folder

from .test_tuning_store import ENTRY

ONE = {
    **{"vendor": "", "device": "GPU one", "description": "driver 1.0", "adapter_type": "DiscreteGPU"},
    **{"backend_type": "Vulkan", "wgpu": "0.32.0", "wgpu_native": "25.0.2.1", "f16": True, "vendor_id": 4318},
}
TWO = {**ONE, "device": "GPU two"}
TILE = {"tile_tokens": 64, "tile_rows": 64, "tile_columns": 16, "tokens_per_thread": 8, "rows_per_thread": 4}
GEMM = replace(
    ENTRY,
    case=Case("linear[int4]", {"tokens": 64, "rows": 40, "columns": 64, "block": 32}, {"x": "f32"}).name,
    variant="tile",
    tunables=TILE,
    seconds=2.5e-5,
)
WIDER = replace(GEMM, tunables={**TILE, "tile_rows": 128, "tokens_per_thread": 8}, seconds=1.5e-5)
NORM = replace(
    ENTRY,
    case=Case("rms_norm", {"tokens": 1, "hidden": 64}, {"x": "f16"}).name,
    variant="row",
    tunables={"workgroup": 64},
)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A store that may be somewhere else later: `here(name)` is the folder of a machine."""

    def give(name: str):
        monkeypatch.setenv("WORKBENCH_TUNING", str(tmp_path / name))
        return folder()

    return give


def exported(here, tmp_path, name="a", **machines):
    """A file with these entries by machine."""
    where = here(name)
    for facts, entries in machines.values():
        Store(where, facts).add(entries)
    export(tmp_path / f"{name}.json")
    return tmp_path / f"{name}.json"


def test_what_is_exported_is_remembered_elsewhere(here, tmp_path):
    path = exported(here, tmp_path, one=(ONE, [GEMM, NORM]), two=(TWO, [WIDER]))
    before = stored()
    where = here("elsewhere")
    Store(where, ONE).add([replace(GEMM, seconds=9.0), replace(NORM, wgsl="1" * 64)])
    taken, skipped = take(path)
    assert taken == before == read(path) and skipped == []
    of_one = Store(where, ONE).read()
    assert of_one[GEMM.key] == GEMM and len(of_one) == 3  # what was measured here under other WGSL stays
    assert Store(where, TWO).read() == {WIDER.key: WIDER}


@pytest.mark.parametrize(
    "entry, why",
    [
        (replace(NORM, case=Case("gone", {"tokens": 1}, {}).name), "there is no kernel gone"),
        (replace(NORM, variant="fast"), "rms_norm hidden 64 has no fast (workgroup 64)"),
        (
            replace(GEMM, tunables={**TILE, "tile_rows": 48}),
            "has no tile (tile_tokens 64, tile_rows 48, tile_columns 16, tokens_per_thread 8, rows_per_thread 4)",
        ),
        (
            replace(GEMM, tunables={"rows_of_old": 4}),
            "linear[int4] 40x64, block 32 has no tile (rows_of_old 4)",
        ),
    ],
    ids=["kernel", "variant", "value", "tunable"],
)
def test_what_the_library_does_not_have_is_left_out_and_named(here, tmp_path, entry, why):
    path = exported(here, tmp_path, one=(ONE, [replace(entry, wgsl="3" * 64), GEMM]))
    where = here("elsewhere")
    taken, skipped = take(path)
    assert [each.entries for each in taken] == [(GEMM,)]
    assert len(skipped) == 1 and skipped[0].startswith("GPU one (driver 1.0") and skipped[0].endswith(why)
    assert set(Store(where, ONE).read()) == {GEMM.key}


@pytest.mark.parametrize(
    "change, field",
    [
        (lambda values: values.update(kind="workbench-tuning"), "kind"),
        (lambda values: values.update(version=2), "kind"),
        (lambda values: values.pop("machines"), "(whole file)"),
        (lambda values: values.update(machines={}), "machines"),
        (lambda values: values["machines"][0].update(more=1), "machines[0].machine"),
        (lambda values: values["machines"][1]["machine"].pop("wgpu"), "machines[1].machine.wgpu"),
        (lambda values: values["machines"][0]["machine"].update(f16=[]), "machines[0].machine"),
        (lambda values: values["machines"][0].update(entries=None), "machines[0].entries"),
        (lambda values: values["machines"][0]["entries"][1].pop("seed"), "machines[0].entries[1]"),
        (
            lambda values: values["machines"][1]["entries"][0].update(seconds="fast"),
            "machines[1].entries[0].seconds",
        ),
        (lambda values: values["machines"][0]["entries"][0].update(spread=10**400), "entries[0].spread"),
        (lambda values: values["machines"][0]["entries"][0].update(case="[" * 9000), "entries[0].case"),
        (lambda values: values["machines"][0]["entries"][0].update(case='["add", 3, {}]'), "entries[0].case"),
    ],
    ids=range(13),
)
def test_a_damaged_file_is_refused_whole(here, tmp_path, change, field):
    path = exported(here, tmp_path, one=(ONE, [GEMM, NORM]), two=(TWO, [WIDER]))
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    where = here("elsewhere")
    with pytest.raises(FormatError) as caught:
        take(path)
    assert caught.value.file == str(path) and caught.value.field.endswith(field)
    assert not where.exists()


def test_nothing_measured_is_not_exported(here, tmp_path, monkeypatch):
    here("empty")
    with pytest.raises(WorkbenchError, match="nothing was measured"):
        export(tmp_path / "a.json")
    monkeypatch.setenv("WORKBENCH_TUNING", "off")
    with pytest.raises(WorkbenchError, match="WORKBENCH_TUNING=off"):
        export(tmp_path / "a.json")
    assert not (tmp_path / "a.json").exists()


def test_a_table_has_a_row_a_case_and_a_column_a_machine(here, tmp_path):
    older = replace(GEMM, wgsl="2" * 64, created="2025-01-01T00:00:00+00:00", seconds=1.0)
    path = exported(here, tmp_path, one=(ONE, [older, GEMM, NORM]), two=(TWO, [WIDER]))
    table = side_by_side(read(path) + read(path)[:1])
    head = table.head
    assert [title.partition(" (")[0] for title in head[4:]] == ["GPU one", "GPU two", "GPU one"]
    assert len(set(head)) == len(head)
    gemm, norm = table.rows
    assert gemm[:4] == ["linear[int4]", "40x64, block 32", "64", "f32"]
    assert gemm[4].startswith("25.0 us, tile (tile_tokens 64, ") and "tile_rows 128" in gemm[5]
    assert norm[:4] == ["rms_norm", "hidden 64", "1", "f16"]
    assert norm[4:] == ["1.0 us, row (workgroup 64)", "–", "1.0 us, row (workgroup 64)"]


def test_the_command(here, tmp_path, capsys):
    path = exported(here, tmp_path, one=(ONE, [GEMM]), two=(TWO, [WIDER]))
    assert cli.main(["tune", "--export", str(tmp_path / "b.json")]) == 0
    assert "1 of GPU one (driver 1.0, Vulkan; wgpu 0.32.0" in capsys.readouterr().out
    assert (tmp_path / "b.json").read_bytes() == path.read_bytes()
    here("elsewhere")
    assert cli.main(["tune", "--import", str(path)]) == 0
    assert "1 of GPU two" in capsys.readouterr().out and len(stored()) == 2
    shown = {}
    for form in ("text", "md", "csv", "latex", "html"):
        assert cli.main(["tune", "--compare", str(path), str(path), "--table", form]) == 0
        shown[form] = capsys.readouterr().out
    cells = list(csv.reader(io.StringIO(shown["csv"])))
    assert [len(row) for row in cells] == [8, 8] and cells[1][4] == cells[1][6]
    assert shown["md"].startswith("| kernel") and shown["md"].count("|\n") == 3
    assert all("25.0 us, tile (tile_tokens 64" in each.replace("\\_", "_") for each in shown.values())
    for arguments in ([], ["model", "--compare", str(path)]):
        assert cli.main(["tune", *arguments]) == 2
        assert "tune takes a MODEL to measure, or one of" in capsys.readouterr().err
    assert cli.main(["tune", "--import", str(tmp_path / "none.json")]) == 1
    assert "none.json" in capsys.readouterr().err
