"""Sweeps on local processes: what they find, and that nothing is lost when a worker or the client is killed."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

import workbench
from eval.perplexity import perplexity
from eval.texts import load_text
from tests.conftest import REPOSITORY
from tests.sweeps.conftest import WINDOW, figures
from tests.sweeps.inline import Inline
from workbench.convert.convert import convert
from workbench.convert.options import ConvertOptions
from workbench.errors import SweepError
from workbench.formats.text import parse_format
from workbench.sweeps import follow
from workbench.sweeps.follow import Followed
from workbench.sweeps.store import Store
from workbench.sweeps.sweep import Sweep


def to_rounding(value):
    """A worker's PyTorch has other threads than this process, and takes sums in another order."""
    return pytest.approx(value, rel=1e-12) if isinstance(value, float | dict) else value


def test_cells_hold_what_a_direct_evaluation_gives(undisturbed, materials, tmp_path):
    assert [s.cell.format for s in undisturbed.cells] == [
        "as it is", "int8/32", "int8/channel", "int4/32", "int4/channel", "int2/32"
    ]  # fmt: skip
    assert {s.status for s in undisturbed.cells} == {"done"}
    convert(materials.model, tmp_path / "int4", ConvertOptions(parse_format("int4/32")))
    models = [
        workbench.load(f, backend="torch", max_tokens=WINDOW) for f in (tmp_path / "int4", materials.model)
    ]
    text = load_text(materials.text)
    wanted = perplexity(models[0], text, f"disjoint-{WINDOW}", baseline=models[1], max_windows=100).to_json()
    record = next(s.record for s in undisturbed.cells if s.cell.format == "int4/32")
    for name in ("ppl", "ppl_se", "tokens_sha256", "tokens_scored", "unrecorded"):
        assert record["result"][name] == to_rounding(wanted[name])
    for name in ("ppl", "ln_ratio", "ln_ratio_se_clustered", "kl", "kl_se", "same_top1"):
        assert record["result"]["baseline"][name] == to_rounding(wanted["baseline"][name])
    stored = workbench.load(tmp_path / "int4", backend="torch").source
    assert record["formats"] == {"int4/32": 16, "f32": 5}
    assert record["file_bytes"] == sum(f.stat().st_size for f in (tmp_path / "int4").glob("*.wgpu"))
    assert 4 < record["bits_per_weight"] < 8 and stored.names()


def test_the_state_can_be_read(undisturbed):
    assert undisturbed.finished and undisturbed.progress == 1 and undisturbed.seconds_left == 0
    rows = undisturbed.rows()
    assert [row["status"] for row in rows] == ["done"] * 6 and all(row["ppl"] > 1 for row in rows)
    assert "6 of 6 done" in str(undisturbed) and "int4/channel" in undisturbed._repr_html_()
    assert undisturbed.table().rows[0].is_baseline and len(undisturbed.tables()) == 1


