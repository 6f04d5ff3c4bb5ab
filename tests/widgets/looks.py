"""Whether widgets that are shown together look as each does alone, and as they should."""

from __future__ import annotations

import re

from tests.widgets.test_modules import MODULES
from workbench.widgets import modules

#: Everything is laid out, in sight or not.
ALL_LAID_OUT = ".jp-Cell, .jp-Cell * { content-visibility: visible !important }"
#: What differs of a widget's section between all style sheets in force and its own alone: boxes of every element,
#: relative to the section, and computed values of all properties that any of the style sheets sets. Gives [elements,
#: style sheets of other widgets, differences].
ALONE = """([name, properties]) => {
  const own = `[data-wb="${name}"]`;
  const section = document.querySelector(`.wb${own}`);
  const every = [section, ...section.querySelectorAll(":not(option)")];
  const look = () => {
    const { x, y } = section.getBoundingClientRect();
    return every.map((each) => {
      const box = each.getClientRects().length ? each.getBoundingClientRect() : { x, y, width: 0, height: 0 };
      const style = getComputedStyle(each);
      const values = properties.map((property) => `${property}: ${style.getPropertyValue(property)}`);
      return [box.x - x, box.y - y, box.width, box.height].map((v, i) => `${"xywh"[i]}: ${v}`).concat(values);
    });
  };
  // Lengths within a tenth of a pixel: where a section stands on the page decides how its text is rounded.
  const numbers = (value) => (value.match(/-?\\d+(?:\\.\\d+)?/g) ?? []).map(Number);
  const same = (a, b) => a === b || (/^[xywh]: |px/.test(a) && a.replace(/[\\d.-]+/g, "") === b.replace(/[\\d.-]+/g, "")
    && numbers(a).length === numbers(b).length && numbers(a).every((v, i) => Math.abs(v - numbers(b)[i]) < 0.1));
  const sheets = [...document.querySelectorAll("style")].filter((each) => each.textContent.includes("[data-wb="));
  const others = sheets.filter((each) => !each.textContent.includes(own));
  const together = look();
  others.forEach((each) => (each.disabled = true));
  const alone = look();
  others.forEach((each) => (each.disabled = false));
  const differ = every.flatMap((each, i) => together[i].flatMap((value, k) => same(value, alone[i][k]) ? []
    : [`${each.tagName}.${each.getAttribute("class")}: ${value} together, ${alone[i][k]} alone`]));
  return [every.length, others.length, differ.slice(0, 20)];
}"""
#: What looks wrong: names of facts on several lines, scrollbars for a few pixels, buttons that something cuts off.
WRONG = """name => {
  const section = document.querySelector(`.wb[data-wb="${name}"]`);
  const seen = [...section.querySelectorAll("*")].filter((each) => each.checkVisibility());
  const clips = (each) => !["visible", "clip"].includes(getComputedStyle(each).overflowX);
  const right = (each) => each.getBoundingClientRect().right;
  const cut = (button) => {
    for (let at = button.parentElement; at !== section.parentElement; at = at.parentElement)
      if (clips(at) && right(button) > right(at) + 1) return true;
    return false;
  };
  const lines = (element) => {
    const text = document.createRange();
    text.selectNodeContents(element);
    return new Set([...text.getClientRects()].map((box) => Math.round(box.top))).size;
  };
  const stray = (each) => clips(each) && each.clientWidth > 20
    && [each.scrollWidth - each.clientWidth, each.scrollHeight - each.clientHeight].some((d) => d > 0 && d < 8);
  return [
    ...seen.filter((each) => each.matches("dt") && lines(each) > 1).map((each) => `${each.textContent}: several lines`),
    ...seen.filter(stray).map((each) => `stray scrollbar of ${each.tagName}.${each.getAttribute("class")}`),
    ...seen.filter((each) => each.matches("button") && cut(each)).map((each) => `${each.textContent}: cut`),
  ];
}"""


def looks_alone_as_together(page) -> None:
    """All six are shown: each has the layout that it has without the others, and nothing of it looks wrong."""
    page.add_style_tag(content=ALL_LAID_OUT)
    sheets = "".join(map(modules.style, MODULES))
    properties = sorted(set(re.findall(r"[{;](--[\w-]+|[a-z-]+):", sheets)))
    assert {"display", "position", "margin", "color", "--k0"} <= set(properties)
    for name in MODULES:
        elements, others, differences = page.evaluate(ALONE, [name, properties])
        assert others == len(MODULES) - 1 and elements > 20
        assert differences == [], "\n".join([name, *differences])
        wrong = page.evaluate(WRONG, name)
        assert wrong == [], "\n".join([name, *wrong])
