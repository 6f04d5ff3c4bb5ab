"""Devices for the kernel tests: open once, with no more than browsers promise."""

from __future__ import annotations

import pytest

from tests.support.threads import one_torch_thread
from workbench.runtime.device import Device, adapter_missing, open_device


@pytest.fixture(scope="package", autouse=True)
def one_thread():
    """References of small shapes."""
    with one_torch_thread():
        yield


@pytest.fixture(scope="session")
def device_with():
    """`device_with(subgroups)` gives the device with or without subgroups, with no more than browsers promise unless it
    is to be `native`; skips where there is none."""

    def give(subgroups: bool, native: bool = False) -> Device:
        reason = adapter_missing()
        if reason:
            pytest.skip(reason)
        device = open_device(promised=not native, subgroups=subgroups)
        if subgroups and not device.adapter.subgroups:
            pytest.skip(f"{device.name} has no subgroups")
        return device

    return give
