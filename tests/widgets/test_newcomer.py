"""A newcomer's first hour: notebooks 01 to 05 in a real JupyterLab, each set to a checkpoint of one's own by one line
and run whole, then every widget used by keyboard alone, in both themes, in a narrow and in a wide window.

What is looked for: a cell that fails or warns, a control that Tab does not reach or whose focus one does not see, and
whatever does not fit its frame (`tests.widgets.overflow`). Pictures of all widgets lie in the test's folder.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import nbformat
import pytest

from tests.conftest import REPOSITORY
from tests.notebooks.lab import LabNotebook, jupyter_lab
from tests.notebooks.test_execution import OWN
from tests.support.chromium import page_of
from tests.widgets.keyboard import Keyboard
from tests.widgets.overflow import OUTPUTS, faults, faults_of_outputs, lay_all_out
from tests.widgets.screenshots import THEME
from workbench.runtime.device import adapter_missing

pytestmark = [pytest.mark.release, pytest.mark.browser, pytest.mark.notebook]

CHECKPOINT = "babyllama105-hf"
WIDTHS, THEMES = (700, 1400), ("light", "dark")
RUN_S = 900
SENTINEL = "print('a kernel', 'answers')"
#: Cells that a reader of docs/widgets.md adds: widgets that no notebook shows.
ADDED = {
    "01": (
        "from workbench.widgets import ModelCard, QuantizationExplorer\nQuantizationExplorer(CHECKPOINT)",
        "ModelCard(models['int4'])",
    )
}
#: The widgets that a notebook shows in the end, by the names of their modules.
SHOWS = {
    "01": ["menus", "explorer", "model_card"],
    "02": ["kernel_lab"],
    "03": ["generator"],
    "04": ["sweep_board", "sweep_board"],
    "05": ["precision_map"],
}
#: Of every code cell: how many have run, and what they have said that should not be there.
RAN = """() => {
  const cells = [...jupyterapp.shell.currentWidget.content.model.cells].filter((each) => each.type === "code");
  const said = cells.flatMap((cell) => cell.outputs.toJSON().map((output) => [cell.sharedModel.getSource(), output]))
    .filter(([, output]) => output.output_type === "error" || output.name === "stderr")
    .map(([source, output]) => `${source.slice(0, 60)}: ${output.evalue ?? output.text}`);
  return { all: cells.length, run: cells.filter((each) => each.executionCount).length, said };
}"""
SOURCE = "at => jupyterapp.shell.currentWidget.content.model.cells.get(at).sharedModel.getSource()"


@pytest.fixture(scope="module")
def server(tmp_path_factory, shared):
    """JupyterLab over the notebooks without outputs, with the checkpoint beside them as a folder."""
    pytest.importorskip("jupyterlab")
    if missing := adapter_missing():
        pytest.skip(missing)
    root = tmp_path_factory.mktemp("newcomer")
    folder, home = root / "notebooks", root / "home"
    folder.mkdir()
    home.mkdir()
    (folder / CHECKPOINT).symlink_to(shared / "models" / CHECKPOINT)
    for number in SHOWS:
        [path] = (REPOSITORY / "notebooks").glob(f"{number}_*.ipynb")
        notebook = nbformat.read(path, as_version=4)
        notebook.cells.insert(0, nbformat.v4.new_code_cell(SENTINEL, id="sentinel"))
        notebook.cells += [nbformat.v4.new_code_cell(source) for source in ADDED.get(number, ())]
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        nbformat.write(notebook, folder / f"{number}.ipynb")
    with jupyter_lab(folder, home) as found:
        yield found, folder


def change_the_line(notebook, cells: list, number: str) -> None:
    """The one line that names the model, by keyboard."""
    start = OWN.get(number)
    if start is None:  # its subject is kernels
        return
    [(index, row, line)] = [
        (at, row, line)
        for at, cell in enumerate(cells)
        for row, line in enumerate(cell.source.splitlines())
        if cell.cell_type == "code" and line.startswith(start)
    ]
    new = f'{start.partition(" = ")[0]} = "{CHECKPOINT}"'
    Keyboard(notebook, index, notebook.cell(index)).select_cell()
    keyboard = notebook.page.keyboard
    for key in ("Enter", "Control+Home", *["ArrowDown"] * row, "Home", "Shift+End"):
        keyboard.press(key)
    keyboard.insert_text(new)
    keyboard.press("Escape")
    assert notebook.page.evaluate(SOURCE, index).splitlines()[row] == new, line


def run_all(notebook) -> None:
    """By the palette of commands, as a keyboard reaches it; every cell runs, and none fails or warns."""
    page = notebook.page
    page.keyboard.press("Escape")
    page.keyboard.press("Control+Shift+c")
    page.locator(".lm-CommandPalette-input").filter(visible=True).wait_for()
    page.keyboard.insert_text("Run All Cells")
    page.locator(".lm-CommandPalette-item", has_text="Run All Cells").first.wait_for()
    page.keyboard.press("Enter")
    done = f"() => {{ const f = ({RAN})(); return f.said.some((s) => /Error|rror:/.test(s)) || f.run === f.all; }}"
    page.wait_for_function(done, timeout=1000 * RUN_S, polling=1000)
    found = page.evaluate(RAN)
    assert found["said"] == [] and found["run"] == found["all"]


def settled(page) -> None:
    """Everything has its place: sizes are observed and drawn anew."""
    page.evaluate(
        "() => new Promise((r) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(r, 400))))"
    )


def generate(keys: Keyboard, turn: int) -> None:
    keys.to("^Generate$")
    keys.start("Enter")
    keys.to("^tokens of")
    keys.press("Home", "ArrowRight", "ArrowRight", "Enter")
    keys.section.locator("[data-at='2'][aria-selected=true]").first.wait_for()


def explore(keys: Keyboard, turn: int) -> None:
    before = keys.section.get_attribute("data-drawn")
    keys.to("^block$")
    keys.press("ArrowLeft" if turn % 2 else "ArrowRight")
    keys.section.and_(keys.page.locator(f"[data-drawn]:not([data-drawn='{before}'])")).wait_for()


def measure(keys: Keyboard, turn: int) -> None:
    keys.to("^Measure")
    keys.start("Enter")
    keys.to("^timeline")
    keys.press("Home", "ArrowRight")
    assert keys.section.locator(".wb-said").inner_text().strip()


def edit(keys: Keyboard, turn: int) -> None:
    versions = int(keys.section.get_attribute("data-versions") or 0)
    keys.to("^Compare$")
    keys.start("Enter")
    keys.to("Tab indents")
    keys.press("Control+End", "Enter")
    keys.page.keyboard.insert_text(f"// the newcomer's remark {turn}")
    keys.start("Control+Enter")
    keys.section.and_(keys.page.locator(f"[data-versions='{versions + 1}']")).wait_for()


def choose_rows(keys: Keyboard, turn: int) -> None:
    head = keys.section.locator("th", has_text="perplexity")
    order = head.get_attribute("aria-sort")
    keys.to("^perplexity")
    keys.press("Enter")
    head.and_(keys.page.locator(f"[aria-sort]:not([aria-sort='{order}'])")).wait_for()
    picked = keys.section.locator(".wb-picked")
    before = picked.count()
    for _ in range(12):
        keys.step()
        if (keys.focused() or {}).get("type") == "checkbox" and keys.section.locator("tbody :focus").count():
            break
    keys.press("ArrowDown", "Space")
    keys.page.wait_for_function(
        "([s, n]) => s.querySelectorAll('.wb-picked').length !== n",
        arg=[keys.section.element_handle(), before],
    )


def allocate(keys: Keyboard, turn: int) -> None:
    before = keys.section.get_attribute("data-drawn")
    keys.to("^budget$")
    keys.press("PageDown" if turn % 2 else "PageUp")
    keys.section.and_(keys.page.locator(f"[data-drawn]:not([data-drawn='{before}'])")).wait_for()
    pinned = keys.section.locator(".wb-pinned")
    if pinned.count():
        keys.to("^Unpin all$")
        keys.press("Enter")
        pinned.first.wait_for(state="detached")
    keys.to(r"^all of |^layers\.|^embedding")
    keys.press("ArrowDown", "ArrowDown", "ArrowRight", "+")
    pinned.first.wait_for()
    marks = keys.section.locator(".wb-mark-measured").count()
    keys.to("^Measure this allocation")
    keys.start("Enter", wanted="idle")
    keys.section.locator(".wb-mark-measured").nth(marks).wait_for(state="attached")


def choose_in_menus(keys: Keyboard, turn: int) -> None:
    output = keys.section
    before = output.locator("[data-format]").get_attribute("data-format")
    keys.to("^format$")
    # JupyterLab takes arrows of a closed list for itself.
    keys.press("Space", "ArrowUp" if turn % 2 else "ArrowDown", "Enter")
    output.locator(f"[data-format]:not([data-format='{before}'])").wait_for()


USES = {
    "menus": choose_in_menus,
    "generator": generate,
    "explorer": explore,
    "model_card": measure,
    "kernel_lab": edit,
    "sweep_board": choose_rows,
    "precision_map": allocate,
}


def shown_widgets(notebook, cells: list) -> list[tuple[int, object, str]]:
    """(cell, section, module) of every widget, in order, and of notebook 01's own controls."""
    found = []
    for index, cell in enumerate(cells):
        if "explorer = widgets.VBox(" in cell.source:
            found.append((index, notebook.cell(index).locator(OUTPUTS).first, "menus"))
        for section in notebook.cell(index).locator(".wb[data-wb]").all():
            found.append((index, section, section.get_attribute("data-wb")))
    return found


