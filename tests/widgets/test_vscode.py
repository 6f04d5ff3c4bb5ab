"""Every widget in the renderer that VS Code's notebooks show widgets with (npm's @vscode/jupyter-ipywidgets8).

VS Code itself and its connection to a kernel are not here: the page has the renderer's manager, Jupyter's own models
and views in it, and anywidget's AMD module, loaded as VS Code loads it; comms end at the real Python object.

The renderer's bundle is complete, while npm would install two hundred packages beside it; so it is no dependency, and
`npm pack --pack-destination build @vscode/jupyter-ipywidgets8@1.0.9` brings it. Without it this is skipped.
"""

from __future__ import annotations

import hashlib
import shutil
import tarfile
from pathlib import Path

import anywidget
import pytest

from tests.conftest import REPOSITORY
from tests.support.chromium import page_of, serve
from tests.widgets.bridge import PAGE, Bridge
from tests.widgets.test_accessible import WIDGETS
from workbench.known import known

pytestmark = [pytest.mark.browser, pytest.mark.release]

PACKED = REPOSITORY / "build" / "vscode-jupyter-ipywidgets8-1.0.9.tgz"
SHA256 = "9c0680c126bae81427625a8dae4c9edfaa408c8c694a20641002b5d7d77d1ca8"
ANYWIDGET = Path(anywidget.__file__).parent / "nbextension" / "index.js"

MANAGER = """async ({ state, identity }) => {
  // What VS Code has RequireJS for: named modules, and one without a name that a script just loaded defines.
  const modules = {};
  let loading;
  window.define = (...given) => {
    const factory = given.pop();
    const name = typeof given[0] === "string" ? given.shift() : loading;
    modules[name] = factory(...(given[0] ?? []).map((needed) => modules[needed]));
  };
  window.requirejs = ([name], good, bad) => (modules[name] ? good(modules[name]) : bad(new Error(`no ${name}`)));
  const loader = {
    widgetsRegisteredInRequireJs: new Set(),
    loadWidgetScript: (name) => ((loading = name), import("/anywidget.js")),
    successHandler() {}, errorHandler() {},
  };
  const signal = { connect() {}, disconnect() {} };
  const kernel = { status: "idle", registerCommTarget() {}, statusChanged: signal, connectionStatusChanged: signal,
    iopubMessage: signal, unhandledMessage: signal, requestCommInfo: async () => ({ content: { comms: {} } }) };
  (await import("/ipywidgets.js")).activate();
  window.vscIPyWidgets8.load();
  const there = document.getElementById("there");
  const manager = new window.vscIPyWidgets.WidgetManager(kernel, there, loader, () => {});

  const text = (buffer) => btoa(Array.from(new Uint8Array(buffer), (byte) => String.fromCharCode(byte)).join(""));
  const opened = (id, given) => {
    const comm = { comm_id: id, target_name: "jupyter.widget", open() {}, close() {}, on_close() {},
      on_msg: (action) => (comm.hear = action),
      send(data, callbacks, _, buffers = []) {
        if (data.method === "update") toPython("set", data.state);
        if (data.method === "custom") toPython("message", data.content, buffers.map(text));
        setTimeout(() => callbacks?.iopub?.status?.({ content: { execution_state: "idle" } }));
        return "sent";
      } };
    const content = { comm_id: id, target_name: "jupyter.widget", data: { state: given, buffer_paths: [] } };
    return [comm, manager.handle_comm_open(comm, { content, metadata: { version: "2.1.0" }, buffers: [] })];
  };
  const base = Object.fromEntries(["model", "view"].flatMap((kind) => [
    [`_${kind}_module`, "@jupyter-widgets/base"], [`_${kind}_module_version`, "2.0.0"],
    [`_${kind}_name`, kind === "model" ? "LayoutModel" : "LayoutView"]]));
  await opened("layout", base)[1];
  const [comm, made] = opened("widget", { ...identity, ...state, layout: "IPY_MODEL_layout" });
  const bytes = (buffer) => new DataView(Uint8Array.from(atob(buffer), (each) => each.charCodeAt(0)).buffer);
  window.fromPython = (items) => {
    for (const [kind, content, buffers] of items) {
      const update = { method: "update", state: content, buffer_paths: [] };
      const data = kind === "trait" ? update : { method: "custom", content };
      comm.hear({ content: { comm_id: "widget", data }, buffers: buffers.map(bytes), metadata: {}, parent_header: {} });
    }
  };
  const view = await manager.create_view(await made);
  await manager.display_view(undefined, view, { node: there });
  window.remove_view = () => view.remove();
}"""


class InVsCode(Bridge):
    manager = MANAGER


@pytest.fixture(scope="module")
def renderer() -> bytes:
    """The bundle, an ES module."""
    if not PACKED.is_file():
        pytest.skip(f"no {PACKED}: npm pack --pack-destination build @vscode/jupyter-ipywidgets8@1.0.9")
    assert hashlib.sha256(PACKED.read_bytes()).hexdigest() == SHA256
    with tarfile.open(PACKED) as archive:
        member = known(archive.extractfile("package/dist/ipywidgets.js"))
        return member.read()


@pytest.mark.parametrize("name", WIDGETS)
def test_a_widget_in_vs_codes_renderer(browser, renderer, adapter, shallow, int4, tmp_path, name):
    """It loads, is styled, does its work, and goes with its view."""
    make, prepare = WIDGETS[name]
    widget = make(shallow, int4)
    (tmp_path / "ipywidgets.js").write_bytes(renderer)
    shutil.copy(ANYWIDGET, tmp_path / "anywidget.js")
    (tmp_path / "index.html").write_text(PAGE % 1100)
    with serve(tmp_path) as address, page_of(browser, f"{address}/index.html") as page:
        bridge = InVsCode(page, widget, "")
        bridge.until("document.querySelector('.wb')")
        prepare(bridge)
        section = page.locator(".wb")
        assert section.count() == 1 and len(section.text_content()) > 200 and widget.error == ""
        assert section.evaluate("each => getComputedStyle(each).display") == "flex"
        page.evaluate("remove_view()")
        bridge.until("!document.querySelector('.wb')", 10)
