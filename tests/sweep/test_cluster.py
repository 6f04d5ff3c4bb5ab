"""Sweeps on a Dask cluster: a real scheduler with real workers, one of which is killed."""

from __future__ import annotations

import itertools
import os
import signal
import time

import pytest

from tests.sweep.conftest import figures
from workbench.sweep.cells import Cell, SweepError, TextSource
from workbench.sweep.cluster import DaskCluster
from workbench.sweep.executor import ExecutorLostError
from workbench.sweep.schedule import Schedule
from workbench.sweep.store import Store
from workbench.sweep.sweep import Sweep

distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def cluster(one_thread):
    """Two worker processes under nannies, each offering one GPU to two threads."""
    options = {"n_workers": 2, "threads_per_worker": 2, "processes": True, "dashboard_address": ":0"}
    with distributed.LocalCluster(**options, resources={"GPU": 1}, silence_logs="CRITICAL") as found:
        yield found


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


def test_a_device_of_the_cluster_has_one_cell_at_a_time(cluster, unpaired):
    executor = DaskCluster(cluster.scheduler_address)
    try:
        assert executor.note(gpu=True) == ""
        with distributed.Client(cluster) as client, distributed.get_task_stream(client) as stream:
            run_all(executor, unpaired)
    finally:
        executor.close()
    spans: dict[str, list] = {}
    for task in stream.data:
        spans.setdefault(task["worker"], []).extend(
            (part["start"], part["stop"]) for part in task["startstops"] if part["action"] == "compute"
        )
    assert sum(map(len, spans.values())) == len(unpaired) == 4
    for found in spans.values():  # two threads a worker, but one GPU
        assert all(one[1] <= two[0] for one, two in itertools.pairwise(sorted(found)))


def test_a_local_device_has_one_cell_at_a_time(unpaired, workers):
    events = [(kind, key) for kind, key in run_all(workers, unpaired) if kind in ("started", "done")]
    assert [kind for kind, _ in events] == ["started", "done"] * 4
    assert all(one[1] == two[1] for one, two in zip(events[::2], events[1::2], strict=True))


def test_missing_workers_and_resources_are_told(one_thread):
    options = {"processes": False, "dashboard_address": ":0", "silence_logs": "CRITICAL"}
    with distributed.LocalCluster(n_workers=0, **options) as empty:
        executor = DaskCluster(empty.scheduler_address)
        assert "has no workers yet" in executor.note(gpu=False)
        empty.scale(1)
        empty.wait_for_workers(1)
        assert executor.note(gpu=False) == ""
        assert "--resources GPU=1" in executor.note(gpu=True)
        executor.close()


def test_a_scheduler_that_is_not_there(monkeypatch):
    monkeypatch.setattr("workbench.sweep.cluster.CONNECT_SECONDS", 0.5)
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
    with pytest.raises(ExecutorLostError, match="run the sweep again to go on"):
        sweep.wait(60)
    assert {state.status for state in sweep.cells} == {"waiting"}
