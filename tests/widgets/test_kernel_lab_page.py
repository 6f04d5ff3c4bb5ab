"""Kernels of the lab on the adapter of the page that shows it: the native lab's result objects."""

from __future__ import annotations

import time

import numpy as np
import pytest

from workbench.browser import connection
from workbench.errors import WorkbenchError
from workbench.runtime.timing import WALL
from workbench.studies.lab import Lab
from workbench.widgets import KernelLab

pytestmark = pytest.mark.browser
SMALL = {"tokens": 1, "rows": 40, "columns": 96, "block": 32, "rounds": 2}
PAGE_S = 240


def ran(bridge, act) -> KernelLab:
    """The widget after what a person did has come to its end; messages go to and fro meanwhile."""
    act()
    until = time.monotonic() + PAGE_S
    bridge.until("true")
    while bridge.widget.state not in ("done", "stopped"):
        assert time.monotonic() < until, bridge.widget.state
        bridge.page.wait_for_timeout(15)
        bridge.until("true")
    bridge.until("true")  # what it said last
    return bridge.widget


@pytest.mark.usefixtures("adapter")
def test_a_text_is_edited_and_runs_in_the_page(shown):
    """Judged, timed, wrong, not compiled at its line, and too slow; errors are those of the native engine."""
    with shown(KernelLab("linear[int4]", variants=["gemv", "batch"], where="page", **SMALL), 1160) as bridge:
        page = bridge.page
        widget = ran(bridge, page.get_by_role("button", name="Compare").click)
        assert widget.error == ""
        found = widget.comparison
        assert (
            found.device.endswith("(page)")
            and found.provenance["adapter"]["backend_type"] == "WebGPU in a page"
        )
        native = Lab("linear[int4]", variants=["gemv", "batch"], **SMALL)
        native.run()
        for name in ("gemv", "batch"):
            mine, there = found[name], native.comparison[name]
            assert mine.status == there.status == "passed" and mine.bytes == there.bytes
            assert (
                mine.timing.clock == WALL and len(mine.timing.samples) == 2 and min(mine.timing.samples) > 0
            )
            assert mine.errors[0].elements == there.errors[0].elements == 40 and mine.worst("worst") <= 1
        assert page.get_by_text("No roofline: a page's adapter has no measured ceilings.").count() == 1

        text = widget.lab.text("gemv")
        line = next(n for n, each in enumerate(text.splitlines(), 1) if "fn main" in each)
        broken = text.replace("fn main", "fn main(;", 1)
        ran(bridge, lambda: widget.edit(broken, "gemv"))
        version = widget.versions[-1]
        assert version.status == "compile error" and version.result.places[0].line == line
        assert not version.result.places[0].in_header and widget.selected is version.result
        ran(bridge, lambda: widget.edit(text + "\n// the same", "gemv"))
        assert widget.versions[-1].status == "passed" and widget.lab.speedup("v2") is not None
        wrong = text.replace("y_type(with_residual", "y_type(1.5 * with_residual")
        assert wrong != text
        ran(bridge, lambda: widget.edit(wrong, "gemv"))
        failed = widget.versions[-1].result
        assert failed.status == "wrong numbers" and failed.timing is None and failed.errors[0].first

        before, widget.lab.budget = widget.lab.device.device(), 0.001
        ran(bridge, lambda: widget.edit(text + "\n// again", "gemv"))
        assert widget.versions[-1].status == "timed out" and before.lost
        widget.lab.budget = PAGE_S
        ran(bridge, widget.run)
        assert widget.error == "" and widget.comparison["v2"].timing is not None
        assert np.isfinite(widget.data().median_s.dropna()).all()


def test_a_page_without_webgpu_says_so(shown, monkeypatch):
    real = connection.script
    gone = "Object.defineProperty(navigator, 'gpu', { value: undefined });\n"
    monkeypatch.setattr(connection, "script", lambda name: gone + real(name))
    with shown(KernelLab("rms_norm", where="page", rounds=1), 1160) as bridge:
        widget = ran(bridge, bridge.page.get_by_role("button", name="Compare").click)
        assert "NoAdapterError: in the page: this browser has no WebGPU" in widget.error
        assert "no WebGPU" in bridge.page.get_by_role("alert").text_content()


def test_what_cannot_be_is_refused():
    with pytest.raises(WorkbenchError, match="where = 'moon'; allowed: 'native', 'page'"):
        KernelLab("rms_norm", where="moon")
    with pytest.raises(WorkbenchError, match="where='page' has a device of its own"):
        KernelLab("rms_norm", where="page", device=object())