def test_started_again_it_runs_nothing(undisturbed, materials, tmp_path):
    folder = undisturbed.store.folder
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    again = Sweep.read(materials.spec(tmp_path), output=folder)
    assert {state.stored for state in again.cells} == {True}
    again.run(processes=2)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_further_cells_failures_and_deleted_intermediates(undisturbed, materials, tmp_path, workers):
    """Results are kept, what they were compared with is made again, and a failing cell fails alone."""
    folder = shutil.copytree(undisturbed.store.folder, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in folder.glob("cells/*")}
    Store(folder).remove_intermediate()
    assert sorted(path.name for path in folder.iterdir()) == ["cells", "sweeps"]
    (other := tmp_path / "other.txt").write_text(materials.text.read_text() * 2)
    changes = {
        "texts": f"[texts.prose]\nfile = {json.dumps(str(materials.text))}\n[texts.other]\nfile = 'other.txt'",
        "protocol": '[{protocol = "disjoint-32", text = "prose"}, {protocol = "disjoint-32", text = "other"}]',
        "block_size": "64",
        "rest": "",
    }
    sweep = Sweep.read(materials.spec(tmp_path, **changes), output=folder)
    assert [state.status for state in sweep.cells] == ["done", *["waiting"] * 5]
    other.write_text("something else")
    sweep.run(executor=workers)
    found = {(state.cell.format, state.cell.text_name): state for state in sweep.cells}
    assert {place for place, state in found.items() if state.status == "done"} == {
        (form, "prose.txt") for form in ("as it is", "int8/64", "int4/64")
    }
    assert found["int4/64", "prose.txt"].record["result"]["baseline"]["kl"]["mean"] > 0
    assert "has changed since the sweep was started" in found["as it is", "other.txt"].error
    assert found["int8/64", "other.txt"].error.startswith("tiny · as it is · disjoint-32 · other.txt, which")
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_what_was_damaged_is_made_again_or_named(undisturbed, materials, tmp_path):
    """A disk that filled up, a copy that was cut short: tokens and scores of the baseline, then its logits."""
    folder = shutil.copytree(undisturbed.store.folder, tmp_path / "out")
    [cell] = [state for state in undisturbed.cells if state.cell.format == "int2/32"]
    expected = cell.record["result"]

    def again(*damaged: str) -> Sweep:
        for pattern in damaged:
            [path] = folder.glob(pattern)
            os.truncate(path, path.stat().st_size // 2 // 4 * 4)
        (folder / "cells" / f"{cell.key}.json").unlink()
        sweep = Sweep.read(materials.spec(tmp_path), output=folder)
        sweep.run(executor=Inline())
        return sweep

    [found] = [state for state in again("tokens/*.npz", "baselines/*.npz").cells if state.key == cell.key]
    assert found.status == "done", found.error
    assert found.record["result"]["baseline"]["kl"]["mean"] == to_rounding(expected["baseline"]["kl"]["mean"])
    [found] = [state for state in again("baselines/*.logits").cells if state.key == cell.key]
    assert re.search(r"\.logits: stored logits have \d+ bytes, and .* remove it and the \.npz", found.error)


def test_speeds_are_measured_and_logits_beyond_the_limit_not_kept(materials, tmp_path, workers, undisturbed):
    limit = "max_windows = 100\nkeep_logits_mib = 0\nspeed = true"
    spec = materials.spec(tmp_path, sweep=limit, format='"int4"', block_size="32", rest="")
    sweep = Sweep.read(spec, output=tmp_path / "out").run(executor=workers)
    assert not list(sweep.store.folder.glob("baselines/*.logits"))
    compared = sweep.cells[-1].record["result"]["baseline"]
    exact = next(s for s in undisturbed.cells if s.cell.format == "int4/32").record["result"]["baseline"]
    assert all(row.prefill > 0 and row.decode > 0 for row in sweep.table().rows)
    assert compared["kl"] is None and compared["ln_ratio"] == pytest.approx(exact["ln_ratio"], abs=1e-6)


@pytest.mark.release
def test_a_worker_killed_in_the_middle_loses_nothing(undisturbed, materials, tmp_path, one_thread):
    sweep = Sweep.read(materials.spec(tmp_path), output=tmp_path / "out")
    killed = []

    def kill(sweep):
        for state in sweep.cells:
            if not killed and state.cell.format == "int8/channel" and state.progress > 0 and state.worker:
                killed.append((state.key, int(state.worker.split()[-1])))
                os.kill(killed[0][1], signal.SIGKILL)

    sweep.observe(kill)
    sweep.run(processes=2)
    assert {state.status for state in sweep.cells} == {"done"}
    assert {state.key for state in sweep.cells if state.lost} == {killed[0][0]}
    assert figures(sweep.store.folder) == figures(undisturbed.store.folder)


def test_a_cell_that_kills_its_workers_fails(materials, tmp_path, one_thread):
    sweep = Sweep.read(materials.spec(tmp_path, format='"f32"', rest=""), output=tmp_path / "out")
    baseline, converted = sweep.cells
    sweep.observe(lambda _: baseline.worker and os.kill(int(baseline.worker.split()[-1]), signal.SIGKILL))
    sweep.run(processes=1)
    assert (baseline.status, baseline.lost, converted.status) == ("failed", 2, "failed")
    assert "was ended by SIGKILL" in baseline.error and "as did 2 before it" in baseline.error
    assert "SIGKILL" in str(sweep) and "SIGKILL" in sweep._repr_html_()


def test_in_the_background_it_can_be_watched_and_stopped(materials, tmp_path, one_thread):
    sweep = Sweep.read(materials.spec(tmp_path), output=tmp_path / "out")
    running = threading.Event()
    sweep.observe(lambda sweep: running.set() if sweep.count("running") else None)
    sweep.start(processes=1)
    assert running.wait(60) and not sweep.wait(0) and sweep.seconds_left is None
    with pytest.raises(SweepError, match="running already"):
        sweep.start()
    sweep.stop()
    assert sweep.wait(60) and not sweep.finished
    assert {state.status for state in sweep.cells} == {"waiting"}


def client(spec, output) -> subprocess.Popen:
    command = [
        sys.executable,
        "-m",
        "workbench.cli",
        "sweep",
        str(spec),
        "--output",
        str(output),
        "--processes",
        "2",
        "--discard",
    ]
    return subprocess.Popen(
        command,
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,
    )


@pytest.mark.release
def test_a_client_killed_in_the_middle_goes_on_when_started_again(
    undisturbed, materials, tmp_path, one_thread, monkeypatch
):
    spec, output = materials.spec(tmp_path), tmp_path / "out"
    first = client(spec, output)
    deadline = time.monotonic() + 120
    while len(list(output.glob("cells/*.json"))) < 2:
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    watched = Followed(output)
    assert watched.running and watched.count("done") >= 2 and len(watched.cells) == 6
    workers = psutil.Process(first.pid).children(recursive=True)
    first.kill()
    first.communicate()
    assert first.returncode == -signal.SIGKILL and len(workers) == 2
    psutil.wait_procs(workers, timeout=30)
    assert not any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers)
    kept = {path: path.stat().st_mtime_ns for path in output.glob("cells/*.json")}
    assert 2 <= len(kept) < 6 and all(json.loads(path.read_text())["key"] == path.stem for path in kept)

    monkeypatch.setattr(follow, "SILENCE_SECONDS", 0.0)
    watched.refresh()
    assert (watched.lost, watched.count("done"), watched.count("running")) == (True, len(kept), 0)

    second = client(spec, output)
    said, told = second.communicate(timeout=240)
    assert second.returncode == 0, told
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert figures(output) == figures(undisturbed.store.folder)
    assert said.count("\n| tiny ") == 6 and "6 of 6 done" in told
    watched.refresh()
    assert watched.finished and not watched.lost and watched.rows() == Followed(output).rows()
    assert {watched.store.cell(state.key) for state in watched.cells if state.stored} <= kept.keys()
