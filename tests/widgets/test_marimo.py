"""The widgets in marimo: a notebook of Jupyter's, converted by marimo and served as an app, in a real browser.

marimo is no part of what `make setup` installs (`pip install marimo` beside it); without it this is skipped. It puts
every widget into a shadow root.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.notebooks.execute import kernel_environment
from tests.notebooks.lab import wait_until_up
from tests.support.chromium import page_of
from tests.widgets import test_front_ends as cells
from tests.widgets.front_end import NAME, write_notebook

pytestmark = [pytest.mark.browser, pytest.mark.notebook, pytest.mark.release]

MODULES = {
    cells.GENERATOR: "generator",
    cells.EXPLORER: "explorer",
    cells.CARD: "model_card",
    cells.BOARD: "sweep_board",
    cells.MAP: "precision_map",
    cells.LAB: "kernel_lab",
}


class Shown:
    """What `test_front_ends` asks of a notebook, of a page in which all cells run by themselves."""

    def __init__(self, page) -> None:
        self.page = page

    def cell(self, index: int):
        """What lies around that cell's widget."""
        return self.page.locator(f':has(> .wb[data-wb="{MODULES[index]}"])')

    def run_and_wait(self, index: int) -> None:
        self.cell(index).wait_for()


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """The cells with widgets as an app of marimo's; yields its address."""
    write_notebook(folder, [cells.CELLS[index - 1] for index in MODULES])
    marimo = [sys.executable, "-m", "marimo"]
    # It finds what this process finds, wherever marimo was installed.
    environment = kernel_environment(folder) | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run([*marimo, "convert", NAME, "-o", "app.py"], cwd=folder, env=environment, check=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = folder / "server.log"
    command = [*marimo, "run", "--headless", "--no-token", f"--port={port}", "app.py"]
    with log.open("w") as out:
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=out)
        try:
            wait_until_up(f"http://127.0.0.1:{port}/health", server, log)
            yield f"http://127.0.0.1:{port}/"
        finally:
            server.terminate()
            server.wait(30)


def test_all_widgets_in_marimo(browser, adapter, tmp_path):
    pytest.importorskip("marimo")
    with served(tmp_path) as address, page_of(browser, address) as page:
        page.set_default_timeout(90_000)
        page.set_viewport_size({"width": 1280, "height": 1100})
        notebook = Shown(page)
        for index in MODULES:
            notebook.run_and_wait(index)
        section = cells.widget(notebook, cells.GENERATOR)
        section.get_by_label("new tokens").fill("5")
        section.get_by_role("button", name="Generate").click()
        cells.state(section, "done")
        section.locator("[data-at='4']").wait_for(state="attached")
        cells.explore_and_measure(notebook)
        cells.allocate(notebook)
        cells.edit_a_kernel(notebook)
        board = cells.widget(notebook, cells.BOARD)
        board.get_by_role("button", name=re.compile("Start|Resume")).click()
        cells.state(board, "done", 120)
        assert board.locator("tr[data-status='done']").count() == 2
        hosts = page.evaluate(
            "[...document.querySelectorAll('*')].filter((each) => each.shadowRoot?.querySelector('.wb')).length"
        )
        assert hosts == len(MODULES)  # so that this is about shadow roots
