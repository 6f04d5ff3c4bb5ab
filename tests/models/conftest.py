"""Prompts of the families' tests are cut into a few sizes of step."""

from __future__ import annotations

import pytest

from tests.support.steps import sizes_of_steps


@pytest.fixture(scope="package", autouse=True)
def few_steps():
    """Tiles, a few tokens and one."""
    with sizes_of_steps(64, 4, 1):
        yield
