"""Using what a cell shows by keyboard alone, as someone does who has no mouse, in JupyterLab."""

from __future__ import annotations

import re

#: What has the focus: whether it is inside the section, its name and role, whether one sees that it has the focus.
FOCUSED = """section => {
  const e = document.activeElement;
  if (!section.contains(e) || e === section) return null;
  const label = e.getAttribute("aria-label") ?? [...(e.labels ?? [])].map((each) => each.textContent).join(" ");
  const { outlineStyle, outlineWidth, boxShadow } = getComputedStyle(e);
  const around = e.closest(".wb-editor");
  let ring = (outlineStyle !== "none" && parseFloat(outlineWidth) > 0) || boxShadow !== "none"
    || (around && getComputedStyle(around).boxShadow !== "none");
  if (!ring && !e.closest(".wb")) { // ipywidgets show it by the border
    const border = getComputedStyle(e).borderColor;
    e.blur();
    ring = getComputedStyle(e).borderColor !== border;
    e.focus();
  }
  const box = (around ?? e).getBoundingClientRect(); // a text scrolls in its frame
  return { name: (label || e.textContent).trim(), tag: e.tagName.toLowerCase(), type: e.type ?? "", seen: Boolean(ring),
    inside: box.right <= innerWidth + 1 && box.left >= -1, disabled: Boolean(e.disabled) };
}"""
ACTIVE = "() => jupyterapp.shell.currentWidget.content.activeCellIndex"
#: Notes when the widget leaves the state that it is in.
LEAVING = """section => {
  delete section.dataset.left;
  const observer = new MutationObserver(() => { section.dataset.left = ""; observer.disconnect(); });
  observer.observe(section, { attributeFilter: ["data-state"] });
}"""
#: Stops of Tab in one widget at most.
MOST = 400


class Keyboard:
    """A section of a cell's output, and the keys."""

    def __init__(self, notebook, index: int, section):
        self.notebook, self.index, self.section = notebook, index, section
        self.page = notebook.page

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def focused(self) -> dict | None:
        """What has the focus inside the section, None where it is elsewhere."""
        return self.section.evaluate(FOCUSED)

    def select_cell(self) -> None:
        """From wherever the focus is to the selected cell, which is the page's affair, and from there by J or K."""
        at = self.page.evaluate(ACTIVE)
        self.notebook.cell(at).focus()
        self.press("Escape")
        self.press(*(["j"] * (self.index - at) if self.index > at else ["k"] * (at - self.index)))
        assert self.page.evaluate(ACTIVE) == self.index

    def enter(self) -> dict:
        """From the cell into the section by Tab; returns what has the focus then."""
        self.select_cell()
        for _ in range(12):
            self.press("Tab")
            if found := self.focused():
                return found
        raise AssertionError(f"Tab does not lead from cell {self.index} into what it shows")

    def step(self) -> dict | None:
        """To the next stop. In a text Tab indents, so that Escape comes first, which leaves it, as the widget says."""
        here = self.focused()
        leaves = here is not None and here["tag"] == "textarea" and "Tab indents" in here["name"]
        self.press("Escape" if leaves else "Tab")
        return self.focused()

    def walk(self) -> list[dict]:
        """Every stop of the section, once."""
        found: list[dict] = []
        stop: dict | None = self.enter()
        while stop is not None and len(found) < MOST:
            found.append(stop)
            stop = self.step()
        return found

    def to(self, name: str, *, again: bool = False) -> None:
        """To the stop whose name matches. again: from the beginning, else from where the focus is."""
        stop = self.enter() if again or self.focused() is None else self.focused()
        walked = []
        while stop is not None and len(walked) < MOST:
            if re.search(name, stop["name"]) and not stop["disabled"]:
                return
            walked.append(stop["name"][:40])
            stop = self.step()
        if not again:
            return self.to(name, again=True)
        raise AssertionError(f"Tab does not lead to {name!r}, only to {walked}")

    def start(self, *keys: str, wanted: str = "done", seconds: float = 240) -> None:
        """Press keys that begin something, and wait until the widget, after other states, is in the `wanted` one."""
        self.section.evaluate(LEAVING)
        self.press(*keys)
        ended = self.page.locator(f"[data-left][data-state='{wanted}']")
        self.section.and_(ended).wait_for(timeout=1000 * seconds)
