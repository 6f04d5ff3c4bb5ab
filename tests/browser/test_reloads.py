"""A page that is loaded again and again holds what it held: nothing of one load outlives it."""

from __future__ import annotations

import sys
import time

import pytest

from tests.support.chromium import launched, serve
from workbench.browser.model_case import embedded
from workbench.browser.page import write_page

from .measures import MIB, held, reloaded
from .test_page import LOAD_MS, Ranges

RELOADS = 20
#: Of processes, whose memory is never quite the same; models that stayed would be 80 MiB by then.
SLACK = 16 * MIB
SETTLE_S = 15


def least(seconds: float) -> list[int]:
    """What page and GPU process hold at least, within some seconds: one gives back what ended loads left when it likes,
    the other when it has compiled what they asked for."""
    found, end = [sys.maxsize, sys.maxsize], time.monotonic() + seconds
    while time.monotonic() < end:
        found = [min(a, held(kind)) for a, kind in zip(found, ("renderer", "gpu-process"), strict=True)]
        time.sleep(0.2)
    return found


@pytest.mark.release
@pytest.mark.browser
@pytest.mark.skipif(sys.platform != "linux", reason="what a process holds is read from /proc")
def test_twenty_reloads_hold_no_more_than_one(software_adapters, tmp_path):
    with embedded() as model:
        write_page(model, tmp_path / "page", max_tokens=512)
    with launched() as browser, serve(tmp_path / "page", Ranges) as address:
        context = browser.new_context()
        page = context.new_page()
        page.goto(address)
        page.locator("#kept", has_text="without a network").wait_for(timeout=LOAD_MS)
        found = list(reloaded(context, page, RELOADS))
        ended = least(SETTLE_S)
    heap = [each.counted[0] for each in found]
    assert max(heap) - min(heap) <= 2, heap  # in 64 KiB
    assert len({each.counted[1:] for each in found}) == 1 and found[0].counted[-1] == 1
    assert len({each.stored for each in found}) == 1
    early = found[: RELOADS // 2]
    began = [min(each.page for each in early), min(each.gpu for each in early)]
    for before, after in zip(began, ended, strict=True):
        assert 0 < after <= before + SLACK, (began, ended)
