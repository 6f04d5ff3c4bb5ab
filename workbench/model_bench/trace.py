"""A decode step as a trace that Chrome (chrome://tracing) and Perfetto (ui.perfetto.dev) open.

The Trace Event Format: complete events ("ph": "X") with begin and length in microseconds. Two rows a step: its
dispatches one by one, and the whole of it undivided.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.files.writing import write_json

if TYPE_CHECKING:
    from .step_profile import StepProfile

#: Rows of a process.
APART, UNDIVIDED = 1, 2


def step_events(profile: StepProfile, process: int = 1, name: str = "") -> list[dict[str, Any]]:
    """The events of one step, as a process of that number and name."""
    title = f"{name}: {profile.notes()}" if name else profile.notes()
    events: list[dict[str, Any]] = [
        _named("process_name", process, 0, f"{profile.device}; {title}"),
        _named("thread_name", process, APART, "dispatches, each for itself"),
        _named("thread_name", process, UNDIVIDED, "the step, undivided"),
    ]
    for each in profile.dispatches:
        more: dict[str, Any] = {"kernel": each.kernel, "variant": each.variant, "chosen": each.reason}
        if each.bytes is not None:
            more["bytes"] = each.bytes
            if each.seconds > 0:
                more["GB/s"] = each.bytes / each.seconds / 1e9
        events.append(_event(each.output, each.kernel, process, APART, each.start_s, each.seconds, more))
    whole = {"dispatches": len(profile.dispatches), "position": profile.position, "clock": profile.clock}
    if profile.mhz:
        whole |= {"MHz, lowest": min(profile.mhz), "MHz, highest": max(profile.mhz)}
    events.append(_event("step", "step", process, UNDIVIDED, 0.0, profile.whole_s, whole))
    return events


def save_trace(
    path: str | Path, profiles: Sequence[tuple[str, StepProfile]], record: Mapping[str, Any]
) -> None:
    """Write steps with their names, each as a process, and a record of how they were measured."""
    events = [
        event
        for process, (name, profile) in enumerate(profiles, 1)
        for event in step_events(profile, process, name)
    ]
    write_json(Path(path), {"traceEvents": events, "displayTimeUnit": "ns", "metadata": dict(record)})


def _named(what: str, process: int, row: int, name: str) -> dict[str, Any]:
    return {"name": what, "ph": "M", "pid": process, "tid": row, "args": {"name": name}}


def _event(
    name: str, category: str, process: int, row: int, start: float, seconds: float, more: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "name": name,
        "cat": category,
        "ph": "X",
        "ts": 1e6 * start,
        "dur": 1e6 * seconds,
        "pid": process,
        "tid": row,
        "args": dict(more),
    }