def look(page, theme: str, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 1000})
    page.evaluate(THEME, f"JupyterLab {theme.capitalize()}")
    page.locator(f"body[data-jp-theme-light={str(theme == 'light').lower()}]").wait_for(state="attached")
    settled(page)


def take(page, section, path: Path) -> None:
    """A picture of all of a widget: what is not in the window would have JupyterLab's bars over it."""
    before = page.viewport_size
    page.set_viewport_size({**before, "height": 400 + round(section.bounding_box()["height"])})
    settled(page)
    section.screenshot(path=path, animations="disabled")
    page.set_viewport_size(before)


@pytest.mark.timeout(2400)
@pytest.mark.parametrize("number", SHOWS)
def test_a_newcomer(browser, server, number, tmp_path):
    from playwright.sync_api import TimeoutError

    (address, token), folder = server
    cells = nbformat.read(folder / f"{number}.ipynb", as_version=4).cells
    with page_of(browser, "about:blank") as page:
        page.set_viewport_size({"width": 1400, "height": 1000})
        notebook = LabNotebook(page, address, token, f"{number}.ipynb")
        notebook.wait_for_kernel(0, "a kernel answers")
        change_the_line(notebook, cells, number)
        run_all(notebook)
        page.keyboard.press("Control+b")  # the list of files takes a third of a narrow window
        lay_all_out(page)
        drawn = [name for name in SHOWS[number] if name != "menus"]
        page.wait_for_function(
            "n => document.querySelectorAll('.jp-Cell .wb[data-wb]').length >= n", arg=len(drawn)
        )
        widgets = shown_widgets(notebook, cells)
        assert [name for *_, name in widgets] == SHOWS[number]
        found: list[str] = []
        for turn, (theme, width) in enumerate(itertools.product(THEMES, WIDTHS)):
            look(page, theme, width)
            where = f"{theme}, {width} px"
            found += [f"{where}: {each}" for each in faults_of_outputs(notebook, range(len(cells)))]
            for at, (index, section, name) in enumerate(widgets):
                keys = Keyboard(notebook, index, section)
                try:
                    USES[name](keys, turn)
                except (AssertionError, TimeoutError) as error:  # the others are tried all the same
                    found.append(f"{where}: {name} cannot be used: {error}")
                stops = keys.walk()
                assert len(stops) >= 4
                found += [
                    f"{where}: {name}: focus unseen: {s}" for s in stops if not s["seen"] or not s["inside"]
                ]
                settled(page)
                found += [f"{where}: {name}, used: {each}" for each in faults(section)]
                take(page, section, tmp_path / f"{name}-{at}-{theme}-{width}.png")
        page.evaluate("() => jupyterapp.shell.currentWidget.sessionContext.shutdown()")
    (tmp_path / "faults.txt").write_text("\n".join(found), encoding="utf-8")
    assert found == [], "\n".join(found)


def test_the_checkpoint_is_named_as_the_readme_says():
    """One line, a folder: `notebooks/*.ipynb` say so where it stands."""
    for number, start in OWN.items():
        [path] = (REPOSITORY / "notebooks").glob(f"{number}_*.py")
        assert re.search(
            rf"^{re.escape(start)} +#.*the one line to change$", Path(path).read_text("utf-8"), re.M
        )
