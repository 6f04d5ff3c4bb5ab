"""A workbench for studying quantized language models on WebGPU.

Names are resolved on first use, so that `import workbench` stays fast: torch, wgpu and transformers load only
when something that needs them is touched.
"""

from __future__ import annotations

import importlib

from workbench.models.paths import settle_hub_cache

__version__ = "0.1.0"

settle_hub_cache()  # the libraries read it when they are imported

_LAZY = {
    "Study": "workbench.studies.fitting",
    "allocate": "workbench.precision.allocate",
    "compare": "workbench.kernel_bench.compare",
    "compare_models": "workbench.sweeps.model_comparison",
    "continue_prompt": "workbench.studies.continuation",
    "demo_model_path": "workbench.assets",
    "depth_errors": "workbench.studies.depth",
    "describe": "workbench.runtime.info",
    "load": "workbench.runtime.loading",
    "perplexity": "workbench.sweeps.scores",
    "quantize": "workbench.precision.quantize",
    "routing": "workbench.studies.routing",
    "run_kernel": "workbench.runtime.launch",
    "sweep": "workbench.sweeps.sweep",
    "tune": "workbench.runtime.tuning.tune",
    "table": "workbench.sweeps.table",
    "tables": "workbench.sweeps.table",
    "weight_errors": "workbench.studies.weight_errors",
}

__all__ = ["__version__", *_LAZY]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str):
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'workbench' has no attribute {name!r}; it has {sorted(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
