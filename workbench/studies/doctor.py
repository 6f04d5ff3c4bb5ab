"""What this machine can do, what it cannot, and what to do about it: `workbench doctor`.

    print(examine())

Nothing is sent anywhere, and nothing is written but for an empty file in the cache folder, to see whether it can be.
"""

from __future__ import annotations

import platform
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

from packaging.requirements import Requirement

from wgsl_kernels.weights import WEIGHT_FORMATS
from workbench.errors import WorkbenchError
from workbench.kernel_bench.compare import compare
from workbench.kernel_bench.comparison import PASSED, UNSUPPORTED
from workbench.models.paths import cache_folder
from workbench.runtime.adapters import AdapterFacts, list_adapters
from workbench.runtime.device import open_device
from workbench.show.table import Table

OK, NOTE, FAILED = "ok", "note", "failed"
DISTRIBUTION = "webgpu-quant-workbench"
#: Bytes of the cache folder's disk below which a published model may not fit.
LITTLE = 5 << 30
#: A binding that holds any matrix of an 8B model in INT8; below it they are bound in ranges of rows.
LARGE_BINDING = 1 << 29
#: Optional features -> what is slower or missing without them.
FEATURES = {
    "shader-f16": "f16 activations (--dtype f16) and sums in f16 need it",
    "subgroup": "sums within a workgroup take trees in shared memory instead",
    "timestamp-query": "kernels are timed by the wall clock, many calls at once",
}
#: One call of each form that a model runs: kernel -> sizes.
CALLS: dict[str, dict[str, Any]] = {
    "rms_norm": {"tokens": 3, "hidden": 320},
    "attention": {},
    "softmax": {},
    "sample": {},
    **{f"linear[{fmt}]": {"tokens": 1, "n": 96, "k": 320} for fmt in WEIGHT_FORMATS},
    **{f"linear[{fmt}, a8]": {"tokens": 1, "n": 96, "k": 320} for fmt in ("int8", "int4", "int2")},
}


@dataclass(frozen=True)
class Finding:
    """about: what was looked at; state: OK, NOTE (it works, but one should know) or FAILED; found: what there is;
    advice: what to do, "" for nothing."""

    about: str
    state: str
    found: str
    advice: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """What `examine` found, in order."""

    findings: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        """Whether nothing failed."""
        return all(each.state != FAILED for each in self.findings)

    def table(self) -> Table:
        """A row a finding."""
        rows = [[each.about, each.state, each.found, each.advice] for each in self.findings]
        return Table(["", "state", "found", "what to do"], rows, "l")

    def to_json(self) -> dict[str, Any]:
        return {"healthy": self.healthy, "findings": [asdict(each) for each in self.findings]}

    def __str__(self) -> str:
        lines = []
        for each in self.findings:
            lines.append(f"{each.state:6}  {each.about}: {each.found}")
            lines += [f"        -> {each.advice}"] if each.advice else []
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return self.table().html()


def examine() -> Diagnosis:
    """Look at Python, packages, adapter, a kernel of each form, disk and tools. Raises nothing: what fails is a
    finding."""
    return Diagnosis((*_python(), *_adapter(), *_cache(), *_tools()))


def _python() -> Iterator[Finding]:
    yield Finding("Python", OK, f"{platform.python_version()} on {platform.platform()}")
    wrong, found = [], []
    for text in metadata.requires(DISTRIBUTION) or ():
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        found.append(f"{requirement.name} {version}")
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} {version} is none of {requirement.specifier}")
    if wrong:
        yield Finding("packages", FAILED, "; ".join(wrong), f"pip install --upgrade {DISTRIBUTION}")
    else:
        yield Finding("packages", OK, ", ".join(found[:4]) + f" and {len(found) - 4} more")


def _adapter() -> Iterator[Finding]:
    try:
        device = open_device()
        found = next(each for each in list_adapters() if each.default)
    except WorkbenchError as error:
        yield Finding(
            "adapter",
            FAILED,
            str(error),
            "install a GPU's Vulkan driver, or a software one (Debian: apt install mesa-vulkan-drivers); until then "
            "models run through the PyTorch references (--backend torch)",
        )
        return
    software = found.kind == "CPU"
    advice = "right numbers, but times of a CPU; a GPU needs its Vulkan driver" if software else ""
    yield Finding("adapter", NOTE if software else OK, found.name, advice)
    yield from _abilities(found)
    yield _kernels(device)


def _abilities(adapter: AdapterFacts) -> Iterator[Finding]:
    absent = [f"{name} is missing: {told}" for name, told in FEATURES.items() if name not in adapter.features]
    state = NOTE if absent else OK
    yield Finding("features", state, ", ".join(adapter.features) or "none", "; ".join(absent))
    binding = adapter.limits["max-storage-buffer-binding-size"]
    small = binding < LARGE_BINDING
    told = "larger matrices are bound in ranges of rows, which costs a dispatch each" if small else ""
    yield Finding("largest binding", NOTE if small else OK, f"{binding / 2**20:,.0f} MiB", told)


def _kernels(device: Any) -> Finding:
    """Each call against its reference in f64."""
    wrong, checked = [], 0
    for name, sizes in CALLS.items():
        try:
            results = compare(name, rounds=0, device=device, **sizes).results
        except WorkbenchError as error:
            wrong.append(f"{name}: {error}")
            continue
        checked += sum(each.status == PASSED for each in results)
        off = [each for each in results if each.status not in (PASSED, UNSUPPORTED)]
        wrong += [f"{name}/{each.variant}: {each.status}" for each in off]
    if wrong:
        advice = "update the driver; `workbench certify FILE` says how far off each kernel is, for a report"
        return Finding("kernels", FAILED, "; ".join(wrong), advice)
    return Finding("kernels", OK, f"{checked} variants of {len(CALLS)} kernels agree with their references")


def _cache() -> Iterator[Finding]:
    folder = cache_folder()
    if folder is None:
        yield Finding(
            "cache folder", NOTE, "there is no home directory", "set WORKBENCH_CACHE to fetch models by name"
        )
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        free = shutil.disk_usage(folder).free
    except OSError as error:
        advice = "set WORKBENCH_CACHE to a folder that can be written"
        yield Finding("cache folder", FAILED, f"{folder}: {error.strerror}", advice)
        return
    little = free < LITTLE
    advice = (
        "published models of 1B and more may not fit; WORKBENCH_CACHE names another disk" if little else ""
    )
    yield Finding("cache folder", NOTE if little else OK, f"{folder}, {free / 1e9:,.1f} GB free", advice)


def _tools() -> Iterator[Finding]:
    """What `certify` runs kernels in, and the tests; nothing else needs them."""
    for about, names in (("browser", ("chromium", "google-chrome", "chrome")), ("Node.js", ("node",))):
        path = next(filter(None, map(shutil.which, names)), None)
        advice = "" if path else "only `workbench certify` and the tests use it"
        yield Finding(about, OK if path else NOTE, path or "not found", advice)
