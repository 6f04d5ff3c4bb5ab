"""The file of measured choices: one for each adapter with its driver and the versions that compile for it.

It lies in `$WORKBENCH_TUNING`, else in `tuning` of the user's cache (`workbench.models.paths.cache_folder`);
`WORKBENCH_TUNING=off` means none, as does a user without a home directory. It is written whole, and merged with what
others have written meanwhile. Reading is total: a file that does not hold what it should is set aside with a warning,
and counts as empty.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from workbench.errors import WorkbenchWarning
from workbench.files.reading import read_bytes
from workbench.files.writing import storing, write_json
from workbench.formats.errors import FormatError
from workbench.formats.strict_json import strict_json
from workbench.models.paths import cache_folder, can_be_written, expanded

from ..provenance import adapter_facts, versions

KIND, VERSION = "workbench-tuning", 1
#: A value of `WORKBENCH_TUNING`.
OFF = "off"
#: A larger file was not written by us.
MOST_BYTES = 64 << 20
#: Entries kept of one case: each version of its WGSL has its own.
KEPT = 8
HASH = re.compile("[0-9a-f]{64}")


class TuningFileWarning(WorkbenchWarning):
    """A file of measured choices could not be read or written; the defaults are used."""


@dataclass(frozen=True)
class Entry:
    """A measured choice.

    case: name of the case. wgsl: `candidates.digest` of everything that took part. variant, tunables: what to use.
    default_variant, default_tunables: what would be used unmeasured. seconds, default_seconds: medians of a call in
    the deciding rounds; the latter is None for a default that did not pass its check. faster, spread: see `race.gain`;
    0 where the default stays, and None where every rival had left before. clock: as in `Timing`. measured: candidates
    timed; failed: "NAME: why". created: ISO 8601.
    """

    case: str
    wgsl: str
    variant: str
    tunables: Mapping[str, int]
    default_variant: str
    default_tunables: Mapping[str, int]
    seconds: float
    default_seconds: float | None
    faster: float
    spread: float | None
    rounds: int
    clock: str
    measured: int
    failed: tuple[str, ...]
    seed: int
    created: str

    @property
    def is_default(self) -> bool:
        return (self.variant, dict(self.tunables)) == (self.default_variant, dict(self.default_tunables))

    @property
    def key(self) -> str:
        return hashlib.sha256(f"{self.wgsl}\n{self.case}".encode()).hexdigest()

    @classmethod
    def from_json(cls, values: Any) -> Entry:
        """Raises `FormatError` naming the field that is not what it should be."""
        if not isinstance(values, dict) or set(values) != {each.name for each in fields(cls)}:
            raise FormatError("is not an entry with all of its fields and no others")
        for name in ("case", "wgsl", "variant", "default_variant", "clock", "created"):
            need(isinstance(values[name], str), name, "a string")
        need(HASH.fullmatch(values["wgsl"]) is not None, "wgsl", "a sha256")
        for name in ("tunables", "default_tunables"):
            whole = isinstance(values[name], dict) and all(type(n) is int for n in values[name].values())
            need(whole, name, "names with integers")
        for name in ("seconds", "default_seconds", "faster", "spread"):
            if values[name] is None and name in ("default_seconds", "spread"):
                continue
            number = type(values[name]) in (int, float) and abs(values[name]) <= sys.float_info.max
            need(number and (values[name] > 0 or "seconds" not in name), name, "a number in its range")
        for name in ("rounds", "measured", "seed"):
            need(type(values[name]) is int and values[name] >= 0, name, "a whole number")
        failed = values["failed"]
        need(isinstance(failed, list) and all(isinstance(e, str) for e in failed), "failed", "strings")
        return cls(**{**values, "failed": tuple(failed)})


def need(condition: bool, field: str, what: str) -> None:
    """Raises `FormatError` that the field is not what it should be."""
    if not condition:
        raise FormatError(f"is not {what}", field=field)


def headed(kind: str, **parts: Any) -> dict[str, Any]:
    """A file's values: its kind, the version, its parts."""
    return {"kind": kind, "version": VERSION, **parts}


def parts_of(data: bytes, kind: str, *names: str) -> dict[str, Any]:
    """The values of a file of that kind, as `headed` makes them. Raises `FormatError`."""
    values = strict_json(data)
    if not isinstance(values, dict) or set(values) != {"kind", "version", *names}:
        parts = ", ".join(("kind", "version", *names))
        raise FormatError(f"has other parts than {parts}", field="(whole file)")
    need(values["kind"] == kind and values["version"] == VERSION, "kind", f"{kind}, version {VERSION}")
    return values


