"""A JupyterLab of one's own, and the few things that a test does with a notebook in it."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tests.notebooks.execute import kernel_environment

START_S = 90
#: The prompt of a cell that has run.
DONE = re.compile(r"\[\d+\]:")


@contextlib.contextmanager
def jupyter_lab(folder: Path, home: Path) -> Iterator[tuple[str, str]]:
    """Serve `folder` with JupyterLab, everything that Jupyter stores going to `home`; yields (address, token).

    Its pages have the application as `jupyterapp`, whose commands a test may execute."""
    token = secrets.token_hex(16)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = kernel_environment(home)
    places = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    environment |= {"HOME": str(home)} | {name: str(home / name.lower()) for name in places}
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root", f"--port={port}"]
    command += ["--expose-app-in-browser"]
    command += ["--ServerApp.port_retries=0", f"--IdentityProvider.token={token}", "--ip=127.0.0.1"]
    log = home / "server.log"
    with log.open("w") as out:
        server = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=out, stderr=out, start_new_session=True
        )
        try:
            address = f"http://127.0.0.1:{port}"
            wait_until_up(f"{address}/api/status?token={token}", server, log)
            yield address, token
        finally:
            # The server ends its kernels when it is asked to, not when it is killed.
            server.send_signal(signal.SIGTERM)
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)
                server.wait()


def wait_until_up(url: str, server: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise RuntimeError(f"the server did not start:\n{log.read_text()[-3000:]}")


class LabNotebook:
    """An open notebook in a playwright page. Cells are counted from 0.

    app: "lab/tree" for JupyterLab, "notebooks" for Notebook 7, which the same server has.
    """

    def __init__(
        self, page, address: str, token: str, name: str, timeout_s: float = 45, app: str = "lab/tree"
    ):
        self.page = page
        page.set_default_timeout(1000 * timeout_s)
        page.goto(f"{address}/{app}/{name}?reset&token={token}")
        page.locator(".jp-Notebook").wait_for()
        self.cell(0).wait_for()
        # What is run before the kernel is there brings up a question, which covers the page and says so here.
        page.add_locator_handler(page.locator(".jp-Dialog"), self._answer)
        # A question about news covers the page the first time.
        news = page.get_by_role("button", name="No", exact=True)
        if news.count():
            news.first.click()

    @staticmethod
    def _answer(dialog) -> None:
        """Take the kernel that Lab suggests; any other question is an error of the test."""
        question = dialog.inner_text()
        if "kernel" not in question.lower():
            raise RuntimeError(f"JupyterLab asks: {question}")
        print(f"JupyterLab asked: {question!r}")
        dialog.locator("button.jp-mod-accept").click()

    def cell(self, index: int):
        return self.page.locator(f'.jp-Notebook .jp-Cell[data-windowed-list-index="{index}"]')

    def run(self, index: int) -> None:
        """Select a cell and run it; does not wait."""
        # Clicking scrolls there, and tries again where Lab has just drawn the cell anew.
        self.cell(index).locator(".cm-content, .jp-MarkdownOutput").first.click()
        self.page.keyboard.press("Control+Enter")

    def run_and_wait(self, index: int) -> None:
        """Run a cell that has not run yet, until the kernel is done with it."""
        self.run(index)
        self.cell(index).locator(".jp-InputPrompt", has_text=DONE).wait_for()

    def wait_for_kernel(self, index: int, answer: str) -> None:
        """Run a cell until it shows `answer`: what is run before the kernel is there is forgotten."""
        from playwright.sync_api import TimeoutError

        for _ in range(20):
            self.run(index)
            with contextlib.suppress(TimeoutError):
                self.cell(index).get_by_text(answer, exact=True).wait_for(timeout=3000)
                return
        raise RuntimeError(f"no kernel answered: {self.cell(index).inner_text()}")
