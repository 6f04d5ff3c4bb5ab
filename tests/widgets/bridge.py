"""A widget in a page without Jupyter: its real Python object at one end, its real module in Chromium at the other.

`Bridge` carries traits and messages between the two, as a comm does. What the kernel sends lies in a queue until
`pump` (or `until`) hands it to the page, so that tests decide when.
"""

from __future__ import annotations

import base64
import contextlib
import json
import queue
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.support.chromium import page_of, serve

PAGE = """<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>widget</title>
<style>body { margin: 0; background: var(--jp-layout-color1, #fff) } #there { width: %dpx; padding: 10px }</style>
<style id="css"></style></head>
<body data-jp-theme-light="true"><div id="there"></div></body></html>"""

MODEL = """async ({ state, css, module }) => {
  document.getElementById("css").textContent = css;
  const listeners = new Map();
  const call = (name, ...values) => [...(listeners.get(name) ?? [])].forEach((action) => action(...values));
  const dirty = new Set();
  const model = {
    get: (name) => state[name],
    set: (name, value) => { state[name] = value; dirty.add(name); call(`change:${name}`); },
    save_changes: () => { toPython("set", Object.fromEntries([...dirty].map((n) => [n, state[n]]))); dirty.clear(); },
    send: (content, _, buffers = []) => toPython("message", content, buffers.map(
      (buffer) => btoa(Array.from(new Uint8Array(buffer), (byte) => String.fromCharCode(byte)).join("")))),
    on: (name, action) => listeners.set(name, new Set([...(listeners.get(name) ?? []), action])),
    off: (name, action) => listeners.get(name)?.delete(action),
  };
  window.listening = () => [...listeners.values()].reduce((n, each) => n + each.size, 0);
  // As Jupyter's models do when a kernel restarts.
  window.lose = () => { model.send = () => { throw new Error("Cannot send"); }; call("comm_live_update"); };
  window.fromPython = (items) => {
    for (const [kind, content, buffers] of items) {
      if (kind === "trait") { Object.assign(state, content); Object.keys(content).forEach((n) => call(`change:${n}`)); }
      else call("msg:custom", content, buffers.map(
        (b) => new DataView(Uint8Array.from(atob(b), (c) => c.charCodeAt(0)).buffer)));
    }
  };
  const { default: widget } = await import(module);
  window.open_view = (el = document.getElementById("there")) => { window.cleanup = widget.render({ model, el }); };
  window.open_view();
}"""

#: JupyterLab's own values of what the widgets use of its themes.
THEMES = {
    "light": {
        "--jp-content-font-color1": "rgba(0,0,0,0.87)",
        "--jp-border-color2": "#e0e0e0",
        "--jp-layout-color1": "#fff",
        "--jp-layout-color2": "#eee",
    },
    "dark": {
        "--jp-content-font-color1": "#fff",
        "--jp-border-color2": "#424242",
        "--jp-layout-color1": "#111",
        "--jp-layout-color2": "#424242",
    },
}


class Bridge:
    """See the module's docstring. page: playwright's; sent: all messages of the page, in order."""

    #: What opens a view in the page, given the widget's state, style sheet, module, and what names its classes.
    manager = MODEL

    def __init__(self, page, widget, module: str):
        self.page, self.widget, self.sent = page, widget, []
        self._waiting: queue.Queue = queue.Queue()
        own = set(widget.keys) - {"layout", "tabbable", "tooltip"}
        keys = sorted(name for name in own if not name.startswith("_"))
        widget.send = lambda content, buffers=None: self._waiting.put(
            ["message", content, [base64.b64encode(memoryview(b).cast("B")).decode() for b in buffers or ()]]
        )
        widget.observe(lambda change: self._waiting.put(["trait", {change.name: change.new}, []]), names=keys)
        page.expose_function("toPython", self._heard)
        state = {name: getattr(widget, name) for name in keys}
        identity = {name: value for name, value in widget.get_state().items() if name.startswith("_")}
        given = {"state": state, "css": widget._css, "module": module, "identity": identity}
        page.evaluate(self.manager, given)

    def _heard(self, kind: str, content: dict, buffers: Sequence[str] = ()) -> None:
        self.sent.append((kind, content))
        if kind == "message":
            self.widget._received(None, content, [base64.b64decode(each) for each in buffers])
        else:
            self.widget.set_state(content)

    def pump(self) -> None:
        """Hand the page all that waits for it."""
        items = []
        with contextlib.suppress(queue.Empty):
            while True:
                items.append(self._waiting.get_nowait())
        if items:
            self.page.evaluate("items => fromPython(items)", json.loads(json.dumps(items, default=str)))

    def until(self, condition: str, seconds: float = 90) -> None:
        """Pump until a JavaScript expression is true."""
        deadline = time.monotonic() + seconds
        while True:
            self.pump()
            if self.page.evaluate(condition):
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"{condition} did not come true: {self.page.inner_text('#there')[:800]}")
            self.page.wait_for_timeout(15)  # lets messages of the page come through

    def theme(self, name: str) -> None:
        self.page.evaluate(
            """([name, values]) => { document.body.dataset.jpThemeLight = String(name === "light");
            for (const [key, value] of Object.entries(values)) document.body.style.setProperty(key, value); }""",
            [name, THEMES[name]],
        )


@contextlib.contextmanager
def bridged(browser, widget, folder: Path, width: int = 960) -> Iterator[Bridge]:
    """Open a widget in a page of a browser; an uncaught error in the page is raised at the end."""
    (folder / "index.html").write_text(PAGE % width)
    (folder / "widget.js").write_text(widget._esm, encoding="utf-8")
    with serve(folder) as address, page_of(browser, f"{address}/index.html") as page:
        yield Bridge(page, widget, f"{address}/widget.js")
