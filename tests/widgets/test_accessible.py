"""Every widget by keyboard alone and as a screen reader has it: names of all controls, a visible focus, no traps."""

from __future__ import annotations

import numpy as np
import pytest

from tests.widgets.overflow import faults
from workbench.formats.text import parse_format
from workbench.precision.groups import Group
from workbench.precision.table import SensitivityTable
from workbench.sweeps.sweep import Sweep
from workbench.widgets import Generator, KernelLab, ModelCard, PrecisionMap, QuantizationExplorer, SweepBoard
from workbench.widgets import __all__ as names

pytestmark = pytest.mark.browser
DONE = "document.querySelector('.wb').dataset.state === 'done'"

#: What Tab can reach, in order: as the browser sees it, with one stop for a group of radio buttons.
STOPS = """() => {
  const found = [...document.querySelectorAll(".wb :is(button, input, select, textarea, summary, [tabindex])")]
    .filter((e) => e.tabIndex >= 0 && !e.disabled && e.checkVisibility());
  const radios = (e) => e.type === "radio" && found.filter((other) => other.name === e.name);
  return found.filter((e) => !radios(e) || e === (radios(e).find((r) => r.checked) ?? radios(e)[0])).length;
}"""
#: Tab begins behind what was clicked last, so at an element in front of everything.
BEGIN = """() => {
  const start = document.body.insertBefore(document.createElement("span"), document.body.firstChild);
  start.tabIndex = 0;
  start.focus();
}"""
FOCUS = """() => {
  const e = document.activeElement;
  if (!e.closest(".wb")) return null;
  const { outlineStyle, outlineWidth } = getComputedStyle(e);
  const editor = e.matches("textarea") && e.closest(".wb-editor"); // it scrolls, so the ring is around its frame
  window.walked = [...(window.walked ?? []), e];
  return { again: window.walked.indexOf(e) < window.walked.length - 1, what: e.outerHTML.slice(0, 160),
    seen: e.checkVisibility() && (editor ? getComputedStyle(editor).boxShadow !== "none"
      : outlineStyle !== "none" && parseFloat(outlineWidth) > 0) };
}"""


def generator(f16, int4):
    return Generator({"f16": f16, "int4": int4}, max_new_tokens=4, temperature=0.7)


def explorer(f16, int4):
    return QuantizationExplorer(f16, b={"bits": 2})


def card(f16, int4):
    return ModelCard(int4)


def precision(f16, int4):
    names = [f"layers.{layer}.{kind}" for layer in range(3) for kind in ("attn.q_k_v", "mlp.down_proj")]
    groups = tuple(Group(name, {f"{name}.weight": (64, 256)}) for name in ("embedding", *names))
    formats = tuple(map(parse_format, ("int8", "int4", "int2")))
    sums = np.random.default_rng(0).random((7, 3, 2)) * 10.0 ** -np.array([4, 3, 1])[:, None]
    table = SensitivityTable(groups, formats, sums, np.full(2, 9), 0, {"quantizer": "rtn"}, {})
    return PrecisionMap(table, bits=4, pins={"embedding": "int8"}, selection=["embedding"])


def lab(f16, int4):
    return KernelLab("linear[int4]", variants=["gemv"], rows=64, columns=64, rounds=3)


def board(f16, int4):
    spec = int4.parent / "few.toml"
    spec.write_text(
        '[sweep]\nmax_windows = 1\n[texts.stories]\nfile = "embedded"\n'
        '[grid]\nmodel = "embedded"\nformat = ["int8", "int4"]\nprotocol = "disjoint-128"\n'
    )
    return SweepBoard(Sweep.read(spec, output=int4.parent / "few"))


def write(bridge):
    bridge.page.get_by_role("button", name="Generate").click()
    bridge.until(DONE)


def look(bridge):
    bridge.widget.wait()
    bridge.until(DONE)


def step(bridge):
    bridge.page.get_by_role("button", name="Measure").click()
    bridge.until(DONE)


def chosen(bridge):
    bridge.until("document.querySelectorAll('.wb-panel [type=radio]').length === 4")


def compared(bridge):
    bridge.page.get_by_role("button", name="Compare").click()
    bridge.until(DONE)


def listed(bridge):
    bridge.until("document.querySelectorAll('tr[data-status=waiting]').length > 1")


WIDGETS = {
    "Generator": (generator, write),
    "QuantizationExplorer": (explorer, look),
    "ModelCard": (card, step),
    "PrecisionMap": (precision, chosen),
    "KernelLab": (lab, compared),
    "SweepBoard": (board, listed),
}


def test_all_widgets_are_here():
    assert set(WIDGETS) == set(names)


#: Of cells' outputs in windows of 700 and of 1,400 px.
NARROW, WIDE = 500, 1200


def fitted(page, width: int) -> list[str]:
    """What is cut or hidden where the widget has so much room."""
    page.evaluate("width => (document.getElementById('there').style.width = `${width}px`)", width)
    page.evaluate("() => new Promise((r) => requestAnimationFrame(() => setTimeout(r, 100)))")
    return [f"{width} px: {each}" for each in faults(page.locator(".wb"))]


def needs_name(node: dict) -> bool:
    """Whether a node of Chromium's accessibility tree is a control, or a picture or part that is to be announced."""
    if node["ignored"]:
        return False
    announced = node["role"]["value"] in ("image", "region", "radiogroup", "progressbar", "listbox", "table")
    return announced or any(
        p["name"] == "focusable" and p["value"]["value"] for p in node.get("properties", ())
    )


def named(node: dict) -> bool:
    return bool(node.get("name", {}).get("value", "").strip())


@pytest.mark.parametrize("name", WIDGETS)
def test_controls_have_names_and_tab_walks_through_them(shown, adapter, shallow, int4, name):
    make, prepare = WIDGETS[name]
    with shown(make(shallow, int4), 1100) as bridge:
        page = bridge.page
        prepare(bridge)
        nodes = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
        assert [node["role"]["value"] for node in nodes if needs_name(node) and not named(node)] == []

        expected = page.evaluate(STOPS)
        page.evaluate(BEGIN)
        page.keyboard.press("Tab")
        walked = []
        while (stop := page.evaluate(FOCUS)) and not stop["again"]:
            walked.append(stop)
            page.keyboard.press("Escape" if "Tab indents" in stop["what"] else "Tab")
        assert [stop["what"] for stop in walked if not stop["seen"]] == []
        assert len(walked) == expected >= 4
        assert fitted(page, NARROW) == [] and fitted(page, WIDE) == []
