"""What a page costs a browser: `python -m tests.browser.measures PAGE`, a folder of `workbench page`, on Linux.

Prints the time to the first token from an empty browser, the memory of the page's process while the model loads beside
the model's bytes, and how the memory of page and GPU process moves over reloads. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import re
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.chromium import launched, serve

from .test_page import LOAD_MS, Ranges

MIB = 1 << 20
#: Reloads after which memory is compared with that of the last ones: caches are full by then.
SETTLED = 5


def processes(kind: str) -> Iterator[int]:
    """Process ids of a kind of Chromium's, "renderer" or "gpu-process", of all Chromiums that run."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").split()
        except OSError:
            continue
        if f"--type={kind}".encode() in words:
            yield int(folder.name)


def private_bytes(pid: int) -> int:
    """Memory that is the process's own; all that it has in memory, where the system does not tell them apart."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = dict(re.findall(r"^(RssAnon|VmRSS):\s+(\d+) kB", status, re.MULTILINE))
    return 1024 * int(found.get("RssAnon", found.get("VmRSS", 0)))


def held(kind: str, others: set[int]) -> int:
    return sum(private_bytes(pid) for pid in processes(kind) if pid not in others)


@contextmanager
def peak(others: set[int]) -> Iterator[list[int]]:
    """The most that renderers hold while the block runs, in the list's only item."""
    found, ended = [0], threading.Event()

    def look() -> None:
        while not ended.wait(0.02):
            found[0] = max(found[0], held("renderer", others))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


def measure(folder: Path, reloads: int) -> None:
    """Print the figures of a page."""
    weights = sum(path.stat().st_size for path in (folder / "model").glob("*.wgpu"))
    before = {pid for kind in ("renderer", "gpu-process") for pid in processes(kind)}
    with launched() as browser, serve(folder, Ranges) as address:
        context = browser.new_context()
        page = context.new_page()
        page.goto(f"{address}/page.json")
        empty = held("renderer", before)
        with peak(before) as most:
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
        session = context.new_cdp_session(page)
        sizes = []
        for _ in range(reloads):
            page.reload()
            page.locator("#write:enabled").wait_for(timeout=LOAD_MS)
            session.send("HeapProfiler.collectGarbage")
            sizes.append((held("renderer", before) + held("gpu-process", before)) / MIB)
        print("MiB of page and GPU process after each reload:", *(f"{size:.0f}" for size in sizes))
        if reloads >= 2 * SETTLED:
            early, late = sizes[SETTLED : 2 * SETTLED], sizes[-SETTLED:]
            print(f"growth: {statistics.mean(late) - statistics.mean(early):+.1f} MiB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("--reloads", type=int, default=20)
    given = parser.parse_args()
    measure(given.page, given.reloads)
