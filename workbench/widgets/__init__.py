"""Widgets for Jupyter: thin views over results that work without a browser.

Names are resolved on first use, so that one widget does not load what only another one needs.
"""

from __future__ import annotations

import importlib

_LAZY = {
    "Generator": "workbench.widgets.generator",
    "KernelLab": "workbench.widgets.kernel_lab",
    "ModelCard": "workbench.widgets.model_card",
    "PrecisionMap": "workbench.widgets.precision_map",
    "QuantizationExplorer": "workbench.widgets.explorer",
    "SweepBoard": "workbench.widgets.sweep_board",
}

__all__ = list(_LAZY)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str):
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'workbench.widgets' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
