"""A sweep seen from its folder: while others run it, after its end, after a kill."""

from __future__ import annotations

import json
import shutil
import time

import pytest

from tests.sweeps.synthetic import Synthetic, four_hundred, result
from workbench.errors import SweepError
from workbench.files.writing import write_json
from workbench.sweeps import follow, journal
from workbench.sweeps.follow import Followed, opened
from workbench.sweeps.sweep import Sweep


def shape(value):
    """The keys of nested dicts."""
    return {key: shape(each) for key, each in value.items()} if isinstance(value, dict) else None


def test_a_finished_run_reads_from_its_folder_as_it_was(undisturbed):
    found = Followed(undisturbed.store.folder)
    assert found.rows() == undisturbed.rows()
    assert (found.name, found.running, found.lost, found.finished) == (undisturbed.name, False, False, True)
    assert found.seconds == pytest.approx(undisturbed.seconds, abs=0.01)
    assert found.table().markdown() == undisturbed.table().markdown()
    row = next(row for row in found.rows() if row["format"] == "int4/32")
    exact = next(r for r in undisturbed.table().rows if r.format == "int4/32")
    assert row["kl"] == exact.kl > 0 and row["change"] == exact.change and row["bits_per_weight"] > 4


def test_synthetic_folders_are_what_a_run_writes(undisturbed, tmp_path):
    """Else the tests that use them would prove nothing."""
    made = Synthetic(tmp_path, 3)
    made.finish(1)
    real = [json.loads(path.read_text()) for path in undisturbed.store.folder.glob("cells/*.json")]
    real = next(record for record in real if record["result"]["baseline"])
    wanted, found = shape(real), shape(result(made.cells[1], 1, 1.0))
    assert found.keys() == wanted.keys()
    assert found["result"].keys() <= wanted["result"].keys()
    assert found["result"]["baseline"].keys() <= wanted["result"]["baseline"].keys()
    for kind in ("json", "state"):
        files = [next(folder.glob(f"sweeps/*.{kind}")) for folder in (tmp_path, undisturbed.store.folder)]
        one, other = (json.loads(file.read_text()) for file in files)
        assert one.keys() == other.keys()
        if kind == "json":
            assert one["cells"][0].keys() == other["cells"][0].keys()


def test_it_is_seen_to_run_to_fail_and_to_be_lost(tmp_path, monkeypatch):
    run = four_hundred(tmp_path)
    found = Followed(tmp_path)
    assert [s.status for s in found.cells] == [s.status for s in run.cells] and found.running
    assert found.seconds_left > 0 and "2 running" in str(found)
    failed = next(s for s in found.cells if s.status == "failed")
    assert failed.error == "quantizing: layer 7 has a weight that is not finite"
    running = next(i for i, s in enumerate(run.cells) if s.status == "running")
    assert (found.cells[running].worker, found.cells[running].progress) == (f"process {4000 + running}", 0.25)
    run.score(running, 0.75)
    run.tell()
    found.refresh()
    assert found.cells[running].progress == 0.75
    run.finish(running)  # a result counts, whatever the state still says
    found.refresh()
    assert (
        found.cells[running].status == "done" and found.cells[running].record["key"] == run.cells[running].key
    )
    with pytest.raises(SweepError, match="runs already, in another process"):
        found.resumable()

    monkeypatch.setattr(follow, "SILENCE_SECONDS", 0.3)
    time.sleep(0.4)
    found.refresh()
    assert (found.running, found.lost) == (False, True)
    assert found.count("running") == 0 and found.count("failed") == 10 and not found.finished
    assert Followed(tmp_path).lost  # also for who has not seen it alive
    run.tell()  # it was only slow
    found.refresh()
    assert (found.running, found.lost, found.count("running")) == (True, False, 1)
    run.end()
    found.refresh()
    assert (found.running, found.lost) == (False, False) and found.ended == run.ended


