"""Headless Chromium with WebGPU, for tests that need a real browser.

`python -m tests.support.chromium` ends with 0 if there is all that it takes, else it prints what is missing.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

EXECUTABLES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MAC_EXECUTABLES = (
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)

# The browser talks to nothing but the page. SwiftShader is asked for by name, because otherwise headless
# Chromium offers no WebGPU adapter on machines without a GPU.
FLAGS = (
    *("--disable-background-networking", "--no-first-run", "--disable-component-update", "--disable-sync"),
    *("--disable-quic", "--no-sandbox", "--disable-dev-shm-usage"),
    *("--enable-unsafe-webgpu", "--enable-features=Vulkan", "--use-vulkan=swiftshader"),
    *("--use-webgpu-adapter=swiftshader",),
)


def find_chromium() -> str | None:
    """Path of Chromium or Chrome: WORKBENCH_CHROMIUM, else what is on PATH; None if there is none."""
    named = os.environ.get("WORKBENCH_CHROMIUM")
    candidates = [named] if named else [*EXECUTABLES, *MAC_EXECUTABLES]
    return next((path for path in map(shutil.which, candidates) if path), None)


@functools.cache
def chromium_problem() -> str | None:
    """Why there can be no headless Chromium here, or None."""
    if find_chromium() is None:
        return "no Chromium or Chrome found (apt-get install chromium, or set WORKBENCH_CHROMIUM)"
    # playwright brings a Node of its own, which needs libatomic: minimal systems lack it.
    done = subprocess.run(
        [sys.executable, "-m", "playwright", "--version"], capture_output=True, encoding="utf-8"
    )
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        return f"playwright does not start (apt-get install libatomic1): {reason}"
    return None


def require_chromium() -> str:
    """Path of Chromium; skips the running test where Chromium or playwright is missing."""
    if problem := chromium_problem():
        pytest.skip(problem)
    return find_chromium()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    # Windows and some Linux systems map .js to text/plain, which browsers refuse as a module.
    extensions_map = {  # noqa: RUF012
        **http.server.SimpleHTTPRequestHandler.extensions_map,
        ".js": "text/javascript",
        ".mjs": "text/javascript",
        ".wgsl": "text/plain",
    }

    def log_message(self, format, *args):
        pass


@contextlib.contextmanager
def serve(folder: Path, handler: type[QuietHandler] = QuietHandler) -> Iterator[str]:
    """Serve `folder` over HTTP on an ephemeral port; yields the address, `http://127.0.0.1:PORT`.

    WebGPU exists in secure contexts only: this address is one, `about:blank` and `file:` are not.
    """
    made = functools.partial(handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), made) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def launched() -> Iterator:
    """A fresh headless Chromium (playwright, sync API), for many pages; skips where there is none.

    Only one at a time: playwright cannot be started twice in a thread.
    """
    executable = require_chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def page_of(browser, url: str, pardoned: tuple[str, ...] = ()) -> Iterator:
    """A page of a browser at `url`. An uncaught error in the page is raised when the block ends.

    pardoned: parts of the messages of errors that belong to the page around what is tested.
    """
    page = browser.new_page()
    try:
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(url)
        yield page
        found = [error for error in errors if not any(part in error for part in pardoned)]
        if found:
            raise RuntimeError("uncaught errors in the page:\n" + "\n".join(found))
    finally:
        page.close()


@contextlib.contextmanager
def browser_page(url: str) -> Iterator:
    """A page at `url` of a Chromium of its own; see `launched` and `page_of`."""
    with launched() as browser, page_of(browser, url) as page:
        yield page


if __name__ == "__main__":
    if problem := chromium_problem():
        print(problem)
        sys.exit(1)
