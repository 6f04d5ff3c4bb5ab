"""The kernel library: each operation is a WGSL source paired with a PyTorch reference.

`get("rms_norm")` gives a pair, `names()` lists them. Pairs live in the modules named below, one subject a file.
Others come from anywhere: `@kernel` in a notebook's cell, or a package with an entry point of the group
"workbench.kernels", which names a module whose import registers its pairs.
"""

from __future__ import annotations

import functools
import importlib
import warnings
from importlib import metadata

from .library import Library
from .pair import (
    REGISTRY,
    Adapter,
    Context,
    Cost,
    Kernel,
    KernelUsageError,
    Port,
    Variant,
    forget,
    kernel,
    register,
)

ENTRY_POINTS = "workbench.kernels"

MODULES = (
    "activations.activations",
    "attention.attention",
    "attention.attention_reduce",
    "attention.attention_reduce_a8",
    "attention.attention_split",
    "attention.position_scale",
    "attention.rope",
    "cache.kv8",
    "cache.kv_append",
    "cache.rope_append",
    "experts.expert_linear",
    "experts.expert_sum",
    "experts.fused",
    "experts.route",
    "experts.sorted",
    "linear.gate_up",
    "linear.linear",
    "linear.linear_a8",
    "linear.norm_linear",
    "linear.norm_linear_a8",
    "linear.norm_qkv",
    "linear.norm_qkv_rows",
    "linear.sliced_a8",
    "lora.beside",
    "lora.lora_down",
    "lora.lora_up",
    "lora.slices",
    "logits.argmax_parts",
    "logits.divergence",
    "logits.logits",
    "logits.norm_argmax",
    "logits.tell",
    "logits.top_k",
    "norm.head_norm",
    "norm.rms_norm",
    "quantized.dequantize",
    "quantized.gated_mul_a8",
    "quantized.quantize_activations",
    "sampling.sample",
    "tokens.columns",
    "tokens.embedding",
    "tokens.rows",
)

__all__ = [
    "Adapter",
    "Context",
    "Cost",
    "Kernel",
    "KernelUsageError",
    "Library",
    "Port",
    "Variant",
    "forget",
    "get",
    "kernel",
    "library",
    "names",
    "register",
]


def load_library() -> None:
    """Import the modules of this library, whose pairs register themselves."""
    for module in MODULES:
        importlib.import_module(f"{__name__}.{module}")


@functools.cache
def load_packages() -> dict[str, str]:
    """Import what installed packages offer, once; what failed, by the entry point's name, and why (a warning too)."""
    failed = {}
    for point in metadata.entry_points(group=ENTRY_POINTS):
        try:
            point.load()
        except Exception as error:  # another package's code; the rest must stay usable
            failed[point.name] = f"{point.value}: {type(error).__name__}: {error}"
            warnings.warn(f"kernels of {point.name} could not be loaded: {failed[point.name]}", stacklevel=3)
    return failed


def library() -> Library:
    """What is registered now: this package's pairs, installed packages' and those of a notebook's cells.

        variant = wgsl_kernels.get("silu_mul").variants["elements"]
        wgsl_kernels.library().with_variant("silu_mul", "mine", variant)

    What is registered later is not in it.
    """
    load_library()
    load_packages()
    return Library(REGISTRY.values())


def names() -> list[str]:
    """Names of all registered kernels, sorted: the op, and in brackets what its operands are stored as.

        "linear[int4]" in wgsl_kernels.names()

    Those of installed packages and of cells are among them.
    """
    return library().names()


def get(name: str) -> Kernel:
    """The kernel of that name.

        wgsl_kernels.get("linear[int4]").variants

    Raises `KernelUsageError` listing the names there are.
    """
    for load in (dict, load_library, load_packages):
        failed = load() or {}
        if name in REGISTRY:
            return REGISTRY[name]
    lost = "".join(f"; {point} failed: {why}" for point, why in failed.items())
    raise KernelUsageError(f"no kernel is named {name!r}; there are {', '.join(sorted(REGISTRY))}{lost}")
