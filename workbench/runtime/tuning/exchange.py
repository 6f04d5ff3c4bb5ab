"""Measured choices of several machines: written to one file, read from it on another, and side by side in a table.

A file holds what the store does, one part for each adapter with its driver and versions of wgpu. What is read goes
into the store under the same adapter, so it is used where that adapter, driver and versions are the same, and by
kernels whose WGSL is the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import wgsl_kernels
from workbench.errors import WorkbenchError
from workbench.files.reading import read_bytes
from workbench.files.writing import write_json
from workbench.formats.errors import FormatError
from workbench.known import known
from workbench.show.table import Table

from .candidates import label
from .cases import Case
from .places import CHOICES, SIDES
from .store import (
    KIND,
    MOST_BYTES,
    VERSION,
    Entry,
    Store,
    entries_of,
    folder,
    forgetful,
    headed,
    need,
    parts_of,
)

EXPORT = "workbench-tuning-export"
#: What the facts about a machine name at least (`machine_facts`).
NAMED = ("device", "description", "backend_type", "wgpu", "wgpu_native")


@dataclass(frozen=True)
class Measured:
    """What was measured on one machine. facts: see `machine_facts`."""

    facts: Mapping[str, Any]
    entries: tuple[Entry, ...]

    @property
    def name(self) -> str:
        """Adapter, driver and versions."""
        facts = self.facts
        return (
            f"{facts['device']} ({facts['description']}, {facts['backend_type']}; "
            f"wgpu {facts['wgpu']}, wgpu-native {facts['wgpu_native']})"
        )

    @classmethod
    def from_json(cls, values: Any) -> Measured:
        """Raises `FormatError` naming the field that is not what it should be."""
        whole = isinstance(values, dict) and set(values) == {"machine", "entries"}
        need(whole, "machine", "one with entries and nothing else")
        facts = values["machine"]
        plain = isinstance(facts, dict) and all(isinstance(each, str | int) for each in facts.values())
        need(plain, "machine", "names with text and whole numbers")
        for name in NAMED:
            need(isinstance(facts.get(name), str), f"machine.{name}", "text")
        entries = tuple(entries_of(values["entries"]))
        for at, entry in enumerate(entries):
            try:
                Case.named(entry.case)
            except ValueError as error:
                raise FormatError(str(error), field=f"entries[{at}].case") from error
        return cls(facts, entries)


def stored() -> list[Measured]:
    """All that is remembered here, of every adapter. Raises `WorkbenchError`, `FormatError` for a damaged file."""
    where = folder()
    if where is None:
        raise WorkbenchError(f"there are no measured choices: {forgetful()}")
    found = []
    for path in sorted(where.glob(f"*.v{VERSION}.json")):
        try:
            values = parts_of(read_bytes(path, MOST_BYTES), KIND, "machine", "entries")
            found.append(Measured.from_json({name: values[name] for name in ("machine", "entries")}))
        except FormatError as error:
            raise error.at(file=path) from error
    return found


def export(path: str | Path) -> list[Measured]:
    """Write all that is remembered here to one file, whole or not at all, and give it back.

    Raises `WorkbenchError` where nothing was measured, `StorageError`.
    """
    found = [each for each in stored() if each.entries]
    if not found:
        raise WorkbenchError(f"nothing was measured: {folder()} is empty; `workbench tune MODEL` measures")
    machines = [{"machine": dict(each.facts), "entries": [asdict(e) for e in each.entries]} for each in found]
    write_json(path, headed(EXPORT, machines=machines))
    return found


def read(path: str | Path) -> list[Measured]:
    """What `export` wrote. Raises `FormatError` naming the file and the field that is damaged, `OSError`."""
    try:
        machines = parts_of(read_bytes(path, MOST_BYTES), EXPORT, "machines")["machines"]
        need(isinstance(machines, list), "machines", "a list")
        found = []
        for at, values in enumerate(machines):
            try:
                found.append(Measured.from_json(values))
            except FormatError as error:
                raise error.at(field=f"machines[{at}]") from error
    except FormatError as error:
        raise error.at(file=path) from error
    return found


def take(path: str | Path) -> tuple[list[Measured], list[str]]:
    """Remember what a file holds: (what was taken, what was not and why, one line each).

    Left out is what the library does not have: kernels, variants, values of tunables. Nothing is written where the
    file is damaged. Raises as `read` does, `WorkbenchError` where nothing can be remembered, `StorageError`.
    """
    if why := forgetful():
        raise WorkbenchError(f"{path} cannot be remembered: {why}")
    taken, skipped = [], []
    for each in read(path):
        reasons = [(entry, unknown(entry)) for entry in each.entries]
        skipped += [f"{each.name}: {reason}" for _, reason in reasons if reason]
        kept = Measured(each.facts, tuple(entry for entry, reason in reasons if not reason))
        if kept.entries:
            taken.append(kept)
    for each in taken:
        Store(known(folder()), each.facts).add(list(each.entries))
    return taken, skipped


def unknown(entry: Entry) -> str | None:
    """What of an entry's choice the library does not have, or None."""
    case, library = Case.named(entry.case), wgsl_kernels.library()
    if case.kernel in CHOICES:
        return None if entry.variant in SIDES else f"{case.kernel} has no side {entry.variant!r}"
    if case.kernel not in library.names():
        return f"there is no kernel {case.kernel}"
    variants = library.get(case.kernel).variants
    allowed = variants[entry.variant].tunables if entry.variant in variants else None
    chosen = {name: n for name, n in entry.tunables.items() if n != entry.default_tunables.get(name)}
    if allowed is None or any(value not in allowed.get(name, ()) for name, value in chosen.items()):
        return f"{case.kernel} {case.shape} has no {label(entry.variant, entry.tunables)}"
    return None


def side_by_side(machines: Sequence[Measured]) -> Table:
    """A row a case, a column a machine, with the time of the choice and the choice.

    Of several measurements of a case on a machine, under versions of its WGSL, the newest stands there.
    """
    columns = [{entry.case: entry for entry in _by_time(each.entries)} for each in machines]
    names = {name: Case.named(name) for column in columns for name in column}
    order = sorted(names, key=lambda name: (names[name].kernel, names[name].tokens, name))
    rows = []
    for name in order:
        case = names[name]
        types = ", ".join(dict.fromkeys(case.types.values()))
        rows.append(
            [case.kernel, case.shape, str(case.tokens), types, *(_cell(c.get(name)) for c in columns)]
        )
    return Table(
        ["kernel", "shape", "tokens", "types", *_apart([each.name for each in machines])], rows, "llr"
    )


def _apart(names: Sequence[str]) -> list[str]:
    """The names, with a number where one comes again: two files of one machine, before and after."""
    earlier = [names[:at].count(name) for at, name in enumerate(names)]
    return [f"{name} [{n + 1}]" if n else name for name, n in zip(names, earlier, strict=True)]


def _by_time(entries: Iterable[Entry]) -> list[Entry]:
    return sorted(entries, key=lambda entry: entry.created)


def _cell(entry: Entry | None) -> str:
    if entry is None:
        return "–"
    return f"{entry.seconds * 1e6:.1f} us, {label(entry.variant, entry.tunables)}"
