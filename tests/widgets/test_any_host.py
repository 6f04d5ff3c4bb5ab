"""Every widget in a host that offers what anywidget's published interface promises, and nothing else.

The interface (AFM, https://anywidget.dev/en/afm/): the module's default export is `{ initialize?, render? }` or a
function that gives such; `render({ model, el })` fills an element and may give a function that undoes it; `model` has
`get`, `set`, `save_changes`, `on`, `off` and `send`. Elements may be many for one model, and lie in shadow roots, as
marimo's do, where neither the document's style sheets nor its `activeElement` reach. `Bridge` is such a model.
"""

from __future__ import annotations

import pytest

from tests.widgets.test_accessible import WIDGETS
from workbench.widgets import KernelLab, ModelCard, modules

pytestmark = pytest.mark.browser

#: What VS Code writes on the body of a notebook's page, and whether that is dark.
VS_CODE = {
    "vscode-light": False,
    "vscode-dark": True,
    "vscode-high-contrast": True,
    "vscode-high-contrast-light": False,
}

#: What a page has beside the widget's own elements: names of its window, and elements outside of where views lie.
AROUND = """() => [Object.keys(window).filter((name) => name !== "cleanup"),
  document.querySelectorAll("html *").length - document.querySelectorAll("#there *").length]"""
#: Two views in shadow roots of their own, with the style sheet in there and none in the document.
TWO = """css => {
  document.getElementById("css").textContent = "";
  window.undo = [0, 1].map(() => {
    const host = document.getElementById("there").appendChild(document.createElement("div"));
    const root = host.attachShadow({ mode: "open" });
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(css);
    root.adoptedStyleSheets = [sheet];
    open_view(root.appendChild(document.createElement("div")));
    return window.cleanup;
  });
}"""
#: Of each view, that in the document first: the section's data, its text, how many elements there are, their ids, and
#: what styles it.
LOOK = """() => {
  const look = (root) => {
    const section = root.querySelector(".wb");
    if (!section) return null;
    const style = getComputedStyle(section);
    return { data: { ...section.dataset }, text: section.textContent, count: section.querySelectorAll("*").length,
      ids: [...section.querySelectorAll("[id]")].map((each) => each.id), display: style.display,
      border: style.borderTopStyle, scheme: style.colorScheme, background: style.backgroundColor };
  };
  return [document, ...[...document.querySelectorAll("#there > div")].map((host) => host.shadowRoot)].map(look);
}"""
#: The default export, as hosts look at it before anything is drawn.
SHAPE = """async address => {
  const { default: given } = await import(address);
  const widget = typeof given === "function" ? await given() : given;
  return [Object.keys(widget), typeof widget.render];
}"""


@pytest.mark.parametrize("name", WIDGETS)
def test_views_in_shadow_roots_beside_one_in_the_page(shown, adapter, shallow, int4, name):
    """All show the same; each goes alone, and leaves nothing behind."""
    make, prepare = WIDGETS[name]
    with shown(make(shallow, int4), 1100) as bridge:
        page, asked = bridge.page, []
        keys, kind = page.evaluate(SHAPE, page.url.replace("index.html", "widget.js"))
        assert kind == "function" and set(keys) <= {"initialize", "render"}
        page.on("request", lambda request: asked.append(request.url))
        prepare(bridge)
        page.evaluate("cleanup()")
        assert page.evaluate("listening()") == 0 and page.locator("#there *").count() == 0
        before = page.evaluate(AROUND)

        page.evaluate("open_view(); void (window.first = window.cleanup)")
        page.evaluate(TWO, modules.style(bridge.widget.module))
        bridge.until(f"new Set(({LOOK})().map((each) => each.text)).size === 1", 10)
        views = page.evaluate(LOOK)
        assert len(views) == 3 and all(each["data"] == views[0]["data"] for each in views)
        assert len({each["count"] for each in views}) == 1 and views[0]["count"] > 20
        ids = [found for each in views for found in each["ids"]]
        assert len(set(ids)) == len(ids)
        # The document has no style sheet of the widget, the shadow roots have.
        assert [each["display"] for each in views] == ["block", "flex", "flex"]
        assert [each["border"] for each in views] == ["none", "solid", "solid"]

        # What the page around says of light and dark holds in there.
        backgrounds = set()
        for scheme in ("light", "dark"):
            page.evaluate("scheme => (document.body.style.colorScheme = scheme)", scheme)
            inside = page.evaluate(LOOK)[1:]
            assert [each["scheme"] for each in inside] == [scheme] * 2
            backgrounds.add(inside[0]["background"])
        assert len(backgrounds) == 2

        page.evaluate("undo[0]()")
        assert [each and each["text"] for each in page.evaluate(LOOK)] == [
            views[0]["text"],
            None,
            views[0]["text"],
        ]
        page.evaluate("(undo[1](), first())")
        assert page.evaluate("listening()") == 0 and page.evaluate(LOOK) == [None] * 3
        page.evaluate("document.getElementById('there').replaceChildren()")
        names, elements = page.evaluate(AROUND)
        assert set(names) - set(before[0]) == {"first", "undo"} and elements == before[1]
        assert asked == []


def test_a_redraw_in_a_shadow_root_keeps_the_focus(shown):
    """There the document's `activeElement` is the host, whatever in it has the focus."""
    with shown(KernelLab("linear[int4]", rows=64, columns=64), 1100) as bridge:
        page = bridge.page
        page.evaluate("cleanup()")
        page.evaluate(TWO, bridge.widget._css)
        rows = "document.querySelector('#there > div').shadowRoot"
        bridge.until(f"{rows}.querySelectorAll('table input').length > 1")
        page.evaluate(f"[...{rows}.querySelectorAll('table input')].at(-1).focus()")
        label = page.evaluate(f"{rows}.activeElement.getAttribute('aria-label')")
        page.evaluate(f"{rows}.activeElement.tracked = true")
        page.keyboard.press("Space")  # ticks, and the table is drawn anew
        bridge.until(f"!{rows}.activeElement?.tracked")
        assert page.evaluate(f"{rows}.activeElement?.getAttribute('aria-label')") == label


def test_a_kernel_that_is_gone_is_said(shown, int4):
    """A button that does nothing would be all that a reader sees of it."""
    with shown(ModelCard(int4)) as bridge:
        alert, button = bridge.page.locator(".wb-alert"), bridge.page.get_by_role("button", name="Measure")
        bridge.until("document.querySelectorAll('dt').length > 3")
        assert not alert.is_visible()
        bridge.page.evaluate("lose()")
        assert "kernel was restarted" in alert.inner_text()
        bridge.page.evaluate("document.querySelector('.wb-alert').hidden = true")
        button.click()  # an error that nobody catches would be raised at the end
        assert "run the cell again" in alert.inner_text()


@pytest.mark.parametrize("kind, dark", VS_CODE.items())
def test_vs_codes_theme_is_followed_whatever_the_systems(shown, int4, kind, dark):
    with shown(ModelCard(int4)) as bridge:
        page = bridge.page
        page.emulate_media(color_scheme="light" if dark else "dark")
        page.evaluate("document.body.removeAttribute('data-jp-theme-light')")
        page.evaluate("kind => (document.body.dataset.vscodeThemeKind = kind)", kind)
        scheme = page.evaluate("getComputedStyle(document.querySelector('.wb')).colorScheme")
        assert scheme == ("dark" if dark else "light")
