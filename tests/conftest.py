"""Fixtures used by every room's tests."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

from tests.support.shallow import write_shallow
from tests.support.tiers import (  # noqa: F401  (pytest looks for hooks here)
    pytest_addoption,
    pytest_collection_modifyitems,
    pytest_sessionfinish,
    pytest_terminal_summary,
    pytest_testnodedown,
)

#: Kernels run with their defaults, whatever was measured on this machine; also in processes that tests start.
os.environ["WORKBENCH_TUNING"] = "off"
#: Mesa's software driver compiles without optimising, unless told otherwise: of these tests' small kernels compiling is
#: most of the cost. Read when the driver is loaded, so it also holds in processes that tests start.
os.environ.setdefault("GALLIVM_PERF", "nopt")

#: Objects made before the garbage collector looks: with Python's 700, and with thousands of tests and of modules looked
#: through each time, collecting takes a twentieth of the suite's time.
GARBAGE = 20_000

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_collection_finish(session: pytest.Session) -> None:
    """What was imported and collected stays until the end: the garbage collector need not look through it."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE)


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
