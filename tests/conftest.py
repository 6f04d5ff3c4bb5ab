"""Fixtures used by every room's tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.shallow import write_shallow

#: Kernels run with their defaults, whatever was measured on this machine; also in processes that tests start.
os.environ["WORKBENCH_TUNING"] = "off"
#: Mesa's software driver compiles without optimising, unless told otherwise: of these tests' small kernels compiling is
#: most of the cost. Read when the driver is loaded, so it also holds in processes that tests start.
os.environ.setdefault("GALLIVM_PERF", "nopt")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with real texts and checkpoints beside the repository; tests that need it are skipped without it."""
    folder = Path(os.environ.get("WORKBENCH_SHARED", REPOSITORY.parent / "shared"))
    if not (folder / "models").is_dir():
        pytest.skip(f"no shared models and texts at {folder} (set WORKBENCH_SHARED)")
    return folder


@pytest.fixture(scope="session")
def shallow(tmp_path_factory) -> Path:
    """A few layers of the embedded model: for what needs words and trained weights, and no depth."""
    return write_shallow(tmp_path_factory.mktemp("models") / "shallow")


@pytest.fixture(scope="session")
def adapter() -> None:
    """Skips where there is no WebGPU adapter."""
    from workbench.runtime.device import adapter_missing

    if missing := adapter_missing():
        pytest.skip(missing)
