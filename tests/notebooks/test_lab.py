"""The first notebook in a real JupyterLab: its first cells run, and its controls change what it shows."""

from __future__ import annotations

import nbformat
import pytest

from tests.conftest import REPOSITORY
from tests.notebooks.lab import LabNotebook, jupyter_lab
from tests.support.chromium import browser_page

NAME = "01_quantization_accuracy.ipynb"
EXPLORER = "explorer = widgets.VBox("


@pytest.fixture
def fresh(tmp_path):
    """A folder with the notebook without outputs, behind a cell that tells when a kernel answers; its code cells."""
    notebook = nbformat.read(REPOSITORY / "notebooks" / NAME, as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell("print('a kernel', 'answers')", id="sentinel"))
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    folder = tmp_path / "notebooks"
    folder.mkdir()
    nbformat.write(notebook, folder / NAME)
    return folder, [i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"], notebook.cells


@pytest.mark.release
@pytest.mark.notebook
@pytest.mark.browser
def test_controls_change_the_picture(fresh, tmp_path):
    pytest.importorskip("jupyterlab")
    folder, code, cells = fresh
    [explorer] = [i for i in code if EXPLORER in cells[i].source]
    home = tmp_path / "home"
    home.mkdir()
    with jupyter_lab(folder, home) as (address, token), browser_page("about:blank") as page:
        page.set_viewport_size({"width": 1280, "height": 1000})
        notebook = LabNotebook(page, address, token, NAME)
        notebook.wait_for_kernel(code[0], "a kernel answers")
        for index in (i for i in code[1:] if i <= explorer):
            notebook.run_and_wait(index)
        output = notebook.cell(explorer).locator(".jp-OutputArea-output").first
        shown = output.locator("[data-format='int4/128'][data-method='rtn']")
        shown.wait_for()
        picture = output.locator("img")
        before, figures = picture.get_attribute("src"), shown.inner_text()

        # By label, as a screen reader finds them.
        page.get_by_label("format").select_option("int2")
        output.locator("[data-format='int2/128']").wait_for()
        page.get_by_label("block").select_option("channel")
        output.locator("[data-format='int2/channel']").wait_for()
        page.get_by_label("method").select_option("grid")
        changed = output.locator("[data-format='int2/channel'][data-method='grid']")
        changed.wait_for()
        page.wait_for_function("([img, old]) => img.src !== old", arg=[picture.element_handle(), before])
        page.wait_for_function("img => img.naturalWidth > 300", arg=picture.element_handle())
        assert changed.inner_text() != figures and " dB" in changed.inner_text()
        assert page.get_by_role("alert").filter(visible=True).count() == 0
        assert (
            notebook.cell(explorer).locator("[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
        )
        picture.scroll_into_view_if_needed()
        page.screenshot(path=tmp_path / "lab.png")
