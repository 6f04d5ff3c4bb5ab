"""The file of measured choices: keyed by machine and WGSL, written whole, merged; reading goes on whatever it holds."""

from __future__ import annotations

import json
import threading
import warnings
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workbench.runtime.tuning.store import KEPT, Entry, Store, TuningFileWarning, folder, machine_facts

FACTS = {"device": "A GPU / of some kind", "description": "driver 1.0", "wgpu": "0.32.0"}
ENTRY = Entry(
    case='["add", {"tokens": 1}, {"y": "f32"}]',
    wgsl="0" * 64,
    variant="fast",
    tunables={"workgroup": 64},
    default_variant="slow",
    default_tunables={},
    seconds=1e-6,
    default_seconds=2e-6,
    faster=1.0,
    spread=0.1,
    rounds=7,
    clock="wall",
    measured=2,
    failed=("wrong: off",),
    seed=0,
    created="2026-01-01T00:00:00+00:00",
)


def test_what_is_written_is_read(tmp_path):
    store = Store(tmp_path / "new" / "folder", FACTS)
    assert store.read() == {}
    store.add([ENTRY])
    unmeasured = replace(ENTRY, case="other", default_seconds=None, spread=None)
    store.add([unmeasured])
    assert Store(store.folder, FACTS).read() == {e.key: e for e in (ENTRY, unmeasured)}
    assert not list(store.folder.glob("*.part"))


@pytest.mark.parametrize(
    "change", [{"description": "driver 1.1"}, {"device": "B"}, {"wgpu": "0.33.0"}, {"f16": True}]
)
def test_another_machine_has_another_file(tmp_path, change):
    Store(tmp_path, FACTS).add([ENTRY])
    other = Store(tmp_path, {**FACTS, **change})
    assert other.path != Store(tmp_path, FACTS).path and other.read() == {}


def test_the_machine_of_a_device_has_what_decides_times(open_promised):
    with_subgroups, without = (machine_facts(open_promised(subgroups=s)) for s in (True, False))
    assert {"device", "description", "backend_type", "wgpu", "wgpu_native", "f16"} <= set(with_subgroups)
    assert with_subgroups != without
    json.dumps(with_subgroups)


def test_a_later_measurement_replaces_an_earlier_one_of_the_same_wgsl(tmp_path):
    store = Store(tmp_path, FACTS)
    store.add([ENTRY])
    store.add([replace(ENTRY, variant="slow")])
    assert [each.variant for each in store.read().values()] == ["slow"]


def test_few_versions_of_a_case_are_kept_and_the_newest(tmp_path):
    store = Store(tmp_path, FACTS)
    versions = [
        replace(ENTRY, wgsl=f"{n:064x}", created=f"2026-01-{n + 1:02}T00:00:00+00:00")
        for n in range(KEPT + 3)
    ]
    for each in versions:
        store.add([each])
    assert {e.wgsl for e in store.read().values()} == {e.wgsl for e in versions[-KEPT:]}


def test_writers_at_the_same_time_lose_nothing(tmp_path):
    entries = [replace(ENTRY, case=f"case {n}") for n in range(24)]
    threads = [
        threading.Thread(
            target=lambda part: [Store(tmp_path, FACTS).add([e]) for e in part], args=(entries[n::4],)
        )
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {e.case for e in Store(tmp_path, FACTS).read().values()} == {e.case for e in entries}


def test_a_failed_write_leaves_the_file_as_it_was(tmp_path):
    store = Store(tmp_path, FACTS)
    before = store.add([ENTRY]).read_bytes()
    with pytest.raises(ValueError):
        store.add([replace(ENTRY, case="nan", seconds=float("nan"))])
    assert store.path.read_bytes() == before and not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'{"kind": "workbench-tuning"',
        b'{"kind": "workbench-tuning", "kind": 1}',
        b"[" * 100_000,
        b'{"kind": "other", "version": 1, "machine": {}, "entries": []}',
    ],
    ids=repr,
)
def test_a_damaged_file_is_set_aside(tmp_path, data):
    store = Store(tmp_path, FACTS)
    store.path.write_bytes(data)
    with pytest.warns(TuningFileWarning, match="set aside as .*damaged"):
        assert store.read() == {}
    assert not store.path.exists()
    assert store.path.with_suffix(".damaged").read_bytes() == data
    store.add([ENTRY])
    assert list(store.read().values()) == [ENTRY]


def test_a_folder_in_the_files_place_is_not_fatal(tmp_path):
    store = Store(tmp_path, FACTS)
    store.path.mkdir()
    with pytest.warns(TuningFileWarning):
        assert store.read() == {}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read_total(store: Store) -> dict:
    """What reading gives; entries are whole ones, whatever the file holds."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = store.read()
    assert all(each.category is TuningFileWarning for each in caught)
    for entry in found.values():
        assert Entry.from_json({**asdict(entry), "failed": list(entry.failed)}) == entry
    return found


@FUZZ
@given(where=st.sampled_from([*asdict(ENTRY)]), value=JSON)
def test_an_entry_with_nonsense_is_refused_or_sound(tmp_path, where, value):
    store = Store(tmp_path, FACTS)
    store.path.unlink(missing_ok=True)
    store.add([ENTRY])
    values = json.loads(store.path.read_text())
    values["entries"][0][where] = value
    store.path.write_text(json.dumps(values))
    read_total(store)


@FUZZ
@given(where=st.sampled_from(["kind", "version", "machine", "entries"]), value=JSON)
def test_a_file_with_nonsense_is_refused_or_sound(tmp_path, where, value):
    store = Store(tmp_path, FACTS)
    store.path.unlink(missing_ok=True)
    values = {"kind": "workbench-tuning", "version": 1, "machine": FACTS, "entries": [], where: value}
    store.path.write_text(json.dumps(values))
    assert read_total(store) == {}


@FUZZ
@given(data=st.data())
def test_flipped_and_missing_bytes_are_refused_or_sound(tmp_path, data):
    store = Store(tmp_path, FACTS)
    store.path.unlink(missing_ok=True)
    store.add([ENTRY])
    content = bytearray(store.path.read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        for at in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
            content[at] ^= data.draw(st.integers(1, 255))
    store.path.write_bytes(bytes(content))
    read_total(store)


def test_where_the_files_lie(monkeypatch, tmp_path):
    monkeypatch.setenv("WORKBENCH_TUNING", "off")
    assert folder() is None
    monkeypatch.setenv("WORKBENCH_TUNING", str(tmp_path / "mine"))
    assert folder() == tmp_path / "mine"
    monkeypatch.delenv("WORKBENCH_TUNING")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert folder() == tmp_path / "workbench" / "tuning"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert folder() == Path.home() / ".cache" / "workbench" / "tuning"
