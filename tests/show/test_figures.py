"""Labels keep apart; figures follow a page's theme and read without one."""

from __future__ import annotations

import base64
import io
import itertools
import re

import numpy as np
import pytest
from matplotlib.image import imread
from matplotlib.text import Text

from tests.support.chromium import browser_page
from workbench.show.figures import Bounds, Picture, label_apart


def boxes(picture, notes) -> list[Bounds]:
    picture.png()  # as it is drawn
    renderer = picture.figure.canvas.get_renderer()
    return [Bounds(*Text.get_window_extent(note, renderer).extents) for note in notes]


def test_labels_stand_apart_inside_the_axes_and_those_that_matter_first():
    """Five points so close that labels at one offset would cover each other, and many that find no room."""
    picture = Picture(4, 3)
    [axes] = picture.axes
    places = [(1 + n / 50, 2 - n / 60) for n in range(5)]
    axes.plot(*zip(*places, strict=True), "o")
    axes.set(xlim=(0, 3), ylim=(0, 4))
    notes = label_apart(axes, [(f"int{n}/32", place) for n, place in enumerate(places)])
    assert [note.get_text() for note in notes] == [f"int{n}/32" for n in range(5)]
    found, inside = boxes(picture, notes), Bounds(*axes.get_window_extent().extents)
    assert not any(one.overlaps(other) for one, other in itertools.combinations(found, 2))
    assert all(box.within(inside) for box in found)
    crowd = label_apart(axes, [(f"label {n}", (1.5, 2.0)) for n in range(200)])
    assert 5 < len(crowd) < 200 and crowd[0].get_text() == "label 0"


def test_a_figure_follows_the_theme_and_reads_without_styles():
    picture = Picture(3, 2)
    picture.axes[0].plot([0, 1], color="#0072B2", lw=4)
    page = picture._repr_html_()
    style, image = re.fullmatch(r"(<style>.*</style>)(<img .*>)", page, re.DOTALL).groups()
    assert '[data-jp-theme-light="false"]' in style and "@media screen" in style
    stored = base64.b64decode(re.search(r"base64,([^\"]+)", image)[1])
    assert stored.startswith(b"\x89PNG") and picture._repr_png_().startswith(b"\x89PNG")
    pixels = imread(io.BytesIO(stored))[..., :3]
    assert (pixels[0, 0] == 1).all()  # on white
    blue = np.abs(pixels - np.array([0, 0x72, 0xB2]) / 255).max(-1) < 0.02  # few colours hit it all the same
    assert blue.sum() > 200
    assert picture.svg().startswith("<svg") and "<?xml" not in picture.svg()
    assert Picture(3, 2).html('a "b" <c>').count('alt="a &quot;b&quot; &lt;c&gt;"') == 1


@pytest.mark.parametrize("reach", [0.004, 0.02, 0.07, 0.2, 1.3, 900])
def test_numbers_below_narrow_panels_keep_apart(reach):
    """As many panels as studies put side by side, on ranges whose numbers are long."""
    picture = Picture(8.6, 2.7, columns=3)
    for axes in picture.axes:
        axes.set(xlim=(-reach, reach), xlabel="weight", ylabel="weights in a bin", title="a title")
    for axes in picture.axes:
        found = boxes(picture, axes.get_xticklabels())
        assert len(found) >= 3
        assert not any(one.overlaps(other) for one, other in itertools.combinations(found, 2))
        assert all(right.x0 - left.x1 > 3 for left, right in itertools.pairwise(sorted(found)))


@pytest.mark.browser
def test_a_dark_page_turns_lightness_and_paper_does_not():
    shown = "getComputedStyle(document.querySelector('img')).filter"
    with browser_page("about:blank") as page:
        page.set_content(f"<body>{Picture(3, 2).html('a')}</body>")
        assert page.evaluate(shown) == "none"
        vs_code = [f"data-vscode-theme-kind=vscode-{kind}" for kind in ("dark", "high-contrast")]
        for theme in ("data-jp-theme-light=false", *vs_code, "data-theme=dark"):
            name, value = theme.split("=")
            page.evaluate("([name, value]) => document.body.setAttribute(name, value)", [name, value])
            assert page.evaluate(shown) == "invert(1) hue-rotate(180deg)"
            page.emulate_media(media="print")
            assert page.evaluate(shown) == "none"
            page.emulate_media(media="screen")
            page.evaluate("name => document.body.removeAttribute(name)", name)
