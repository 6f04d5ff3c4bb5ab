"""Text reads on its background in JupyterLab's themes, and in the system's where there is no JupyterLab."""

from __future__ import annotations

import pytest

from workbench.widgets import ModelCard

pytestmark = pytest.mark.browser

CONTRASTS = """() => {
  const pixel = Object.assign(document.createElement("canvas"), { width: 1, height: 1 });
  const canvas = pixel.getContext("2d", { willReadFrequently: true });
  const rgb = (colour, under) => {
    canvas.fillStyle = under; canvas.fillRect(0, 0, 1, 1);
    canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (c) => c.map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const section = document.querySelector(".wb");
  const under = getComputedStyle(section).backgroundColor;
  const probe = section.appendChild(document.createElement("i"));
  const found = {};
  for (const name of ["fg", "muted", "accent", "a", "b", "warn"]) {
    probe.style.color = `var(--wb-${name})`;
    const [one, other] = [rgb(getComputedStyle(probe).color, under), rgb(under, under)].map(light);
    found[name] = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
  }
  found.dark = light(rgb(under, under)) < 0.2;
  return found;
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("where", ["JupyterLab", "the system's"])
def test_contrast(shown, int4, theme, where):
    with shown(ModelCard(int4)) as bridge:
        page = bridge.page
        if where == "JupyterLab":
            bridge.theme(theme)
        else:
            page.emulate_media(color_scheme=theme)
            page.evaluate("document.body.removeAttribute('data-jp-theme-light')")
        found = page.evaluate(CONTRASTS)
        assert found.pop("dark") == (theme == "dark")
        assert {name: ratio for name, ratio in found.items() if ratio < 4.5} == {}
