"""The tests that `make test` leaves out: marked `release`, they play whole products for minutes.

What they are made of has shorter tests, which always run. `--release` runs them too; without it the last line says how
many were left out. pytest finds the hooks in tests/conftest.py.
"""

from __future__ import annotations

import pytest

#: Of a session: how many tests were left out. With pytest-xdist each worker collects all and reports them.
LEFT_OUT = pytest.StashKey[int]()
REPORTED = "left_out_for_release"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--release", action="store_true", help="run the tests marked `release` too (make test-all)"
    )


@pytest.hookimpl(trylast=True)  # what -k and -m leave out is not counted
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("release"):
        return
    left_out = [item for item in items if item.get_closest_marker("release")]
    config.stash[LEFT_OUT] = len(left_out)
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if not item.get_closest_marker("release")]


def pytest_sessionfinish(session: pytest.Session) -> None:
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output[REPORTED] = session.config.stash.get(LEFT_OUT, 0)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error) -> None:
    config = node.config
    config.stash[LEFT_OUT] = max(
        config.stash.get(LEFT_OUT, 0), getattr(node, "workeroutput", {}).get(REPORTED, 0)
    )


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter, exitstatus, config: pytest.Config) -> None:
    if count := config.stash.get(LEFT_OUT, 0):
        terminalreporter.write_line(
            f"left out: {count} {'test plays a whole product' if count == 1 else 'tests play whole products'}"
            " for minutes; `make test-all`, or pytest --release, runs them too"
        )