def test_clocks_of_other_machines_do_not_matter_for_long(tmp_path, monkeypatch):
    """A beat from the past or the future is heard as soon as the next one comes."""
    run = Synthetic(tmp_path, 3)
    [path] = tmp_path.glob("sweeps/*.state")

    def tell(written: float) -> None:
        run.tell()
        path.write_text(json.dumps(json.loads(path.read_text()) | {"written": written}))

    tell(time.time() - 3600)
    found = Followed(tmp_path)
    assert found.lost
    tell(time.time() - 3599)
    found.refresh()
    assert found.running


def test_the_sweep_that_began_last_is_followed(tmp_path):
    first = Synthetic(tmp_path, 3)
    first.finish(0)
    first.end()
    found = Followed(tmp_path)
    time.sleep(0.01)
    second = Synthetic(tmp_path, 5)
    found.refresh()
    assert [s.status for s in found.cells] == ["done", *["waiting"] * 4]
    second.end()


def test_results_alone_can_be_looked_at_and_not_resumed(tmp_path):
    run = Synthetic(tmp_path, 4)
    run.finish(0)
    shutil.rmtree(tmp_path / "sweeps")
    found = Followed(tmp_path)
    assert [(s.status, s.facts.format) for s in found.cells] == [("done", "as it is")]
    run.finish(2)
    write_json(run.store.cell("0" * 24), {"kind": "workbench-cell", "key": "0" * 24, "seconds": 1.0})
    found.refresh()
    assert len(found.cells) == 2 and len(found.table()) == 2  # what is no result is left out
    with pytest.raises(SweepError, match="start from the TOML file"):
        found.resumable()


def test_nothing_to_follow_is_an_error(tmp_path):
    with pytest.raises(SweepError, match="nothing to follow; allowed: the output folder"):
        Followed(tmp_path / "absent")
    with pytest.raises(SweepError, match=r"absent\.toml: cannot be read"):
        opened(tmp_path / "absent.toml")


def test_a_sweep_is_resumed_from_its_folder(undisturbed, tmp_path, workers):
    folder = shutil.copytree(undisturbed.store.folder, tmp_path / "out")
    lost = undisturbed.cells[-1]
    undisturbed.store.cell(lost.key)
    (folder / "cells" / f"{lost.key}.json").unlink()
    found = Followed(folder)
    assert found.count("waiting") == 1
    sweep = opened(found.resumable())
    assert isinstance(sweep, Sweep) and [s.key for s in sweep.cells] == [s.key for s in undisturbed.cells]
    sweep.run(executor=workers)
    found.refresh()
    assert found.finished and found.cells[-1].record["result"]["ppl"] == lost.record["result"]["ppl"]
    assert (found.cells[0].stored, found.cells[-1].stored) == (True, False)


def test_the_state_is_written_seldom_and_a_failing_write_costs_nothing(tmp_path, monkeypatch):
    run = Synthetic(tmp_path, 3)
    [path] = tmp_path.glob("sweeps/*.state")

    def beat() -> int:
        return json.loads(path.read_text())["beat"]

    assert beat() == 1
    for share in (0.1, 0.2, 0.3):
        run.score(1, share)
        run.journal()
    assert beat() == 1  # within a second
    monkeypatch.setattr(journal, "LEAST_SECONDS", 0.0)
    run.journal()
    run.journal()
    assert beat() == 2  # the second had nothing new
    monkeypatch.setattr(journal, "BEAT_SECONDS", 0.0)
    run.journal()
    assert beat() == 3  # but it still shows that it is there
    shutil.rmtree(tmp_path / "sweeps")
    (tmp_path / "sweeps").write_text("in the way")
    run.journal()


def test_static_html_is_bounded_and_escaped(tmp_path):
    from workbench.sweeps.show import html

    run = Synthetic(tmp_path, 150, model="<img src=x onerror=alert(1)>")
    for index in range(150):
        run.fail(index, "<script>alert(2)</script>\x1b[31m")
    text = html(run, 100)
    assert "<img" not in text and "<script" not in text and "\x1b" not in text
    assert text.count("<tr>") == 101 and "and 50 more" in text and len(text) < 150_000
