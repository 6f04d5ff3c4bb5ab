"""The kernel library: each operation is a WGSL source paired with a PyTorch reference.

`get("rms_norm")` gives a pair, `names()` lists them. Pairs live in the modules named below, one subject a file.
"""

from __future__ import annotations

import importlib

from .pair import REGISTRY, Adapter, Context, Cost, Kernel, KernelUsageError, Port, Variant, kernel

MODULES = (
    "activations",
    "attention",
    "attention_split",
    "dequantize",
    "embedding",
    "kv_append",
    "linear",
    "linear_a8",
    "logits",
    "norm_linear",
    "quantize_activations",
    "rms_norm",
    "rope",
    "rows",
)

__all__ = [
    "Adapter",
    "Context",
    "Cost",
    "Kernel",
    "KernelUsageError",
    "Port",
    "Variant",
    "get",
    "kernel",
    "names",
]


def _load() -> None:
    for module in MODULES:
        importlib.import_module(f"{__name__}.{module}")


def names() -> list[str]:
    """Names of all registered kernels, sorted."""
    _load()
    return sorted(REGISTRY)


def get(name: str) -> Kernel:
    """The kernel of that name; raises `KernelUsageError` listing the names there are."""
    if name not in REGISTRY:
        _load()
    if name not in REGISTRY:
        raise KernelUsageError(f"no kernel is named {name!r}; there are {', '.join(sorted(REGISTRY))}")
    return REGISTRY[name]
