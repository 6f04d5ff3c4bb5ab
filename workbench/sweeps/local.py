"""Local worker processes, each with one job at a time.

They are started as `python -m workbench.sweeps.worker`, not forked and not multiprocessing's: a notebook needs no
`__main__` guard, no device handle is inherited, and a dead worker is known by its exit status together with its job.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from pathlib import Path
from typing import Any

import workbench
from workbench.known import known

from .executor import Event

#: A job that was running when its worker died is tried so often in all.
ATTEMPTS = 3


class LocalProcesses:
    """An `Executor` of `processes` workers on this machine; of jobs with `gpu` one runs at a time."""

    def __init__(self, processes: int | None = None) -> None:
        cpus = os.cpu_count() or 1
        self.slots: int = processes or max(1, cpus // 2)
        self._environment = {
            "OMP_NUM_THREADS": str(max(1, cpus // self.slots)),
            **os.environ,
            "PYTHONPATH": os.pathsep.join(
                [str(Path(workbench.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
            ),
        }
        self._events: queue.Queue[Event] = queue.Queue()
        self._waiting: deque[tuple[dict[str, Any], bool]] = deque()
        self._attempts: dict[str, int] = {}
        self._workers: list[_Worker] = []
        self._lock = threading.RLock()
        self._closed = False

    def note(self, gpu: bool) -> str:
        """Nothing: there is one machine."""
        return ""

    def submit(self, job: dict[str, Any], *, gpu: bool) -> None:
        with self._lock:
            self._waiting.append((job, gpu))
            self._fill()

    def next_event(self, timeout: float) -> Event | None:
        try:
            return self._events.get(timeout=timeout)
        except queue.Empty:
            return None

    def close(self) -> None:
        with self._lock:
            self._closed = True
            workers = list(self._workers)
        for worker in workers:
            worker.process.kill()
        for worker in workers:
            worker.thread.join()

    def _fill(self) -> None:
        """Give waiting jobs to idle workers, starting workers as needed. Holds the lock."""
        while not self._closed and self._waiting:
            gpu_busy = any(worker.gpu for worker in self._workers if worker.job)
            index = next((i for i, (_, gpu) in enumerate(self._waiting) if not (gpu and gpu_busy)), None)
            idle = next((worker for worker in self._workers if worker.job is None), None)
            if index is None or (idle is None and len(self._workers) >= self.slots):
                return
            job, gpu = self._waiting[index]
            del self._waiting[index]
            if idle is None:
                idle = _Worker(self._environment, self._answered, self._ended)
                self._workers.append(idle)
            self._attempts[job["key"]] = self._attempts.get(job["key"], 0) + 1
            self._events.put(Event(job["key"], "started", f"process {idle.process.pid}"))
            idle.give(job, gpu)

    def _answered(self, worker: _Worker, event: Event) -> None:
        with self._lock:
            if event.kind in ("done", "failed"):
                worker.job = None
            self._events.put(event)
            self._fill()

    def _ended(self, worker: _Worker, status: int) -> None:
        with self._lock:
            self._workers.remove(worker)
            job, gpu = worker.job, worker.gpu
            if job is not None and not self._closed:
                key, why = job["key"], f"its worker (process {worker.process.pid}) {_ending(status)}"
                if self._attempts[key] < ATTEMPTS:
                    self._events.put(Event(key, "again", why))
                    self._waiting.appendleft((job, gpu))
                else:
                    self._events.put(Event(key, "failed", f"{why}, as did {ATTEMPTS - 1} before it"))
            self._fill()


class _Worker:
    """A process, the job it has (None: idle), and the thread that reads its answers until it ends."""

    def __init__(self, environment: dict[str, str], answered, ended) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "workbench.sweeps.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            encoding="utf-8",
        )
        self.job: dict[str, Any] | None = None
        self.gpu = False
        self.thread = threading.Thread(target=self._listen, args=(answered, ended), daemon=True)
        self.thread.start()

    def give(self, job: dict[str, Any], gpu: bool) -> None:
        self.job, self.gpu = job, gpu
        try:
            known(self.process.stdin).write(json.dumps(job) + "\n")
            known(self.process.stdin).flush()
        except OSError:
            pass  # it has died: `_listen` finds out, with the job in hand

    def _listen(self, answered, ended) -> None:
        with self.process:
            for line in known(self.process.stdout):
                if line.endswith("\n"):  # else cut off by its death
                    answered(self, Event(**json.loads(line)))
            self.process.wait()
        ended(self, self.process.returncode)


def _ending(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    return f"was ended by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
