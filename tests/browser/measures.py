"""What a page costs a browser: `python -m tests.browser.measures PAGE`, a folder of `workbench page`, on Linux.

Prints the time to the first token from an empty browser, the memory of the page's process while the model loads beside
the model's bytes, and what page and GPU process hold over reloads. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.support.chromium import launched, serve

from .test_page import LOAD_MS, Ranges

MIB = 1 << 20


def processes(kind: str) -> Iterator[int]:
    """Process ids of a kind of Chromium's, "renderer" or "gpu-process", of those that this process has started."""
    parents, found = {}, []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").split()
            # the name, in parentheses, may hold anything
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if f"--type={kind}".encode() in words:
            found.append(int(folder.name))
    for each in found:
        above = each
        while above in parents and above != os.getpid():
            above = parents[above]
        if above == os.getpid():
            yield each


def private_bytes(pid: int) -> int:
    """Memory that is the process's own; all that it has in memory, where the system does not tell them apart."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = dict(re.findall(r"^(RssAnon|VmRSS):\s+(\d+) kB", status, re.MULTILINE))
    return 1024 * int(found.get("RssAnon", found.get("VmRSS", 0)))


def held(kind: str) -> int:
    return sum(map(private_bytes, processes(kind)))


@contextmanager
def peak() -> Iterator[list[int]]:
    """The most that renderers hold while the block runs, in the list's only item."""
    found, ended = [0], threading.Event()

    def look() -> None:
        while not ended.wait(0.02):
            found[0] = max(found[0], held("renderer"))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


class Held(NamedTuple):
    """After a reload: private bytes of the page's and the GPU's process; bytes that the browser's storage holds; and
    what is counted: bytes of the page's heap in 64 KiB, documents, nodes, listeners, workers."""

    page: int
    gpu: int
    stored: int
    counted: tuple[int, ...]


def reloaded(context, page, count: int) -> Iterator[Held]:
    """What is held after each of some reloads of a page, when it has written a few tokens and all of it is kept.

    Browsers collect what ended workers leave when they like, so single figures go up and down like a saw.
    """
    session = context.new_cdp_session(page)
    for _ in range(count):
        page.reload()
        page.locator("#write:enabled").wait_for(timeout=LOAD_MS)
        page.locator("#continues").check()
        page.locator("#count").evaluate("(field) => { field.value = 4; }")
        page.locator("#write").click()
        page.locator("#stop:disabled").wait_for(timeout=LOAD_MS)
        page.locator("#kept", has_text="without a network").wait_for(timeout=LOAD_MS)
        session.send("HeapProfiler.collectGarbage")
        heap = session.send("Runtime.getHeapUsage")["usedSize"]
        dom = session.send("Memory.getDOMCounters")
        stored = page.evaluate("navigator.storage.estimate().then(({ usage }) => usage)")
        counted = (round(heap / (1 << 16)), dom["documents"], dom["nodes"], dom["jsEventListeners"])
        yield Held(held("renderer"), held("gpu-process"), stored, (*counted, len(page.workers)))


def measure(folder: Path, reloads: int) -> None:
    """Print the figures of a page."""
    weights = sum(path.stat().st_size for path in (folder / "model").glob("*.wgpu"))
    with launched() as browser, serve(folder, Ranges) as address:
        context = browser.new_context()
        page = context.new_page()
        page.goto(f"{address}/page.json")
        empty = held("renderer")
        with peak() as most:
            began = time.perf_counter()
            page.goto(address)
            page.locator("#write:enabled").wait_for(timeout=LOAD_MS)
            ready = time.perf_counter() - began
        page.locator("#write").click()
        page.locator(".written").filter(has_text=re.compile(".")).wait_for(timeout=LOAD_MS)
        first = time.perf_counter() - began
        page.keyboard.press("Escape")
        page.locator("#stop:disabled").wait_for(timeout=LOAD_MS)
        grown = most[0] - empty
        print(f"ready after {ready:.1f} s, first token after {first:.1f} s, of a page that was never open")
        print(
            f"while loading the page grew by {grown / MIB:.0f} MiB, {(grown - weights) / MIB:.0f} MiB beside the "
            f"model's {weights / MIB:.0f}"
        )
        found = list(reloaded(context, page, reloads))
        for each in found:
            print(f"page {each.page / MIB:.0f} MiB, GPU process {each.gpu / MIB:.0f} MiB, {each.counted}")
        if reloads >= 2:
            late, early = found[reloads // 2 :], found[: reloads // 2]
            page_grown = min(each.page for each in late) - min(each.page for each in early)
            gpu_grown = min(each.gpu for each in late) - min(each.gpu for each in early)
            print(f"growth: page {page_grown / MIB:+.1f} MiB, GPU process {gpu_grown / MIB:+.1f} MiB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("--reloads", type=int, default=20)
    given = parser.parse_args()
    measure(given.page, given.reloads)
