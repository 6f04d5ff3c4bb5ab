"""Which jobs a sweep still needs, and in which order: a conversion before its cells, a baseline before those paired."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from workbench.known import known

from .executor import Event
from .identity import conversion, key
from .store import Store

if TYPE_CHECKING:
    from .state import CellState


@dataclass
class Job:
    """payload: for the worker. needs: keys of jobs that must be done first. states: cells that it concerns."""

    payload: dict[str, Any]
    gpu: bool
    needs: set[str]
    states: list[CellState] = field(default_factory=list)
    submitted: bool = False

    @property
    def key(self) -> str:
        return self.payload["key"]

    @property
    def converts(self) -> bool:
        return self.payload["do"] == "convert"


class Schedule:
    """Jobs that are not done. keep: largest size of a baseline's logits to keep, in bytes."""

    def __init__(self, states: Sequence[CellState], store: Store, keep: int) -> None:
        self._jobs: dict[str, Job] = {}
        by_key = {state.key: state for state in states}
        missing = [state for state in states if state.status != "done"]
        wanted = {state.baseline for state in missing if state.baseline}
        self._again = {name for name in wanted if not store.has_baseline(name)}
        again = [by_key[name] for name in self._again]
        for state in missing + [state for state in again if state.status == "done"]:
            self._add(state, store, max(keep, 1) if state.key in wanted else 0)

    def _add(self, state: CellState, store: Store, keep: int) -> None:
        cell, needs, model = known(state.cell), set(), None
        if cell.options is not None:
            identity = conversion(state.identity)
            model = key(identity)
            if not store.has_model(model):
                needs.add(model)
                job = Job(_payload("convert", model, state, store, identity), False, set())
                self._jobs.setdefault(model, job).states.append(state)
        if state.baseline in self._again:
            needs.add(state.baseline)
        payload = _payload("score", state.key, state, store, state.identity)
        payload |= {"model": model, "baseline": state.baseline, "keep": keep}
        self._jobs[state.key] = Job(payload, cell.backend == "wgpu", needs, [state])

    @property
    def empty(self) -> bool:
        return not self._jobs

    def ready(self) -> Iterator[Job]:
        """Jobs that need nothing any more, each once; those that others need first."""
        waited = {name for job in self._jobs.values() for name in job.needs}
        jobs = [job for job in self._jobs.values() if not job.submitted and not job.needs]
        for job in sorted(jobs, key=lambda job: job.key not in waited):
            job.submitted = True
            yield job

    def apply(self, event: Event) -> list[CellState]:
        """Take an event; returns the cells that it changed."""
        job = self._jobs.get(event.key)
        if job is None:  # an answer of a job that has failed meanwhile
            return []
        if event.kind == "failed":
            return self._fail(job, event.value)
        if event.kind == "done":
            del self._jobs[job.key]
            for other in self._jobs.values():
                other.needs.discard(job.key)
        for state in job.states:
            _tell(state, event, job.converts)
        return job.states

    def _fail(self, job: Job, error: str) -> list[CellState]:
        """The job's cells fail, and all jobs that need it."""
        del self._jobs[job.key]
        changed = list(job.states)
        for state in job.states:
            state.status, state.stage, state.worker = "failed", "", ""
            state.error = f"quantizing: {error}" if job.converts else error
            if job.converts:
                self._jobs.pop(state.key, None)
        for other in [other for other in self._jobs.values() if job.key in other.needs]:
            changed += self._fail(other, f"{job.states[0].label}, which it needs, failed: {error}")
        return changed


def _payload(do: str, name: str, state: CellState, store: Store, identity: dict[str, Any]) -> dict[str, Any]:
    return {
        "do": do,
        "key": name,
        "folder": str(store.folder),
        "cell": known(state.cell).to_json(),
        "identity": identity,
    }


def _tell(state: CellState, event: Event, converts: bool) -> None:
    """What an event other than "failed" means to a cell. A conversion leaves its cells waiting."""
    if event.kind == "again":
        state.lost += 1
        state.wait()
    elif converts:
        state.stage = "quantizing" if event.kind in ("started", "progress") else ""
    elif event.kind == "started":
        state.status, state.stage, state.progress, state.worker = "running", "scoring", 0.0, str(event.value)
        state.began = time.time()
    elif event.kind == "progress":
        state.progress = float(event.value)
    elif event.kind == "done":
        state.status, state.stage, state.progress, state.worker = "done", "", 1.0, ""
        state.seconds = event.value["seconds"]
