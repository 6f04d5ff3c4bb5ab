"""The widgets in JupyterLab and in Notebook 7, with a real kernel and the real engine.

One server for all. In JupyterLab a Stop while a cell keeps the kernel busy, an interrupt and a page that is loaded
again; for a release every widget's main path and the export besides, and in Notebook 7 the main paths alone.
"""

from __future__ import annotations

import re

import nbformat
import pytest

from tests.support.chromium import page_of
from tests.widgets.front_end import NAME, opened, served
from tests.widgets.looks import looks_alone_as_together
from workbench.runtime.device import adapter_missing

pytestmark = [pytest.mark.browser, pytest.mark.notebook]

CELLS = [
    """
from workbench.assets import demo_model_path
from workbench.widgets import Generator, KernelLab, ModelCard, PrecisionMap, QuantizationExplorer, SweepBoard
g = Generator(demo_model_path(), max_new_tokens=400)
g""",
    """
import time
print("busy")
while True:
    sum(range(1000))""",
    "print('picked', g.selected.id, g.state, len(g.run.continuations[0].tokens))",
    "e = QuantizationExplorer(demo_model_path(), 'model.layers.3.mlp.down_proj.weight'); e",
    "c = ModelCard(demo_model_path()); c",
    '''
import time
from pathlib import Path
from workbench.sweeps.sweep import Sweep
Path("few.toml").write_text("""
[sweep]
max_windows = 1
[texts.stories]
file = "embedded"
[grid]
model = "embedded"
format = "int4"
protocol = "disjoint-128"
""")
s = SweepBoard(Sweep.read("few.toml", output=f"runs/{time.time_ns()}"), processes=1)
s''',
    "print('rows', list(s.selected['format']), s.state)",
    """
from eval.texts import encode, load_text
from workbench.assets import calibration_text
from workbench.models.tokenizer import load_tokenizer
tokens = encode(load_tokenizer(demo_model_path()), load_text(calibration_text()), "disjoint-8")
options = {"protocol": "disjoint-8", "formats": ["int4", "int2"], "max_windows": 2, "bits": 3}
m = PrecisionMap(None, demo_model_path(), calibration=tokens, **options)
m""",
    """
import json
from ipywidgets import Widget
print("state", len(json.dumps(Widget.get_manager_state())))""",
    "k = KernelLab('linear[int4]', variants=['gemv'], rows=256, columns=256, rounds=3); k",
]
GENERATOR, BUSY, PICKED, EXPLORER, CARD, BOARD, ROWS, MAP, STATE, LAB = range(1, 11)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    pytest.importorskip("jupyterlab")
    if missing := adapter_missing():
        pytest.skip(missing)
    folder = tmp_path_factory.mktemp("served")
    with served(folder, CELLS) as found:
        yield found, folder / "notebooks" / NAME


def widget(notebook, index: int):
    return notebook.cell(index).locator(".wb")


def state(section, wanted: str, seconds: float = 45):
    """Wait for a widget's state."""
    section.and_(section.page.locator(f"[data-state='{wanted}']")).wait_for(timeout=1000 * seconds)


def explore_and_measure(notebook) -> None:
    """Explorer and card: open, change, measure."""
    for index in (EXPLORER, CARD):
        notebook.run_and_wait(index)
    section = widget(notebook, EXPLORER)
    section.get_by_label("block", exact=True).first.press("ArrowLeft")
    section.and_(notebook.page.locator("[data-drawn='int4/64 rtn all']")).wait_for()
    section = widget(notebook, CARD)
    section.get_by_role("button", name="Measure").click()
    state(section, "done")
    assert section.locator(".wb-dispatch").count() > 40


def allocate(notebook) -> str:
    """The map: measure sensitivities, drag, pin, measure; returns the chosen size that it shows."""
    notebook.run_and_wait(MAP)
    section = widget(notebook, MAP)
    section.get_by_role("button", name="Measure sensitivities").click()
    state(section, "costs")
    state(section, "idle")
    before = section.get_attribute("data-drawn")
    section.get_by_label("budget", exact=True).press("PageUp")
    section.and_(notebook.page.locator(f"[data-drawn]:not([data-drawn='{before}'])")).wait_for()
    section.get_by_role("button", name="layers.2.mlp.down_proj: ").press("+")
    section.get_by_role("button", name="layers.2.mlp.down_proj: int4/128").and_(
        section.locator(".wb-pinned")
    ).wait_for()
    section.get_by_role("button", name="Measure this allocation").click()
    section.locator(".wb-mark-measured").nth(2).wait_for(state="attached")
    return section.get_attribute("data-drawn")