def entries_of(values: Any) -> list[Entry]:
    """Entries of a list of JSON values. Raises `FormatError` naming the field that is not what it should be."""
    need(isinstance(values, list), "entries", "a list")
    found = []
    for at, each in enumerate(values):
        try:
            found.append(Entry.from_json(each))
        except FormatError as error:
            raise error.at(field=f"entries[{at}]") from error
    return found


def folder() -> Path | None:
    """Where the files lie, None if they are switched off or there is no home directory."""
    given = os.environ.get("WORKBENCH_TUNING", "")
    if given.lower() == OFF:
        return None
    if given:
        return expanded(given)
    cache = cache_folder()
    return None if cache is None else cache / "tuning"


def forgetful() -> str | None:
    """Why what is measured will not be remembered, or None."""
    if os.environ.get("WORKBENCH_TUNING", "").lower() == OFF:
        return "WORKBENCH_TUNING=off"
    where = folder()
    if where is None:
        return "there is no home directory; WORKBENCH_TUNING names a folder for it"
    if not can_be_written(where):
        return f"{where} cannot be written; WORKBENCH_TUNING names another folder"
    return None


def machine_facts(device) -> dict[str, Any]:
    """What a measurement holds for: adapter, driver, backend, the features in use, versions of wgpu.

    A software adapter computes on the host's cores, so these count for it.
    """
    from wgpu.backends.wgpu_native import lib_version_info

    facts = {
        **adapter_facts(device),
        "vendor_id": device.info.get("vendor_id", 0),
        "device_id": device.info.get("device_id", 0),
        "subgroups": device.adapter.subgroups,
        "subgroup_size": device.adapter.subgroup_size,
        "f16": device.adapter.f16,
        "wgpu": versions()["wgpu"],
        "wgpu_native": ".".join(map(str, lib_version_info)),
    }
    return facts | {"cpus": os.cpu_count() or 0} if device.adapter.is_cpu else facts


@dataclass(frozen=True)
class Store:
    """One file; `facts` say what for (`machine_facts`). It need not exist."""

    folder: Path
    facts: Mapping[str, Any]

    @cached_property
    def path(self) -> Path:
        name = re.sub(r"[^a-z0-9]+", "-", str(self.facts.get("device", "")).lower()).strip("-")[:40]
        digest = hashlib.sha256(json.dumps(dict(self.facts), sort_keys=True).encode()).hexdigest()
        return self.folder / f"{name or 'adapter'}-{digest[:16]}.v{VERSION}.json"

    def read(self) -> dict[str, Entry]:
        """Entries by key. A file that cannot be read gives none and a `TuningFileWarning`; a damaged one moves."""
        try:
            return self._parse(read_bytes(self.path, MOST_BYTES))
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except OSError as error:
            warn(f"{self.path} cannot be read ({error}); kernels run with their defaults")
        except FormatError as error:
            aside = self.path.with_suffix(".damaged")
            with contextlib.suppress(OSError):
                self.path.replace(aside)
            warn(f"{self.path}: {error}; set aside as {aside.name}, kernels run with their defaults")
        return {}

    def _parse(self, data: bytes) -> dict[str, Entry]:
        values = parts_of(data, KIND, "machine", "entries")
        need(values["machine"] == dict(self.facts), "machine", "the one that the file's name stands for")
        return {entry.key: entry for entry in entries_of(values["entries"])}

    def add(self, new: list[Entry]) -> Path:
        """Write the entries beside those that are there, replacing those of the same key. Raises `StorageError`."""
        with storing(self.path):
            self.folder.mkdir(parents=True, exist_ok=True)
        with _locked(self.path.with_suffix(".lock")):
            merged = {**self.read(), **{entry.key: entry for entry in new}}
            by_case: dict[str, list[Entry]] = {}
            for entry in sorted(merged.values(), key=lambda each: each.created):
                by_case.setdefault(entry.case, []).append(entry)
            kept = [asdict(entry) for entries in by_case.values() for entry in entries[-KEPT:]]
            write_json(self.path, headed(KIND, machine=dict(self.facts), entries=kept))
        return self.path


def open_store(device) -> Store | None:
    """The file for a device, None if `WORKBENCH_TUNING` is off or there is no home directory. Says once, with a
    `TuningFileWarning`, where tuning cannot be remembered."""
    where = folder()
    if (why := forgetful()) and os.environ.get("WORKBENCH_TUNING", "").lower() != OFF:
        _warn_once(f"tuning is not remembered: {why}")
    return None if where is None else Store(where, machine_facts(device))


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One writer at a time where the system has `flock`; elsewhere the last writer's merge wins."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with storing(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK, 0o666)
    try:
        with contextlib.suppress(OSError):  # some network file systems have no locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@functools.cache
def _warn_once(message: str) -> None:
    warn(message)


def warn(message: str) -> None:
    """Say that the file cannot be used; nothing fails for it."""
    warnings.warn(message, TuningFileWarning, stacklevel=3)
