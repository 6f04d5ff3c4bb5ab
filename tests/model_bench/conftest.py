"""Conversions of a few layers of the embedded model by format, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.steps import sizes_of_steps
from workbench.commands.conversions import convert_each


@pytest.fixture(scope="package", autouse=True)
def few_steps():
    with sizes_of_steps(64, 1):
        yield


@pytest.fixture(scope="session")
def converted(shallow, tmp_path_factory) -> dict[str, Path]:
    """Folders of the shallow model by format: f16 (unquantized), int8, int4, int2."""
    return convert_each(shallow, tmp_path_factory.mktemp("converted"), ["int8", "int4", "int2"])
