"""Devices of the runtime's tests: opened once, with no more than browsers promise."""

from __future__ import annotations

import pytest

from tests.support.steps import sizes_of_steps
from workbench.models.endings import HEADS
from workbench.models.families import architecture_of
from workbench.models.source import open_source

from .models import STACKABLE, write_random


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Small models run faster on one thread, and the same on every machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def few_steps():
    """For modules of tests whose subject the sizes of steps are not."""
    with sizes_of_steps(64, 16, 1):
        yield


@pytest.fixture(scope="session")
def open_promised():
    """Gives the shared device with promised limits; `open_promised(subgroups=False)` the one without subgroups."""
    from workbench.runtime.device import adapter_missing, open_device

    reason = adapter_missing()
    if reason:
        pytest.skip(reason)

    def give(*, subgroups: bool = True):
        return open_device(promised=True, subgroups=subgroups)

    return give


@pytest.fixture(scope="module")
def stackable(tmp_path_factory):
    return write_random(tmp_path_factory.mktemp("lowering") / "stackable", STACKABLE)


@pytest.fixture(scope="module")
def stackable_plans(stackable):
    source = open_source(stackable)
    config = architecture_of(source.config)
    return {head: config.build(source.describe, head=head) for head in HEADS}
