"""The frequency a GPU runs at, where something tells: beside a time, it says what the time is worth.

An NVIDIA GPU is asked through NVML (the package nvidia-ml-py) or, without that, through nvidia-smi. No other driver
has a common way to ask; there the answer is None.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import Callable

#: Megahertz of the arithmetic units now.
Frequency = Callable[[], float | None]


def frequency_of(name: str) -> Frequency | None:
    """How to read the frequency of the GPU of that name ("NVIDIA H200"); None where nothing tells it."""
    if "nvidia" not in name.lower():
        return None
    return _by_nvml(name) or _by_nvidia_smi(name)


def _by_nvml(name: str) -> Frequency | None:
    try:
        import pynvml
    except ImportError:
        return None

    def read(handle: object) -> float | None:
        try:
            return float(pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM))
        except pynvml.NVMLError:
            return None

    try:
        pynvml.nvmlInit()
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            found = pynvml.nvmlDeviceGetName(handle)
            found = found.decode() if isinstance(found, bytes) else found
            if same_gpu(found, name):
                return functools.partial(read, handle)
    except pynvml.NVMLError:
        pass
    return None


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


def same_gpu(one: str, other: str) -> bool:
    """Whether two names mean one model of GPU; drivers add the maker's name or leave it out."""
    one, other = (text.lower().replace("nvidia", "").strip() for text in (one, other))
    return one == other