def edit_a_kernel(notebook) -> None:
    """Kernel lab: compare, an edit that does not compile, one that passes and is timed."""
    notebook.run_and_wait(LAB)
    section = widget(notebook, LAB)
    section.get_by_role("button", name="Compare").click()
    state(section, "done")
    text = section.locator(".wb-editor textarea")
    original = text.input_value()
    # The text is transparent over its own colours: their letters must lie on each other.
    metrics = "['font', 'lineHeight', 'padding', 'letterSpacing', 'tabSize']"
    looks = f"each => {metrics}.map(name => getComputedStyle(each)[name])"
    assert text.evaluate(looks) == section.locator(".wb-colours").evaluate(looks)
    for edited, status in ((original.replace("= id.y;", "= id.q;"), "compile error"), (original, "passed")):
        text.fill(edited)
        text.press("Control+Enter")  # runs the text, and not the notebook's cell
        version = section.locator("tr.wb-here", has_text=status)
        version.get_by_role("button", name=re.compile(r"^v\d$")).wait_for()
        state(section, "done")
    section.locator("tr[data-row=v2] .wb-sample").nth(2).wait_for(state="attached")


def sweep(notebook, busy: bool) -> None:
    """Board: start, wait for both cells, select one. busy: stopped while a cell runs, then resumed."""
    notebook.run_and_wait(BOARD)
    section = widget(notebook, BOARD)
    section.locator("tr[data-status='waiting']").nth(1).wait_for()
    if busy:
        prompt = notebook.cell(BUSY).locator(".jp-InputPrompt")
        notebook.run(BUSY)
        prompt.get_by_text("[*]:").wait_for()
        section.get_by_role("button", name="Start").click()
        section.get_by_role("button", name="Stop").click()
        state(section, "stopped")
        assert prompt.text_content() == "[*]:"  # out of sight, it has no inner text
        notebook.page.get_by_role("button", name="Interrupt the kernel").click()
    section.get_by_role("button", name=re.compile("Start|Resume")).click()
    state(section, "done", 120)
    assert section.locator("tr[data-status='done']").count() == 2
    section.get_by_role("checkbox", name="int4").press("Space")
    section.locator(".wb-picked").wait_for()
    notebook.run_and_wait(ROWS)
    notebook.cell(ROWS).get_by_text("rows ['int4'] done", exact=True).wait_for()


def stop_while_busy(notebook) -> str:
    """Generator: the first click on Stop, while a cell keeps the kernel busy; then an interrupt. Returns the text."""
    notebook.run_and_wait(GENERATOR)
    section = widget(notebook, GENERATOR)
    notebook.run(BUSY)
    notebook.cell(BUSY).get_by_text("busy", exact=True).wait_for()
    section.get_by_role("button", name="Generate").click()
    section.locator("[data-at='5']").wait_for(timeout=120_000)  # it streams all the same, once compiled
    section.get_by_role("button", name="Stop").click()
    state(section, "stopped")
    assert notebook.cell(BUSY).locator(".jp-InputPrompt").inner_text() == "[*]:"
    section.locator("[data-at='3']").click()

    # An interrupt leaves device and kernel usable.
    notebook.page.get_by_role("button", name="Interrupt the kernel").click()
    notebook.cell(BUSY).get_by_text("KeyboardInterrupt", exact=False).first.wait_for()
    notebook.run(PICKED)
    printed = notebook.cell(PICKED).get_by_text(re.compile(r"picked \d+ stopped \d+"))
    printed.wait_for()
    shown = int(printed.inner_text().split()[-1])
    assert 5 < shown == section.locator("[data-at]").count() < 400
    return section.locator(".wb-text").inner_text()


def load_again(notebook, text: str) -> None:
    """Save and load the page: the kernel still has everything, so the generator shows its text."""
    page = notebook.page
    page.keyboard.press("Escape")
    page.keyboard.press("Control+s")
    page.locator(".jp-mod-dirty").wait_for(state="detached")
    page.reload()
    section = widget(notebook, GENERATOR)
    section.locator("[data-at='3'][aria-selected=true]").wait_for()
    assert section.locator(".wb-text").inner_text() == text


