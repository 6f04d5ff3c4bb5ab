"""Sizes of steps for tests whose subject they are not: each size of step is compiled anew, and running is cheap."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from workbench.runtime import wgpu_executor


@contextlib.contextmanager
def sizes_of_steps(*sizes: int) -> Iterator[None]:
    """In this process prompts are cut into steps of these sizes alone, largest first, the last 1.

    Most of tests/runtime, and the processes that tests start, have all of `CHUNKS`.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wgpu_executor, "CHUNKS", sizes)
        yield
