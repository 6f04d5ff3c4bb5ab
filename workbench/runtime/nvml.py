"""An NVIDIA GPU as its driver's library sees it: frequency, energy and memory, where nvidia-ml-py is installed.

The package is optional, and its functions fail one by one where a GPU, a driver or a container does not offer them;
what cannot be read is None.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Gpu:
    """One GPU. Made by `find_gpu`."""

    def __init__(self, library: Any, handle: Any):
        self._library, self._handle = library, handle

    def megahertz(self) -> float | None:
        """Frequency of the arithmetic units now."""
        return self._asked(lambda nvml: float(nvml.nvmlDeviceGetClockInfo(self._handle, nvml.NVML_CLOCK_SM)))

    def joules(self) -> float | None:
        """Energy that the whole board has taken since its driver was loaded; it moves on every tenth of a second or so.
        Other programs' work on the same GPU is in it."""
        return self._asked(lambda nvml: nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle) / 1e3)

    def free_bytes(self) -> int | None:
        """Memory that nobody has taken."""
        free = self._asked(lambda nvml: float(nvml.nvmlDeviceGetMemoryInfo(self._handle).free))
        return None if free is None else int(free)

    def _asked(self, question: Callable[[Any], float]) -> float | None:
        try:
            return question(self._library)
        except self._library.NVMLError:
            return None


def find_gpu(name: str) -> Gpu | None:
    """The first GPU of that name ("NVIDIA H200"); None where there is none, or nothing that knows it."""
    if "nvidia" not in name.lower():
        return None
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            found = pynvml.nvmlDeviceGetName(handle)
            if same_gpu(found.decode() if isinstance(found, bytes) else found, name):
                return Gpu(pynvml, handle)
    except pynvml.NVMLError:
        pass
    return None


def same_gpu(one: str, other: str) -> bool:
    """Whether two names mean one model of GPU; drivers add the maker's name or leave it out."""
    one, other = (text.lower().replace("nvidia", "").strip() for text in (one, other))
    return one == other
