"""The notebooks in the repository, as parameters and as files."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.notebooks.execute import scripts


@pytest.fixture(params=scripts(), ids=lambda path: path.stem)
def script(request) -> Path:
    """A py:percent file."""
    return request.param


@pytest.fixture
def stored(script):
    """The notebook of the script as it lies in the repository, with its outputs."""
    nbformat = pytest.importorskip("nbformat")
    return nbformat.read(script.with_suffix(".ipynb"), as_version=4)
