"""The frequency a GPU runs at, where something tells: beside a time, it says what the time is worth.

An NVIDIA GPU is asked through NVML (the package nvidia-ml-py) or, without that, through nvidia-smi. No other driver
has a common way to ask; there the answer is None.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable

from .nvml import find_gpu, same_gpu

#: Megahertz of the arithmetic units now.
Frequency = Callable[[], float | None]


def frequency_of(name: str) -> Frequency | None:
    """How to read the frequency of the GPU of that name ("NVIDIA H200"); None where nothing tells it."""
    if "nvidia" not in name.lower():
        return None
    gpu = find_gpu(name)
    return _by_nvidia_smi(name) if gpu is None else gpu.megahertz


def _by_nvidia_smi(name: str) -> Frequency | None:
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, "--query-gpu=name,clocks.sm", "--format=csv,noheader,nounits"]

    def read() -> float | None:
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        return megahertz(done.stdout, name)

    return read if read() is not None else None


def megahertz(table: str, name: str) -> float | None:
    """Of the GPU of that name, from lines such as "NVIDIA H200, 1980"; None where there is no such line."""
    for line in table.splitlines():
        found, _, value = line.rpartition(",")
        if same_gpu(found, name):
            try:
                return float(value)
            except ValueError:
                return None
    return None
