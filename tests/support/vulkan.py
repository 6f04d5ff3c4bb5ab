"""An environment without a WebGPU adapter that kernels can run on: Vulkan's loader finds no driver."""

from __future__ import annotations

import os


def without_vulkan() -> dict[str, str]:
    """This process's environment, for one that is to find no adapter (Linux)."""
    nowhere = dict.fromkeys(("VK_ICD_FILENAMES", "VK_DRIVER_FILES"), os.devnull)
    return {name: value for name, value in os.environ.items() if name != "WORKBENCH_ADAPTER"} | nowhere
