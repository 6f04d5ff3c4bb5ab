"""What is chosen before a model is loaded, and why: backend, size of the cache, adapter."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from workbench.errors import NoAdapterError, WorkbenchError
from workbench.models.llama import ACTIVATIONS, CACHES, cache_type
from workbench.models.llama_config import LlamaConfig

#: Positions of the cache unless asked for: a model's context may be far larger than a first look needs.
DEFAULT_MAX_TOKENS = 8192


@dataclass(frozen=True)
class Choices:
    """backend: "wgpu" or "torch". max_tokens: positions of the cache. device: the open device of "wgpu", else None.
    tuned: what was measured on it. reasons: (what, chosen, why)."""

    backend: str
    max_tokens: int
    device: Any
    tuned: Any
    reasons: list[tuple[str, str, str]]


def choose(
    config: LlamaConfig, backend: str | None, dtype: str, max_tokens: int | None, cache: str | None = None
) -> Choices:
    """Raises `NoAdapterError` if wgpu is asked for and cannot be had, `WorkbenchError` for other impossible wishes."""
    if dtype not in ACTIVATIONS:
        raise WorkbenchError(f"dtype is one of {', '.join(ACTIVATIONS)}, not {dtype!r}")
    if cache is not None and cache not in CACHES:
        raise WorkbenchError(f"cache is one of {', '.join(CACHES)}, not {cache!r}")
    name, why = _backend(backend)
    capacity, capacity_why = _max_tokens(config, max_tokens)
    stored, stored_why = cache or cache_type(dtype), "asked for" if cache else "as the inputs of attention"
    reasons = [
        ("backend", name, why),
        ("max_tokens", str(capacity), capacity_why),
        ("cache", stored, stored_why),
    ]
    if name == "torch":
        return Choices(name, capacity, None, None, reasons)

    from .device import open_device
    from .tuning.tuned import open_tuned

    device = open_device()
    wanted = os.environ.get("WORKBENCH_ADAPTER")
    adapter_why = (
        f"WORKBENCH_ADAPTER={wanted}" if wanted else "the most powerful; WORKBENCH_ADAPTER picks another"
    )
    reasons.append(("adapter", device.name, adapter_why))
    for option, given in (("dtype", dtype), ("cache", stored)):
        if given == "f16" and not device.adapter.f16:
            raise WorkbenchError(f"the adapter {device.name} has no shader-f16; use {option}='f32'")
    tuned = open_tuned(device)
    if len(tuned):
        reasons.append(("kernels", f"{len(tuned)} measured choices", f"where they apply, from {tuned.path}"))
    else:
        reasons.append(
            ("kernels", "defaults", "nothing was measured on this adapter; `workbench tune` does it")
        )
    return Choices(name, capacity, device, tuned, reasons)


def _backend(backend: str | None) -> tuple[str, str]:
    if backend not in (None, "wgpu", "torch"):
        raise WorkbenchError(f"backend is 'wgpu' or 'torch', not {backend!r}")
    if backend == "torch":
        return "torch", "asked for"

    from .device import adapter_missing

    missing = adapter_missing()
    if missing is None:
        return "wgpu", "asked for" if backend else "there is a WebGPU adapter"
    if backend == "wgpu":
        raise NoAdapterError(missing)
    return "torch", f"{missing}; the PyTorch references run instead"


def _max_tokens(config: LlamaConfig, max_tokens: int | None) -> tuple[int, str]:
    if max_tokens is None:
        chosen = min(config.context_length, DEFAULT_MAX_TOKENS)
        limit = "the model's context" if chosen == config.context_length else f"the default limit {chosen}"
        return chosen, f"{limit}; max_tokens changes it"
    if max_tokens < 1:
        raise WorkbenchError(f"max_tokens is at least 1, not {max_tokens}")
    return max_tokens, "asked for"
