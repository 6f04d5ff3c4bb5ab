"""A model of several shards and parts, to read and to damage."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.formats.models import SMALL, write_model
from workbench.formats import manifest as rules


@pytest.fixture(scope="module", params=["planar", "interleaved"])
def pristine(request, tmp_path_factory) -> Path:
    """A model of several shards and parts, never changed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rules, "MAX_PLANE", 1024)
        patch.setattr(rules, "MAX_SHARD", 8192)
        return write_model(tmp_path_factory.mktemp("pristine") / "model", request.param)


@pytest.fixture
def small_model(pristine, tmp_path) -> Path:
    """Four tensors of different kinds alone: as good as the whole, and faster to check."""
    layout = "interleaved" if "interleaved" in (pristine / "manifest.json").read_text() else "planar"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rules, "MAX_PLANE", 1024)
        patch.setattr(rules, "MAX_SHARD", 8192)
        return write_model(tmp_path / "small", layout, SMALL)


@pytest.fixture
def model(pristine, tmp_path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(pristine, tmp_path / "model"))
