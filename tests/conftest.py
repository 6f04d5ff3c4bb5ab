"""Fixtures used by every room's tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

#: Kernels run with their defaults, whatever was measured on this machine; also in processes that tests start.
os.environ["WORKBENCH_TUNING"] = "off"

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with real texts and checkpoints beside the repository; tests that need it are skipped without it."""
    folder = Path(os.environ.get("WORKBENCH_SHARED", REPOSITORY.parent / "shared"))
    if not (folder / "models").is_dir():
        pytest.skip(f"no shared models and texts at {folder} (set WORKBENCH_SHARED)")
    return folder


@pytest.fixture(scope="session")
def adapter() -> None:
    """Skips where there is no WebGPU adapter."""
    from workbench.runtime.device import adapter_missing

    if missing := adapter_missing():
        pytest.skip(missing)
