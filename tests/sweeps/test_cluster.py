"""Sweeps on a Dask cluster: a real scheduler with real workers, one of which is killed."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.sweeps.conftest import figures
from workbench.errors import SchedulerLostError, SweepError
from workbench.sweeps.cells import Cell, TextSource
from workbench.sweeps.cluster import DaskCluster
from workbench.sweeps.schedule import Schedule
from workbench.sweeps.store import Store
from workbench.sweeps.sweep import Sweep

distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def cluster(one_thread):
    """Two worker processes under nannies."""
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": ":0"}
    with distributed.LocalCluster(**options, silence_logs="CRITICAL") as found:
        yield found


@pytest.mark.release
def test_a_worker_of_the_cluster_killed_in_the_middle_loses_nothing(
    cluster, undisturbed, materials, tmp_path
):
    sweep = Sweep.read(materials.spec(tmp_path), output=tmp_path / "out")
    pids = {worker.worker_address: worker.pid for worker in cluster.workers.values()}
    killed, places = [], set()

    def watch(sweep):
        for state in sweep.cells:
            places.update([state.worker.rpartition(" ")[2]] if state.worker else [])
            if not killed and state.cell.format == "int8/channel" and state.progress > 0 and state.worker:
                killed.append(state.worker.rpartition(" ")[2])
                os.kill(pids[killed[0]], signal.SIGKILL)

    sweep.observe(watch)
    sweep.run(scheduler=cluster.scheduler_address)
    assert {state.status for state in sweep.cells} == {"done"}, str(sweep)
    assert killed and killed[0] in pids and len(places) >= 2
    assert figures(sweep.store.folder) == figures(undisturbed.store.folder)


def run_all(executor, jobs) -> list[tuple[str, str]]:
    """Run jobs that a device has one at a time; (kind, key) of the events, in order."""
    for job in jobs:
        executor.submit(job, gpu=True)
    events, left = [], {job["key"] for job in jobs}
    deadline = time.monotonic() + 120
    while left:
        assert time.monotonic() < deadline
        event = executor.next_event(1)
        if event is not None:
            assert event.kind != "failed", event.value
            events.append((event.kind, event.key))
            left -= {event.key} if event.kind == "done" else set()
    return events


@pytest.fixture
def unpaired(materials, tmp_path):
    """Four cells that need nothing, as jobs."""
    text = TextSource(str(materials.text))
    cells = [Cell(str(materials.model), f"disjoint-{length}", text) for length in (16, 32, 48, 64)]
    store = Store(tmp_path / "out")
    store.folder.mkdir()
    return [job.payload for job in Schedule(Sweep(cells, store.folder).cells, store, 0).ready()]


def test_a_local_device_has_one_cell_at_a_time(unpaired, workers):
    events = [(kind, key) for kind, key in run_all(workers, unpaired) if kind in ("started", "done")]
    assert [kind for kind, _ in events] == ["started", "done"] * 4
    assert all(one[1] == two[1] for one, two in zip(events[::2], events[1::2], strict=True))


def test_missing_workers_are_told_and_a_device_has_one_cell_at_a_time(unpaired):
    """A job of a device asks for one unit of a resource; Dask sees to it that a worker gives no more than it has."""
    options = {"processes": False, "dashboard_address": ":0", "silence_logs": "CRITICAL"}
    with distributed.LocalCluster(n_workers=0, **options) as empty:
        executor = DaskCluster(empty.scheduler_address)
        assert "has no workers yet" in executor.note(gpu=False)
        empty.scale(1)
        empty.wait_for_workers(1)
        assert executor.note(gpu=False) == ""
        assert "--resources GPU=1" in executor.note(gpu=True)
        executor.submit(unpaired[0], gpu=True)
        deadline = time.monotonic() + 30
        while not (tasks := list(empty.scheduler.tasks.values())) or tasks[0].state != "no-worker":
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert tasks[0].resource_restrictions == {"GPU": 1}
        assert executor.next_event(0.2) is None
        executor.close()


def test_a_scheduler_that_is_not_there(monkeypatch):
    monkeypatch.setattr("workbench.sweeps.cluster.CONNECT_SECONDS", 0.5)
    with pytest.raises(SweepError, match=r"scheduler 'tcp://127.0.0.1:9' does not answer .*dask scheduler"):
        DaskCluster("tcp://127.0.0.1:9")


def test_a_scheduler_that_goes_away_ends_the_run(materials, tmp_path, one_thread):
    options = {"n_workers": 0, "processes": False, "dashboard_address": ":0", "silence_logs": "CRITICAL"}
    sweep = Sweep.read(materials.spec(tmp_path), output=tmp_path / "out")
    found = distributed.LocalCluster(**options)
    sweep.start(scheduler=found.scheduler_address)
    while not sweep.note:
        assert not sweep.wait(0.05)
    found.close()
    with pytest.raises(SchedulerLostError, match="run the sweep again to go on"):
        sweep.wait(60)
    assert {state.status for state in sweep.cells} == {"waiting"}
