"""Which WebGPU adapters there are, and which one is meant: by argument, by `WORKBENCH_ADAPTER`, or the most powerful.

An adapter is named by a part of its name ("nvidia", "llvmpipe"), in upper or lower case, or by its place in the list
that `workbench adapters` prints. One or two figures are a place, more are a part of a name ("4090").
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import wgpu

from workbench.errors import NoAdapterError, WorkbenchError

#: OpenGL adapters lack what the kernels need.
BACKENDS = ("Vulkan", "Metal", "D3D12")
#: Features that kernels and clocks use where an adapter has them.
OPTIONAL_FEATURES = ("subgroup", "shader-f16", "timestamp-query", "timestamp-query-inside-passes")
#: Limits that decide how tensors are cut and which variants run.
LIMITS = (
    "max-storage-buffer-binding-size",
    "max-buffer-size",
    "max-compute-workgroup-storage-size",
    "max-compute-invocations-per-workgroup",
    "max-storage-buffers-per-shader-stage",
)
VARIABLE = "WORKBENCH_ADAPTER"
_PLACE = re.compile(r"\d{1,2}")


def describe_adapter(info) -> str:
    """One line: device, driver, backend."""
    return f"{info['device']} ({info['description'] or info['vendor']}, {info['backend_type']}, {info['adapter_type']})"


@dataclass(frozen=True)
class AdapterFacts:
    """An adapter of the list. index: its place; name: device, driver, backend in a line. features: those of
    `OPTIONAL_FEATURES` that it has; limits: bytes and counts by name, of `LIMITS`. usable: whether kernels can run on
    it; default: whether it is what runs where nothing else is asked for (`WORKBENCH_ADAPTER` counts)."""

    index: int
    name: str
    device: str
    driver: str
    backend: str
    kind: str
    features: tuple[str, ...]
    limits: dict[str, int]
    usable: bool
    default: bool

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"features": list(self.features)}


def wanted_adapter(adapter: str | int | None = None) -> tuple[str, str] | None:
    """(name or place, who asks for it in words), None where nobody does. adapter: the caller's wish, which goes before
    the environment's. Raises `WorkbenchError` for what is neither a name nor a place."""
    if adapter is None:
        text = os.environ.get(VARIABLE, "").strip()
        return (text, f"{VARIABLE}={text!r} (or --adapter)") if text else None
    if isinstance(adapter, bool) or not isinstance(adapter, str | int) or not str(adapter).strip():
        raise WorkbenchError(
            f"adapter is a part of a name or a place in the list of adapters, not {adapter!r}"
        )
    text = str(adapter).strip()
    return text, f"the adapter {text!r} that was asked for"


def find_adapter(adapter: str | int | None = None) -> wgpu.GPUAdapter:
    """The adapter that is wanted (`wanted_adapter`), else the most powerful one. Raises `NoAdapterError`."""
    wanted = wanted_adapter(adapter)
    with _looking():
        if wanted is not None:
            return _pinned(_all(), *wanted)
        found = wgpu.gpu.request_adapter_sync(power_preference="high-performance")
    if found is None:
        raise NoAdapterError(
            "no WebGPU adapter was found; install a Vulkan driver (mesa-vulkan-drivers has one)"
        )
    if not _usable(found):
        raise NoAdapterError(
            f"the only adapter is {describe_adapter(found.info)}; kernels need one of {', '.join(BACKENDS)}"
        )
    return found


def list_adapters(adapter: str | int | None = None) -> list[AdapterFacts]:
    """All adapters, also those that kernels cannot run on. Raises `NoAdapterError` where wgpu cannot look for them."""
    with _looking():
        found = _all()
    try:
        chosen = find_adapter(adapter).info
    except NoAdapterError:
        chosen = None
    marked = False
    rows = []
    for index, each in enumerate(found):
        default = not marked and chosen is not None and dict(each.info) == dict(chosen)
        marked = marked or default
        rows.append(
            AdapterFacts(
                index,
                describe_adapter(each.info),
                each.info["device"],
                each.info["description"] or each.info["vendor"],
                each.info["backend_type"],
                each.info["adapter_type"],
                tuple(f for f in OPTIONAL_FEATURES if f in each.features),
                {name: int(each.limits[name]) for name in LIMITS},
                _usable(each),
                default,
            )
        )
    return rows


def _all() -> list[wgpu.GPUAdapter]:
    return list(wgpu.gpu.enumerate_adapters_sync())


def _usable(adapter: wgpu.GPUAdapter) -> bool:
    return adapter.info["backend_type"] in BACKENDS


def _pinned(adapters: list[wgpu.GPUAdapter], text: str, who: str) -> wgpu.GPUAdapter:
    if _PLACE.fullmatch(text):
        found = adapters[int(text) : int(text) + 1]
    else:
        found = [each for each in adapters if text.lower() in each.summary.lower()]
    usable = [each for each in found if _usable(each)]
    if usable:
        return usable[0]
    if found:
        raise NoAdapterError(
            f"{who} is {describe_adapter(found[0].info)}; kernels need one of {', '.join(BACKENDS)}"
        )
    have = "; ".join(f"{index}: {each.summary}" for index, each in enumerate(adapters)) or "none"
    raise NoAdapterError(f"{who} matches no adapter; there are: {have}")


@contextlib.contextmanager
def _looking() -> Iterator[None]:
    """Around what asks wgpu for adapters: whatever goes wrong there means that there is none."""
    if "XDG_RUNTIME_DIR" not in os.environ:
        # Mesa's driver looks for a Wayland display, and complains on stderr where this is not set.
        with contextlib.suppress(OSError):  # no folder for temporary files
            os.environ["XDG_RUNTIME_DIR"] = tempfile.gettempdir()
    try:
        yield
    except NoAdapterError:
        raise
    except Exception as error:  # wgpu raises RuntimeError where there is no Vulkan loader or driver
        raise NoAdapterError(f"no WebGPU adapter was found ({error}); install a Vulkan driver") from error