def write_three(notebook, before: str = "stopped") -> None:
    section = widget(notebook, GENERATOR)
    state(section, before)
    section.get_by_label("new tokens").fill("3")
    section.get_by_role("button", name="Generate").click()
    state(section, "done")
    assert section.locator("[data-at]").count() == 3


def restart(notebook) -> None:
    """The kernel restarts: the widget says so by itself, and does nothing without a word, until its cell runs again."""
    section, page = widget(notebook, GENERATOR), notebook.page
    alert = section.get_by_role("alert")
    assert not alert.is_visible()
    page.evaluate("() => jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
    alert.get_by_text("run the cell again").wait_for()
    section.get_by_role("button", name="Generate").click()  # no uncaught error
    notebook.wait_for_kernel(0, "a kernel answers")
    notebook.run(GENERATOR)
    alert.wait_for(state="hidden", timeout=120_000)
    write_three(notebook, "idle")


@pytest.mark.release
def test_a_widget_in_jupyterlab(browser, server):
    with opened(browser, server[0]) as notebook:
        text = stop_while_busy(notebook)
        load_again(notebook, text)
        write_three(notebook)
        restart(notebook)


@pytest.mark.release
def test_all_widgets_in_jupyterlab(browser, server, tmp_path):
    found, file = server
    with opened(browser, found) as notebook:
        page = notebook.page
        text = stop_while_busy(notebook)
        explore_and_measure(notebook)
        chosen = allocate(notebook)
        edit_a_kernel(notebook)
        sweep(notebook, busy=True)
        looks_alone_as_together(notebook.page)
        notebook.run_and_wait(STATE)
        size = int(notebook.cell(STATE).get_by_text(re.compile("state [0-9]+")).inner_text().split()[1])
        assert size < 300_000

        load_again(notebook, text)
        widget(notebook, EXPLORER).and_(page.locator("[data-drawn='int4/64 rtn all']")).wait_for()
        widget(notebook, CARD).locator(".wb-dispatch").nth(40).wait_for(state="attached")
        section = widget(notebook, MAP)
        section.and_(page.locator(f"[data-drawn='{chosen}']")).wait_for()
        assert (
            section.locator(".wb-mark-measured").count() == 3 and section.locator(".wb-pinned").count() == 1
        )
        lab = widget(notebook, LAB)
        lab.locator("tr[data-row=v1]", has_text="compile error").wait_for()
        lab.locator("tr[data-row=v2] .wb-sample").nth(2).wait_for(state="attached")
        widget(notebook, BOARD).locator(".wb-picked[data-status='done']").wait_for()
        write_three(notebook)
    exported(browser, file, text, tmp_path)


def exported(browser, file, text: str, tmp_path) -> None:
    """The saved notebook is small and reads offline, without a kernel and without scripts from elsewhere."""
    nbconvert = pytest.importorskip("nbconvert")
    assert file.stat().st_size < 300_000
    notebook = nbformat.read(file, as_version=4)
    body, _ = nbconvert.HTMLExporter().from_notebook_node(notebook)
    (tmp_path / "page.html").write_text(body, encoding="utf-8")
    with page_of(browser, "about:blank") as page:
        page.route(re.compile("^https?:"), lambda route: route.abort())
        page.goto((tmp_path / "page.html").as_uri())
        seen = page.locator("body").inner_text()
    assert "int4/128" in seen and "worst blocks" in seen  # as displayed, before the slider was moved
    assert "key/value" in seen or "weights read a token" in seen
    assert "Nothing has run: press Compare" in seen  # likewise


@pytest.mark.release
def test_notebook_7(browser, server):
    pytest.importorskip("notebook", minversion="7")
    found, _ = server
    with opened(browser, found, app="notebooks") as notebook:
        notebook.run_and_wait(GENERATOR)
        section = widget(notebook, GENERATOR)
        section.get_by_label("new tokens").fill("5")
        section.get_by_role("button", name="Generate").click()
        state(section, "done")
        # A view that was drawn anew has the state at once, and the tokens when it has asked for them.
        section.locator("[data-at='4']").wait_for(state="attached")
        assert section.locator("[data-at]").count() == 5
        explore_and_measure(notebook)
        allocate(notebook)
        edit_a_kernel(notebook)
        sweep(notebook, busy=False)
