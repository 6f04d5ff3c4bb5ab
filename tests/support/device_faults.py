"""A device that fails: at a call of a kind that is counted, memory ends, or the device is lost."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import wgpu

from workbench.runtime.device import Device, find_adapter

#: Calls that can fail, by the object that they are methods of.
CALLS = {
    "create_buffer": "device",
    "create_bind_group": "device",
    "create_compute_pipeline": "device",
    "create_command_encoder": "device",
    "submit": "queue",
}


class OwnDevices:
    """Devices of a test's own, so that breaking one breaks no other test's; a lost one is replaced."""

    def __init__(self) -> None:
        self.opened: list[Device] = []

    def __call__(self) -> Device:
        if not self.opened or self.opened[-1].lost:
            self.opened.append(Device(find_adapter(), promised=True))
        return self.opened[-1]


def ends_memory(device: Device) -> None:
    """What wgpu does where there is none left."""
    raise wgpu.GPUOutOfMemoryError("Not enough memory left")


def loses(device: Device) -> None:
    """The device is lost, and what is being called finds that out."""
    device.wgpu.destroy()


@contextmanager
def failing(device: Device, kind: str, at: Container[int], fault: Callable[[Device], None]) -> Iterator[None]:
    """`fault(device)` in front of the calls of a kind whose numbers are `at`, counted from 1 here."""
    owner: Any = device.wgpu if CALLS[kind] == "device" else device.wgpu.queue
    real, numbers = getattr(owner, kind), count(1)

    def counted(*arguments: Any, **options: Any) -> Any:
        if next(numbers) in at:
            fault(device)
        return real(*arguments, **options)

    setattr(owner, kind, counted)
    try:
        yield
    finally:
        delattr(owner, kind)
