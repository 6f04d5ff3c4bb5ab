"""Versions of what a conversion rests on, for its provenance; read without importing the packages."""

from __future__ import annotations

import platform
from importlib import metadata

PACKAGES = ("webgpu-quant-workbench", "numpy", "safetensors", "torch", "transformers", "tokenizers")


def versions() -> dict[str, str]:
    """Package name -> version; packages that are not installed are left out."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
