"""Whether everything that a cell shows is to be seen: nothing beyond its frame, no text cut off, and what has to be
scrolled can be scrolled by keyboard and says what it is."""

from __future__ import annotations

from tests.widgets.looks import ALL_LAID_OUT

#: Of an element (a cell's output, a widget's section): what is wrong, each as a line. Text is measured itself, not its
#: element; what lies in a part that scrolls is judged against that part, and the part against what is around it.
FAULTS = """frame => {
  const [faults, told] = [new Set(), new Set()];
  const style = (each) => getComputedStyle(each);
  const named = (each) => {
    const classes = each.getAttribute("class");
    return each.tagName.toLowerCase() + (classes ? "." + classes.trim().replace(/\\s+/g, ".") : "");
  };
  const words = (each) => (each.textContent ?? "").trim().replace(/\\s+/g, " ").slice(0, 50);
  const hidden = (each) => !each.checkVisibility({ visibilityProperty: true });
  const unseen = (each) => hidden(each) || each.closest(".wb-unseen, title, desc");
  // An editor scrolls with the cursor of the text in it.
  const announced = (each) => each.querySelector("textarea") || (each.tabIndex >= 0 && (each.matches("textarea")
    || ((each.getAttribute("aria-label") || each.getAttribute("aria-labelledby"))
      && (each.getAttribute("role") || each.matches("pre")))));
  const reached = (each) => each.tabIndex >= 0 || each.querySelector("button, input, select, textarea, [tabindex='0']");
  const judge = (element, box, what) => {
    if (box.width < 1 || box.height < 1) return;
    const slack = style(element).whiteSpace === "pre-wrap" ? 9 : 1.5; // a space hangs at the end of a line
    for (let at = element; at !== frame.parentElement; at = at.parentElement) {
      const { overflowX, overflowY } = style(at);
      const inner = at.getBoundingClientRect();
      // A scrollbar stands inside its box.
      const drawn = at instanceof SVGElement || !at.clientWidth;
      const right = drawn ? inner.right : inner.left + at.clientLeft + at.clientWidth;
      const wide = box.right > right + slack || box.left < inner.left - slack;
      const high = box.bottom > inner.bottom + 2 || box.top < inner.top - 2;
      if (["auto", "scroll"].includes(overflowX) && at.scrollWidth > at.clientWidth + 1 && wide) {
        if (announced(at) || told.has(at)) return;
        told.add(at);
        faults.add(`${named(at)} hides columns, is no stop of Tab or has no name: ${what}`);
        return;
      }
      if (["auto", "scroll"].includes(overflowY) && at.scrollHeight > at.clientHeight + 1 && high) {
        if (!reached(at)) faults.add(`${named(at)} scrolls, and Tab does not reach it: ${what}`);
        return;
      }
      if (["hidden", "clip"].includes(overflowX) && wide && at !== element)
        return void faults.add(`cut by ${named(at)}: ${what}`);
      if (["hidden", "clip"].includes(overflowX) && wide && at.scrollWidth > at.clientWidth + 1)
        return void faults.add(`cut by itself, ${named(at)}: ${what}`);
      if (["hidden", "clip"].includes(overflowY) && high) return void faults.add(`cut by ${named(at)}: ${what}`);
      if (at === frame && (wide || (high && frame.matches(".wb"))))
        return void faults.add(`beyond ${named(frame)} by ${Math.round(box.right - right)} px: ${what}`);
    }
  };
  for (const each of [frame, ...frame.querySelectorAll("*")]) {
    if (each.matches("style, script, option, optgroup, title, desc, defs *") || unseen(each)) continue;
    if (each.matches("button, input, select, textarea, img, canvas, svg, progress, meter"))
      judge(each.parentElement, each.getBoundingClientRect(), `${named(each)} ${words(each)}`);
    const written = each.matches("input:not([type=checkbox], [type=radio], [type=range])");
    if (written && each.scrollWidth > each.clientWidth + 1)
      faults.add(`its value is cut: ${named(each)} ${each.value}`);
    if (each.matches("textarea") || each.closest("select")) continue;
    for (const node of each.childNodes) {
      if (node.nodeType !== Node.TEXT_NODE || !node.data.trim()) continue;
      const text = document.createRange();
      text.selectNodeContents(node);
      for (const box of text.getClientRects()) judge(each, box, `${named(each)} "${node.data.trim().slice(0, 50)}"`);
    }
  }
  return [...faults];
}"""
#: What a cell shows, without what JupyterLab puts around it.
OUTPUTS = ".jp-OutputArea-output"


def faults(locator) -> list[str]:
    """What is wrong with how an element shows itself, see `FAULTS`."""
    return locator.evaluate(FAULTS)


def lay_all_out(page) -> None:
    """JupyterLab leaves out cells that are not in sight, which have no boxes then."""
    page.add_style_tag(content=ALL_LAID_OUT)


def faults_of_outputs(notebook, cells: range) -> list[str]:
    """Of everything that these cells show, each with the number of its cell."""
    found = []
    for index in cells:
        for output in notebook.cell(index).locator(OUTPUTS).all():
            found += [f"cell {index}: {each}" for each in faults(output)]
    return found
