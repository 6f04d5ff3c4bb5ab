"""A Dask cluster: jobs become tasks of a scheduler that runs already (`dask.distributed`, an optional dependency).

A task whose worker is lost is run again by the scheduler. Jobs with `gpu` ask for one unit of the resource GPU, which
workers offer with `--resources GPU=1`, so that a device has one cell at a time.
"""

from __future__ import annotations

import queue
import secrets
from typing import Any

from workbench.errors import SchedulerLostError, SweepError

from .executor import Event

GPU = "GPU"
CONNECT_SECONDS = 15


def run_task(job: dict[str, Any], topic: str) -> dict[str, Any]:
    """A job on a Dask worker; tells its start and progress as events of `topic`."""
    from distributed import get_worker

    from .jobs import run_job
    from .worker import error_text, throttled

    worker = get_worker()

    def tell(kind: str, value: Any) -> None:
        worker.log_event(topic, {"key": job["key"], "kind": kind, "value": value})

    tell("started", f"{worker.name} at {worker.address}")
    try:
        return {"done": run_job(job, throttled(lambda share: tell("progress", share)))}
    except Exception as error:  # as text: the client may lack what is needed to unpickle it
        return {"failed": error_text(error)}


class DaskCluster:
    """An `Executor` on the scheduler at `address`, such as "tcp://host:8786", or a scheduler file's path.

    Raises SweepError if `distributed` is not installed or the scheduler does not answer.
    """

    slots = None

    def __init__(self, address: str) -> None:
        try:
            from distributed import Client
        except ImportError as error:
            raise SweepError(
                "--scheduler needs dask.distributed: pip install 'webgpu-quant-workbench[cluster]'"
            ) from error
        where: dict[str, Any] = (
            {"scheduler_file": address} if address.endswith(".json") else {"address": address}
        )
        try:
            self._client = Client(**where, timeout=CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError) as error:
            raise SweepError(
                f"scheduler {address!r} does not answer ({error}); allowed: the address that `dask scheduler` "
                "prints, such as tcp://host:8786, or its --scheduler-file"
            ) from error
        self._address = address
        self._events: queue.Queue[Event] = queue.Queue()
        self._topic = f"workbench-sweep-{secrets.token_hex(8)}"
        self._client.subscribe_topic(self._topic, self._heard)
        self._futures: dict[str, Any] = {}
        self._closed = False

    def note(self, gpu: bool) -> str:
        """What the user should know about the workers, or nothing."""
        workers = self._client.scheduler_info(n_workers=-1)["workers"].values()
        if not workers:
            return f"the scheduler {self._address} has no workers yet; cells wait until some join"
        if gpu and not any(worker.get("resources", {}).get(GPU) for worker in workers):
            return f"no worker offers the resource {GPU}; cells wait for one started with --resources {GPU}=1"
        return ""

    def submit(self, job: dict[str, Any], *, gpu: bool) -> None:
        key = job["key"]
        future = self._client.submit(
            run_task,
            job,
            self._topic,
            key=f"{self._topic}-{key}",
            pure=False,
            resources={GPU: 1} if gpu else None,
        )
        self._futures[key] = future
        future.add_done_callback(lambda done: self._finished(key, done))

    def next_event(self, timeout: float) -> Event | None:
        try:
            return self._events.get(timeout=timeout)
        except queue.Empty:
            scheduler = self._client.scheduler
            if self._client.status in ("closed", "connecting") or scheduler is None or not scheduler.comm:
                raise SchedulerLostError(
                    f"the connection to the scheduler {self._address} is lost; run the sweep again to go on"
                ) from None
            return None

    def close(self) -> None:
        self._closed = True
        for future in list(self._futures.values()):
            future.release()
        self._client.close()

    def _heard(self, event: Any) -> None:
        _, message = event  # time, and what `log_event` was given, to which distributed adds the worker
        self._events.put(Event(message["key"], message["kind"], message["value"]))

    def _finished(self, key: str, future: Any) -> None:
        self._futures.pop(key, None)
        if self._closed:
            return
        if future.status == "finished":
            [(kind, value)] = future.result().items()
            self._events.put(Event(key, kind, value))
        elif future.status == "error":  # no error of the job: those come back as text
            self._events.put(Event(key, "failed", str(future.exception())))
