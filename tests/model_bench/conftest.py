"""Conversions of the embedded model by format, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from workbench.assets import demo_model_path
from workbench.commands.conversions import convert_each


@pytest.fixture(scope="session")
def embedded(tmp_path_factory) -> dict[str, Path]:
    """Folders of the embedded model by format: f16 (unquantized), int8, int4, int2."""
    return convert_each(demo_model_path(), tmp_path_factory.mktemp("embedded"), ["int8", "int4", "int2"])
